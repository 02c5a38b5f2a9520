//! Kernel to CUDA C: pure text, and what a launch of it is. Nothing here knows a driver.
//!
//! A [`Program`] is made for a kernel and a [`Class`], which says all that the sizes, strides and addresses of a launch
//! decide about code; one program serves every launch of its class. Its [`Source`] is a translation unit with no includes,
//! whose entries have the form
//!
//! ```text
//! extern "C" __global__ void __launch_bounds__(256) kernel_map(const __grid_constant__ Args a)
//! ```
//!
//! where `Args` is a struct of 8-byte words (pointers, strides, sizes, parameters), one for each [`Field`].
//!
//! In reading order: `class` (how a launch is spread over threads), `map` and `transposed` (kernels without reductions),
//! `rows` and `columns` (kernels with them), `fold` (the order of a reduction), `stage` (loads, stores, rare work), `prim`
//! (primitives as expressions), `element` (kernels fused into another text), `index` (where elements are), `text` (lines).
//!
//! Invariants: emitting is deterministic. Signed integers never overflow, no shift is too wide, and no conversion
//! is out of range in C's sense, so that the text means the same to every compiler. No atomics on floats; which
//! thread computes what depends on sizes and dtypes, never on the device.

mod class;
mod columns;
mod element;
mod fold;
mod index;
mod map;
mod prim;
mod rows;
mod stage;
mod text;
mod transposed;

pub use class::{Class, Schedule};
pub(crate) use element::Elements;
pub use element::Fused;
pub(crate) use map::{MOST_ROWS, blocks};

use crate::Error;
use index::Fields;
use numfuse_core::kernel::{self, Kernel};
use numfuse_core::launch::Launch;
use smallvec::SmallVec;
use std::collections::BTreeSet;

/// A translation unit.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Source {
    /// CUDA C, C++17, for NVRTC with strict floating point options.
    pub text: String,
    /// The names of its entry points.
    pub entries: SmallVec<[String; 2]>,
}

/// One launch of an entry point.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Grid {
    /// The entry, as an index into [`Source::entries`].
    pub entry: usize,
    /// Blocks along x, y and z.
    pub blocks: [u32; 3],
    /// Threads of a block along x, y and z.
    pub threads: [u32; 3],
    /// Bytes of dynamic shared memory.
    pub shared: u32,
}

/// A group of dimensions of the domain.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Group {
    /// The rows.
    Outer,
    /// What a column kernel folds over.
    Reduced,
    /// The elements of a row, or the columns.
    Inner,
}

/// A word of the argument block.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Field {
    /// The address of an operand's first element.
    Operand(u32),
    /// The bits of a parameter.
    Param(u32),
    /// The number of indices of a group.
    Count(Group),
    /// The size of one dimension of a group.
    Size(Group, u8),
    /// A multiplier and a shift that divide by the size of one dimension; see `index::divisor`.
    Divisor(Group, u8),
    /// The byte stride of an operand along one dimension of a group.
    Stride(u32, Group, u8),
    /// The number of vectors in a row.
    Vectors,
    /// What divides by it.
    VectorsDivisor,
    /// The address of the memory that the entries use between them.
    Workspace,
}

/// A launch of all entries, in order: what [`Program::dispatch`] returns.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Dispatch {
    /// The launches. None if there is nothing to be done.
    pub grids: SmallVec<[Grid; 2]>,
    /// Bytes of memory that the entries use between them, aligned to 256.
    pub workspace: u64,
}

/// A kernel as CUDA C, for launches of one class.
#[derive(Clone, Debug)]
pub struct Program {
    source: Source,
    class: Class,
    fields: Vec<Field>,
    /// Bytes of the states and of the scratch of a row; see `rows.rs`.
    room: rows::Room,
}

impl Program {
    /// The program of a kernel for launches of a class.
    pub fn new(kernel: &Kernel, class: &Class) -> Result<Program, Error> {
        kernel::verify(kernel).map_err(|reason| Error::Internal(format!("{reason}\n{kernel}")))?;
        let mut unit = Unit::new(kernel, class);
        match class.schedule {
            Schedule::Map { .. } => map::emit(&mut unit),
            Schedule::Transposed { .. } => transposed::emit(&mut unit),
            Schedule::Rows { .. } | Schedule::Staged { .. } => rows::emit(&mut unit),
            Schedule::Columns { .. } => columns::emit(&mut unit),
        }
        let (source, fields) = unit.finish();
        if fields.len() > MOST_FIELDS {
            return Err(Error::Unsupported(format!("a kernel of {} arguments", fields.len())));
        }
        Ok(Program { source, class: *class, fields, room: rows::Room::new(kernel) })
    }

