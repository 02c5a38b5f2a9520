//! Square roots without the divider, where loops wait for it: AVX-512's takes 24 cycles for eight numbers of double precision,
//! and what else a loop computes leaves the other units idle.
//!
//! From the instruction that is right to fourteen bits, one step (single precision) or two lead to the root and half its
//! reciprocal, both almost to the last bit, and from there one with the exact remainder leads to the rounded root: P. Markstein,
//! Computation of elementary functions on the IBM RISC System/6000 processor, IBM J. Res. Dev. 34, 1990; M. Cornea,
//! J. Harrison, P. T. P. Tang, Scientific Computing on Itanium-based Systems, 2002. The roots that are nearest to the middle of
//! two numbers, for which its proof has no room, are known, and all of them are tried (`tests/divider.rs`).
//!
//! Invariants: the bits are those of the square root. The remainder is exact far from where numbers lose bits: for numbers of
//! [`least`] and more, and zeros. Vectors with others, infinity and negative numbers among them, take the divider.

use super::asm::{Cond, Isa, Op, op, op_w};
use super::body::{Body, Operand};
use super::memory::MOVE;
use super::prim::{float, integer_sub};
use super::program::{Class, Node, NodeId, Program, What};
use numfuse_core::dtype::DType;
use numfuse_core::kernel::Prim;
use numfuse_core::literal::Literal;
use smallvec::SmallVec;

/// What a vector of 64 bytes costs, in cycles and instructions, as measured on Intel's Sapphire Rapids.
struct Cost {
    /// How long the divider is busy, and the other units, two of which work at a time.
    divider: u32,
    others: u32,
    /// How long it takes until the result is there.
    latency: u32,
    instructions: u32,
}

const fn root_by_divider(dtype: DType) -> Cost {
    match dtype {
        DType::F64 => Cost { divider: 24, others: 0, latency: 31, instructions: 3 },
        _ => Cost { divider: 12, others: 0, latency: 20, instructions: 3 },
    }
}

const fn root_by_steps(dtype: DType) -> Cost {
    match dtype {
        DType::F64 => Cost { divider: 0, others: 10, latency: 43, instructions: 17 },
        _ => Cost { divider: 0, others: 8, latency: 35, instructions: 14 },
    }
}

const fn quotient(dtype: DType) -> Cost {
    match dtype {
        DType::F64 => Cost { divider: 16, others: 0, latency: 24, instructions: 3 },
        _ => Cost { divider: 10, others: 0, latency: 17, instructions: 3 },
    }
}

/// Anything else; two of them take a cycle.
const OTHER_LATENCY: u32 = 4;

/// So many instructions are looked at ahead of the one that everything waits for.
const WINDOW: u32 = 512;

/// Of so many roots some take the divider.
pub(super) const PARTS: u32 = 8;

const LESS: u8 = 1;
/// Or not a number.
const NOT_EQUAL: u8 = 0x04;

/// The least number whose root has an exact remainder: at least the least subnormal times two to twice the precision.
fn least(dtype: DType) -> Literal {
    Literal::from_f64(dtype, if dtype == DType::F64 { 2f64.powi(-960) } else { 2f64.powi(-96) })
}

fn is_root(node: &Node) -> bool {
    node.what == What::Prim(Prim::Sqrt) && node.dtype.is_float() && node.class == Class::Varying
}

impl Program {
    /// Takes as many square roots from the divider as make the loop quickest, if it has other units to wait for at all.
    pub fn balance_roots(&mut self, isa: Isa) {
        if isa != Isa::Avx512 || self.straight || !self.nodes.iter().any(is_root) {
            return;
        }
        let best = (0..=PARTS).rev().min_by_key(|parts| self.cycles_with(*parts)).unwrap_or(PARTS);
        if best == PARTS {
            return;
        }
        self.parts_of_divider = best;
        for (number, node) in (0..).zip(self.nodes.iter_mut().filter(|node| is_root(node))) {
            node.what = What::Root(number);
        }
    }

    /// True if some square roots are not the divider's.
    pub fn has_roots(&self) -> bool {
        self.nodes.iter().any(|node| matches!(node.what, What::Root(_)))
    }

