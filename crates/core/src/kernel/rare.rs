//! Work that few elements need: what a back end may jump over.
//!
//! A function body has no branches; both operands of a selection are computed. Where the first one is long and nothing
//! else uses what it is made of, a back end that works on several elements at once may test whether any of them takes
//! it, and skip its instructions if none does: they have no effects, so the results are the same bits. Bodies put the
//! rare case first: the reduction of huge angles is three times the rest of a sine.

use super::{Inst, Kernel, Prim, Value};
use crate::dtype::DType;
use rustc_hash::FxHashMap;
use std::collections::BinaryHeap;

/// Instructions that are needed only where a condition holds.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Rare {
    /// The condition, known before the first selection.
    pub condition: Value,
    /// Selections by the condition, whose operands precede the first of them; not of bools.
    pub selects: Vec<Value>,
    /// Primitives before the first selection that only each other, and the selections as their first operand, use.
    pub needed: Vec<Value>,
}

/// As few primitives as this are not worth a jump.
const LEAST: usize = 24;

/// The rare work of a stage, in the order of the first selections. No instruction is in two of them.
pub fn rare(kernel: &Kernel, stage: usize) -> Vec<Rare> {
    let range = &kernel.stages[stage];
    let place = |v: Value| v.0.checked_sub(range.start).filter(|_| v.0 < range.end).map(|i| i as usize);
    // Who uses each value of the stage, and as which operand; none if anything but a primitive does.
    let mut users: Vec<Option<Vec<(Value, usize)>>> = vec![Some(Vec::new()); (range.end - range.start) as usize];
    let mut groups: FxHashMap<Value, Vec<Value>> = FxHashMap::default();
    for v in range.values() {
        let Inst::Prim(prim, args) = kernel.inst(v) else {
            for i in super::builder::operands_of(kernel.inst(v)).into_iter().filter_map(place) {
                users[i] = None;
            }
            continue;
        };
        for (n, i) in args.iter().enumerate().filter_map(|(n, a)| Some((n, place(*a)?))) {
            if let Some(users) = &mut users[i] {
                users.push((v, n));
            }
        }
        if *prim == Prim::Select && place(args[0]).is_some() && kernel.dtype(v) != DType::Bool {
            groups.entry(args[0]).or_default().push(v);
        }
    }
    for (_, reduction) in kernel.reductions_of(stage) {
        if let Some(i) = place(reduction.input) {
            users[i] = None;
        }
    }
    let mut groups: Vec<(Value, Vec<Value>)> = groups.into_iter().collect();
    // From the end, so that the outer one of two nested selections comes first and takes all.
    groups.sort_by_key(|(_, selects)| std::cmp::Reverse(selects[0]));
    let mut taken = vec![false; users.len()];
    let mut found = Vec::new();
    for (condition, mut selects) in groups {
        let first = selects[0];
        selects.retain(|s| matches!(kernel.inst(*s), Inst::Prim(_, args) if args.iter().all(|a| *a < first)));
        if selects.iter().any(|s| place(*s).is_none_or(|i| taken[i])) {
            continue;
        }
        let needed = needed_by(kernel, &selects, &users, place);
        if needed.len() >= LEAST {
            for i in needed.iter().filter_map(|v| place(*v)) {
                taken[i] = true;
            }
            found.push(Rare { condition, selects, needed });
        }
    }
    found.reverse();
    found
}

/// The primitives that nothing but the selections' first operands is made of.
fn needed_by(
    kernel: &Kernel,
    selects: &[Value],
    users: &[Option<Vec<(Value, usize)>>],
    place: impl Fn(Value) -> Option<usize>,
) -> Vec<Value> {
    let mut needed: Vec<Value> = Vec::new();
    // From the last to the first, so that all users of a value are decided before the value is.
    let mut queue: BinaryHeap<Value> = BinaryHeap::new();
    let args = |v: Value| match kernel.inst(v) {
        Inst::Prim(_, args) => args.clone(),
        _ => Default::default(),
    };
    queue.extend(selects.iter().filter_map(|s| args(*s).get(1).copied()));
    while let Some(v) = queue.pop() {
        if needed.last() == Some(&v) || !matches!(kernel.inst(v), Inst::Prim(..)) {
            continue;
        }
        let Some(Some(users)) = place(v).map(|i| users[i].as_ref()) else { continue };
        let is_needed = |user: Value| needed.binary_search_by(|n| user.cmp(n)).is_ok();
        if users.iter().all(|(user, n)| (*n == 1 && selects.contains(user)) || is_needed(*user)) {
            needed.push(v);
            queue.extend(args(v));
        }
    }
    needed.reverse();
    needed
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::{Builder, Level, Nest, Role, StageKind};
    use crate::math;

    fn kernel(body: fn(&mut Builder, Value) -> Value) -> Kernel {
        let mut b = Builder::kernel(Nest::Rows);
        let (x, y) = (b.operand(DType::F64, Role::In, Level::Inner), b.operand(DType::F64, Role::Out, Level::Inner));
        b.stage(StageKind::Loop);
        let value = b.load(x);
        let result = body(&mut b, value);
        b.store(y, result);
        b.finish()
    }

    #[test]
    fn the_reduction_of_huge_angles_is_rare() {
        let found = rare(&kernel(|b, x| math::sin(b, &[x])), 1);
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].selects.len(), 3);
        assert!(found[0].needed.len() > 100, "{}", found[0].needed.len());
    }

    #[test]
    fn what_others_use_is_not_rare() {
        let found = rare(
            &kernel(|b, x| {
                let mut long = x;
                for _ in 0..50 {
                    long = b.mul(long, x);
                }
                let zero = b.float(DType::F64, 0.0);
                let negative = b.lt(x, zero);
                let y = b.select(negative, long, x);
                b.add(y, long)
            }),
            1,
        );
        assert_eq!(found, []);
    }

    #[test]
    fn a_function_under_a_condition_is_rare() {
        let found = rare(
            &kernel(|b, x| {
                let zero = b.float(DType::F64, 0.0);
                let negative = b.lt(x, zero);
                let e = math::exp(b, &[x]);
                b.select(negative, e, x)
            }),
            1,
        );
        assert_eq!(found.len(), 1);
    }
}
