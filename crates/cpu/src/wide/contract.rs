//! Nodes that one instruction computes together with an operand: a sum of a product with signs changed, and, with AVX-512,
//! two bitwise operations. The operand's own node is left, and emitted only if others use it.
//!
//! Invariants: bits are the same, but for the sign of a NaN, which [`Prim`] does not promise. A node keeps its number.

use super::asm::{Isa, op, op_w};
use super::body::{Body, Operand};
use super::memory::MOVE;
use super::program::{Args, Class, Node, NodeId, Program, What};
use numfuse_core::dtype::DType;
use numfuse_core::kernel::Prim;

/// Where the operands of a truth table have ones.
const TABLE: [u8; 3] = [0xf0, 0xcc, 0xaa];

impl Program {
    /// Contracts what can be. `uses` says how often each node is used, and goes on to.
    pub(super) fn contract(&mut self, isa: Isa, uses: &mut [u32]) {
        for i in 0..self.nodes.len() {
            let contracted = match self.nodes[i].what {
                What::Prim(Prim::Fma) => self.with_signs(i),
                What::Prim(Prim::And | Prim::Or | Prim::Xor) if isa == Isa::Avx512 => self.with_operation(i, uses),
                _ => None,
            };
            if let Some(node) = contracted {
                self.nodes[i].args.iter().for_each(|a| uses[*a as usize] -= 1);
                node.args.iter().for_each(|a| uses[*a as usize] += 1);
                self.nodes[i] = node;
            }
        }
    }

    /// The primitive and the operands of a node that is computed in the loop.
    fn operation(&self, node: NodeId) -> Option<(Prim, Args)> {
        let Node { what, args, class, .. } = self.nodes[node as usize];
        match what {
            What::Prim(prim) if class != Class::Uniform => Some((prim, args)),
            _ => None,
        }
    }

    /// A fused product of which a factor or the addend is negated.
    fn with_signs(&self, i: usize) -> Option<Node> {
        let node = self.nodes[i];
        let mut minus = [false; 3];
        let args = Args::new(3, |n| match self.operation(node.args[n]) {
            Some((Prim::Neg, operand)) => {
                minus[n] = true;
                operand[0]
            }
            _ => node.args[n],
        });
        let what = What::Fused { minus_product: minus[0] != minus[1], minus_addend: minus[2] };
        minus.contains(&true).then_some(Node { what, args, ..node })
    }

    /// A bitwise operation of which one operand is another one.
    fn with_operation(&self, i: usize, uses: &[u32]) -> Option<Node> {
        let node = self.nodes[i];
        if node.dtype == DType::Bool {
            return None;
        }
        let outer = self.operation(i as NodeId)?.0;
        [(0, 1), (1, 0)].into_iter().find_map(|(n, other)| {
            let inner = node.args[n];
            let (prim @ (Prim::And | Prim::Or | Prim::Xor), operands) = self.operation(inner)? else { return None };
            let args = [node.args[other], operands[0], operands[1]];
            let table = combine(outer, TABLE[0], combine(prim, TABLE[1], TABLE[2]));
            let what = What::Logic(table);
            (uses[inner as usize] == 1).then_some(Node { what, args: Args::new(3, |n| args[n]), ..node })
        })
    }
}

fn combine(prim: Prim, x: u8, y: u8) -> u8 {
    match prim {
        Prim::And => x & y,
        Prim::Or => x | y,
        _ => x ^ y,
    }
}

/// A truth table whose operands come in another order: the n-th of them was the `order[n]`-th.
fn reordered(table: u8, order: [usize; 3]) -> u8 {
    (0..8).fold(0, |found, row| {
        let was = (0..3).fold(0, |was, n| was | (row >> (2 - n) & 1) << (2 - order[n]));
        found | (table >> was & 1) << row
    })
}

impl Body<'_, '_, '_> {
    /// Emits a [`What::Logic`].
    pub(super) fn logic(&mut self, copy: usize, node: NodeId, table: u8) {
        let dtype = self.dtype(node);
        let (size, len) = (dtype.size(), self.len(dtype));
        let args = [0, 1, 2].map(|n| self.arg(node, n));
        // First the one that the result may overwrite, last one that may stay in memory.
        let replaced = (0..3).find(|n| self.in_register(copy, args[*n]) && self.dies(args[*n], node)).unwrap_or(0);
        let rest = [(replaced + 1) % 3, (replaced + 2) % 3];
        let [second, last] = if self.in_register(copy, args[rest[0]]) { rest } else { [rest[1], rest[0]] };
        let from = self.reg(copy, args[replaced]);
        let first = self.reg(copy, args[second]);
        let operand = self.operand(copy, args[last], super::prim::bitwise_element(size));
        let to = match self.take_over(copy, args[replaced], node) {
            Some(to) => to,
            None => {
                let to = self.define_apart(copy, node);
                self.emit(MOVE, len, to, 0, Operand::reg(from), None);
                to
            }
        };
        let table = reordered(table, [replaced, second, last]);
        self.emit(op(1, 3, 0x25, size == 8), len, to, first, operand, Some(table));
    }
}

/// What the opcodes of a fused product are increased by: `z - x * y`, `x * y - z`, `-(x * y) - z`.
pub(super) const fn fused_opcode(opcode: u8, minus_product: bool, minus_addend: bool, double: bool) -> super::asm::Op {
    let signs = if minus_product { 4 } else { 0 } + if minus_addend { 2 } else { 0 };
    op_w(1, 2, opcode + signs, double)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn truth_tables_follow_their_operands() {
        let [a, b, c] = TABLE;
        let table = a | b & c;
        assert_eq!(reordered(table, [0, 1, 2]), table);
        // What was the last operand is the first.
        assert_eq!(reordered(table, [2, 0, 1]), b | c & a);
        assert_eq!(reordered(table, [1, 2, 0]), c | a & b);
    }
}