    /// The program of a kernel for a class, and what `make` makes of it: of a narrower class, if what threads then keep in
    /// memory for want of registers takes fewer bytes, which `make` tells as well. A few bytes are what compilers park
    /// outside of loops to make room for another block.
    pub fn fitted<T>(
        kernel: &Kernel,
        class: &Class,
        mut make: impl FnMut(&Program) -> Result<(T, u32), Error>,
    ) -> Result<(Program, T), Error> {
        let mut program = Program::new(kernel, class)?;
        let (mut made, mut bytes) = make(&program)?;
        while bytes > PARKED
            && let Some(class) = program.class.narrower()
            && let Ok(next) = Program::new(kernel, &class)
            && let Ok((next_made, next_bytes)) = make(&next)
            && next_bytes < bytes
        {
            (program, made, bytes) = (next, next_made, next_bytes);
        }
        Ok((program, made))
    }

    /// The text.
    pub fn source(&self) -> &Source {
        &self.source
    }

    /// The class of its launches.
    pub fn class(&self) -> &Class {
        &self.class
    }

    /// What the words of the argument block are.
    pub fn fields(&self) -> &[Field] {
        &self.fields
    }

    /// The launches of its entries for a launch of its class.
    pub fn dispatch(&self, launch: &Launch) -> Result<Dispatch, Error> {
        let dispatch = match self.class.schedule {
            Schedule::Map { .. } => map::dispatch(&self.class, launch),
            Schedule::Transposed { .. } => transposed::dispatch(&self.class, launch),
            Schedule::Rows { .. } | Schedule::Staged { .. } => rows::dispatch(&self.class, &self.room, launch),
            Schedule::Columns { .. } => columns::dispatch(&self.class, &self.room, launch),
        };
        dispatch.ok_or_else(|| Error::Unsupported("a launch of more blocks than a device has".into()))
    }

    /// The argument block: `pointers` has the address of each operand's first element, `params` the bits of each parameter.
    pub fn words(&self, launch: &Launch, pointers: &[u64], params: &[u64], workspace: u64) -> SmallVec<[u64; 32]> {
        self.fields.iter().map(|field| index::word(*field, &self.class, launch, pointers, params, workspace)).collect()
    }
}

/// Bytes of memory of a thread that are no want of registers yet.
const PARKED: u32 = 32;

/// The words that an argument block may have: 32,764 bytes are what devices take.
const MOST_FIELDS: usize = 4000;

/// A translation unit being emitted.
struct Unit<'k> {
    kernel: &'k Kernel,
    class: &'k Class,
    fields: Fields,
    /// Device functions.
    functions: text::Text,
    /// Entry points.
    text: text::Text,
    entries: SmallVec<[String; 2]>,
    uses: prim::Helpers,
    /// The names of the device functions.
    emitted: BTreeSet<String>,
}

impl<'k> Unit<'k> {
    fn new(kernel: &'k Kernel, class: &'k Class) -> Unit<'k> {
        Unit {
            kernel,
            class,
            fields: Fields::default(),
            functions: text::Text::default(),
            text: text::Text::default(),
            entries: SmallVec::new(),
            uses: prim::Helpers::default(),
            emitted: BTreeSet::new(),
        }
    }

    /// Opens an entry point of so many threads a block.
    fn open_entry(&mut self, name: &str, threads: u32) {
        self.text.open(&format!(
            "extern \"C\" __global__ void __launch_bounds__({threads}) {name}(const __grid_constant__ Args a)"
        ));
        self.entries.push(name.to_owned());
    }

    fn finish(self) -> (Source, Vec<Field>) {
        let Unit { class, fields, functions, text, entries, uses, .. } = self;
        let mut all = text::Text::default();
        prim::prelude(&mut all, class, &uses);
        fields.declare(&mut all, self.kernel);
        all.append(functions);
        all.append(text);
        (Source { text: all.finish(), entries }, fields.list)
    }
}
