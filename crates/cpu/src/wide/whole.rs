//! The loop of a long body that is emitted once, for whole vectors: emitting it again, with masks, would take as long as all
//! else, and AVX2 has none that are quick.
//!
//! What is left in the end, less than a vector, goes through buffers: its elements are copied there, the places are made to
//! point there, the body runs once more, and its results are copied back.
//!
//! Invariants: only elements that exist are read and written. Lanes that do not exist hold copies of one that does, so they
//! need no rare work that no element needs.

use super::Gen;
use super::asm::{Alu, Cond, Mem, R11, R15, RAX, RCX, RDX};
use super::body::Body;
use super::program::{Base, PlaceId, Program, Slot, Step, What};
use super::rows::{Caching, main_loop};
use smallvec::SmallVec;

/// A place whose elements go through a buffer.
struct Moved {
    place: PlaceId,
    buffer: Slot,
    loaded: bool,
    /// Where the address and the stride of what is stored are kept.
    stored: Option<[Slot; 2]>,
}

/// Emits the loop over all elements from RAX to `end`. The places are of no use after it.
pub(super) fn emit(g: &mut Gen<'_>, program: &Program, homes: &[Option<Slot>], end: Slot) {
    let (finish, exit) = (g.a.label(), g.a.label());
    let left = g.rest_slot();
    g.a.mov_imm(RCX, 0);
    g.a.store(left.mem(), RCX);
    let enter = main_loop(g, program, homes, 1, end, Caching::Plain);
    g.a.compare_mem(left.mem(), 0);
    g.a.jump_if(Cond::NotEqual, finish);
    let mut body = Body::new(g, program, homes, 1, false);
    body.g.a.load(RCX, end.mem());
    body.g.a.alu(Alu::Sub, RCX, RAX);
    body.g.a.jump_if(Cond::Equal, exit);
    body.g.a.store(left.mem(), RCX);
    let moved = moved(body.g, program);
    moved.iter().for_each(|moved| body.move_to_buffer(moved));
    body.g.a.jump(enter);
    body.g.a.bind(finish);
    for Moved { place, buffer, stored, .. } in &moved {
        if let Some([address, stride]) = stored {
            body.g.a.load(RCX, address.mem());
            body.g.a.load(RDX, stride.mem());
            body.copy_strided(*buffer, program.places[*place as usize].dtype.size(), false);
        }
    }
    g.a.bind(exit);
}

/// The places whose elements the loop moves along.
fn moved(g: &mut Gen<'_>, program: &Program) -> SmallVec<[Moved; 8]> {
    let mut all: SmallVec<[Moved; 8]> = SmallVec::new();
    for (n, place) in (0..).zip(&program.places) {
        let uses = |what: What| program.nodes.iter().any(|node| node.what == what);
        let (loaded, stored) = (uses(What::Load(n)), uses(What::Store(n)));
        if (loaded || stored) && matches!(place.step, Step::Unit | Step::Strided(_)) {
            let stored = stored.then(|| [g.word_slot(), g.word_slot()]);
            all.push(Moved { place: n, buffer: g.vector_slot(), loaded, stored });
        }
    }
    all
}

impl Body<'_, '_, '_> {
    /// Copies the elements from RAX on that exist to a buffer, and makes the place point to it.
    fn move_to_buffer(&mut self, moved: &Moved) {
        let place = self.places[moved.place as usize];
        let size = place.dtype.size();
        let inside = moved.buffer.mem();
        self.strided_start(0, moved.place);
        if let Some([address, stride]) = moved.stored {
            self.g.a.store(address.mem(), RCX);
            self.g.a.store(stride.mem(), RDX);
        }
        if moved.loaded {
            self.copy_strided(moved.buffer, size, true);
            // R11 elements are there, and R15 is the last one.
            let again = self.g.a.here();
            self.g.a.store_int(Mem { index: Some((R11, size.trailing_zeros() as u8)), ..inside }, R15, size);
            self.g.a.alu_imm(Alu::Add, R11, 1);
            self.g.a.alu_imm(Alu::Cmp, R11, self.lanes as i32);
            self.g.a.jump_if(Cond::Below, again);
        }
        if let Step::Strided(stride) = place.step {
            self.g.a.mov_imm(RDX, size as i64);
            self.g.a.store(stride.mem(), RDX);
        }
        // The loop's index is added again.
        self.g.a.lea(R11, inside);
        self.g.a.mov_imm(RDX, -(size as i64));
        self.g.a.imul(RDX, RAX);
        self.g.a.alu(Alu::Add, R11, RDX);
        match place.base {
            Base::Gpr(base) => self.g.a.mov(base, R11),
            Base::Spilled(slot) => self.g.a.store(slot.mem(), R11),
            Base::Stack(_) => self.g.refuse("an array in the stack frame, in a loop over memory"),
        }
    }
}