    /// How long one vector takes if so many of [`PARTS`] roots take the divider, in parts of a cycle: what the divider needs, what
    /// the other units need, or what it takes from the first instruction to the last, of which as many vectors share the time as
    /// the window has room for.
    fn cycles_with(&self, parts: u32) -> u32 {
        let (mut divider, mut others, mut instructions, mut longest) = (0, 0, 0, 0);
        // When each node's result is there.
        let mut ready: SmallVec<[u32; 64]> = SmallVec::with_capacity(self.nodes.len());
        for node in &self.nodes {
            if node.class == Class::Uniform {
                ready.push(0);
                continue;
            }
            let weighted = |cost: Cost, weight: u32| {
                [cost.divider, cost.others, cost.latency, cost.instructions].map(|part| part * weight)
            };
            let cost = match node.what {
                _ if is_root(node) => {
                    let (by_divider, by_steps) = (root_by_divider(node.dtype), root_by_steps(node.dtype));
                    let (some, rest) = (weighted(by_divider, parts), weighted(by_steps, PARTS - parts));
                    std::array::from_fn(|i| some[i] + rest[i])
                }
                What::Prim(Prim::Div) if node.dtype.is_float() => weighted(quotient(node.dtype), PARTS),
                _ => [0, PARTS / 2, OTHER_LATENCY * PARTS, PARTS],
            };
            divider += cost[0];
            others += cost[1];
            instructions += cost[3];
            let begin = node.args.iter().map(|a| ready[*a as usize]).max().unwrap_or(0);
            ready.push(begin + cost[2]);
            longest = longest.max(begin + cost[2]);
        }
        divider.max(others).max((u64::from(longest) * u64::from(instructions) / u64::from(WINDOW * PARTS)) as u32)
    }
}

impl Body<'_, '_, '_> {
    /// Emits the n-th [`What::Root`] of the program.
    pub(super) fn root(&mut self, copy: usize, node: NodeId, number: u32) {
        // Spread over roots and copies.
        let nth = number * self.copies as u32 + copy as u32;
        let of_divider = |n: u32| n * self.program.parts_of_divider / PARTS;
        let divide = float(0x51, self.dtype(node));
        if of_divider(nth) != of_divider(nth + 1) {
            return self.unary(copy, node, divide, None);
        }
        let dtype = self.dtype(node);
        let (size, len) = (dtype.size(), self.len(dtype));
        let fused = |opcode| op_w(1, 2, opcode, dtype == DType::F64);
        let (multiply_add, minus_product_by, minus_product_to) = (fused(0xa8), fused(0xac), fused(0xbc));
        let register = Operand::reg;
        let x = self.reg(copy, self.arg(node, 0));
        let to = self.define_apart(copy, node);
        let (root, half_reciprocal) = (self.temp(), self.temp());
        let (in_range, other) = (self.mask_temp(), self.mask_temp());
        let (least, infinity) = (least(dtype).bits(), Literal::from_f64(dtype, f64::INFINITY).bits());
        // From the least number on, as bits, to infinity.
        let bits = self.bits_operand(least, size);
        self.emit(integer_sub(size), len, to, x, bits, None);
        let bits = self.bits_operand(infinity - least, size);
        self.emit(op(1, 3, 0x1e, size == 8), len, in_range, to, bits, Some(LESS));
        let bits = self.bits_operand(0, size);
        self.emit(float(0xc2, dtype), len, other, x, bits, Some(NOT_EQUAL));
        let estimate: Op = op_w(1, 2, 0x4e, dtype == DType::F64);
        self.emit(estimate, len, half_reciprocal, 0, register(x), None);
        let one_half = |body: &mut Self| body.bits_operand(Literal::from_f64(dtype, 0.5).bits(), size);
        self.emit(float(0x59, dtype), len, root, x, register(half_reciprocal), None);
        let half = one_half(self);
        self.emit(float(0x59, dtype), len, half_reciprocal, half_reciprocal, half, None);
        for _ in 0..size / 4 {
            // to = 1/2 - root * half_reciprocal, and what it is too little by
            self.emit(MOVE, len, to, 0, register(root), None);
            let half = one_half(self);
            self.emit(minus_product_by, len, to, half_reciprocal, half, None);
            self.emit(multiply_add, len, root, to, register(root), None);
            self.emit(multiply_add, len, half_reciprocal, to, register(half_reciprocal), None);
        }
        // to = x - root * root, to = to * half_reciprocal + root; but x for lanes that are not in range: zeros.
        self.emit(MOVE, len, to, 0, register(x), None);
        self.emit_masked(minus_product_to, len, to, root, register(root), None, in_range, false);
        self.emit_masked(multiply_add, len, to, half_reciprocal, register(root), None, in_range, false);
        self.g.test_mask_has(in_range, other);
        let done = self.g.a.label();
        self.g.a.jump_if(Cond::Below, done);
        self.emit(divide, len, to, 0, register(x), None);
        self.g.a.bind(done);
    }
}
