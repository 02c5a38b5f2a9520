//! Work that few elements need: what a back end may jump over.
//!
//! A function body has no branches; both operands of a selection are computed. Where the first one is long and nothing
//! else uses what it is made of, a back end that works on several elements at once may test whether any of them takes
//! it, and skip its instructions if none does: they have no effects, so the results are the same bits. Bodies put the
//! rare case first: a sine of huge angles takes four times as long as others.

use super::expand;
use super::{Inst, Kernel, Prim, Stage, Value};
use crate::dtype::DType;
use smallvec::SmallVec;

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

/// As few primitives as this, with those of their [bodies](super::expand), are not worth a jump.
const LEAST: usize = 24;

/// The rare work of a stage, in the order of the first selections. No instruction is in two of them.
pub fn rare(kernel: &Kernel, stage: usize) -> Vec<Rare> {
    let mut search = Search::new(kernel, stage);
    // Selections by their condition; the groups from the end, so that the outer one of two nested selections comes first
    // and takes all.
    let mut selects: Vec<(Value, Value)> = Vec::new();
    for v in kernel.stages[stage].values() {
        if let Inst::Prim(Prim::Select, args) = kernel.inst(v)
            && search.place(args[0]).is_some()
            && kernel.dtype(v) != DType::Bool
        {
            selects.push((args[0], v));
        }
    }
    if selects.is_empty() {
        return Vec::new();
    }
    selects.sort_unstable();
    let mut groups: Vec<(Value, SmallVec<[Value; 4]>)> = Vec::new();
    for same in selects.chunk_by(|a, b| a.0 == b.0) {
        // Those whose operands precede the first of them, and then those that remain likewise.
        let mut rest: SmallVec<[Value; 4]> = same.iter().map(|(_, select)| *select).collect();
        while let Some(first) = rest.first().copied() {
            let precede = |s: &Value| kernel.inst(*s).operands().iter().all(|a| *a < first);
            let (group, later) = rest.into_iter().partition(precede);
            groups.push((same[0].0, group));
            rest = later;
        }
    }
    groups.sort_unstable_by_key(|(_, group)| std::cmp::Reverse(group[0]));
    let mut found = Vec::new();
    for (condition, selects) in groups {
        let may_need = selects.iter().any(|select| search.may_need(*select, selects.len()));
        if !may_need || selects.iter().any(|s| search.is_taken(*s)) {
            continue;
        }
        if let Some(needed) = search.needed_by(&selects) {
            search.take(&needed);
            found.push(Rare { condition, selects: selects.to_vec(), needed });
        }
    }
    found.reverse();
    found
}

/// How often the values of a stage are used, in all and by what has been found to be needed.
struct Search<'k> {
    kernel: &'k Kernel,
    stage: &'k Stage,
    uses: Vec<Uses>,
    /// The number of the selections at hand.
    round: u32,
    /// The primitives of which all uses were counted, for the selections at hand.
    needed: Vec<Value>,
}

#[derive(Clone, Copy, Default)]
struct Uses {
    /// By instructions and reductions of the stage.
    all: u32,
    /// By the selections of this round as their first operand, or by what only they need.
    needed: u32,
    round: u32,
    /// True if it belongs to a selection that was found.
    taken: bool,
}

impl<'k> Search<'k> {
    fn new(kernel: &'k Kernel, stage: usize) -> Search<'k> {
        let count = kernel.stages[stage].values().len();
        let uses = vec![Uses::default(); count];
        let mut search =
            Search { kernel, stage: &kernel.stages[stage], uses, round: 0, needed: Vec::with_capacity(LEAST) };
        for v in kernel.stages[stage].values() {
            kernel.inst(v).operands().iter().for_each(|operand| search.count_use(*operand));
        }
        kernel.reductions_of(stage).for_each(|(_, reduction)| search.count_use(reduction.input));
        search
    }

    #[inline]
    fn count_use(&mut self, v: Value) {
        if let Some(i) = self.place(v) {
            self.uses[i].all += 1;
        }
    }

    /// True unless it is plain that the first operand of a selection is used by others than so many selections.
    fn may_need(&self, select: Value, selects: usize) -> bool {
        let rare = self.kernel.inst(select).operands().get(1).and_then(|v| self.place(*v));
        rare.is_some_and(|i| self.uses[i].all as usize <= selects)
    }

    /// The index of a value in its stage; none if it belongs to another.
    #[inline]
    fn place(&self, v: Value) -> Option<usize> {
        let i = v.0.wrapping_sub(self.stage.start) as usize;
        (i < self.uses.len()).then_some(i)
    }

    fn is_taken(&self, v: Value) -> bool {
        self.place(v).is_none_or(|i| self.uses[i].taken)
    }

    fn take(&mut self, values: &[Value]) {
        for v in values {
            if let Some(i) = self.place(*v) {
                self.uses[i].taken = true;
            }
        }
    }

    /// The primitives that nothing but the selections' first operands is made of, in order; none if there are few.
    fn needed_by(&mut self, selects: &[Value]) -> Option<Vec<Value>> {
        self.round += 1;
        for select in selects {
            if let Some(rare) = self.kernel.inst(*select).operands().get(1) {
                self.count(*rare);
            }
        }
        let mut next = 0;
        while let Some(v) = self.needed.get(next) {
            next += 1;
            for operand in self.kernel.inst(*v).operands() {
                self.count(*operand);
            }
        }
        let weight = |v: &Value| match self.kernel.inst(*v) {
            Inst::Prim(prim, _) => expand::body(*prim, self.kernel.dtype(*v)).map_or(1, |body| body.insts.len()),
            _ => 1,
        };
        if self.needed.iter().map(weight).sum::<usize>() < LEAST {
            self.needed.clear();
            return None;
        }
        let mut needed = std::mem::take(&mut self.needed);
        needed.sort_unstable();
        Some(needed)
    }

    /// Counts one use of a value by what is needed; if it was the last one, the value is needed as well.
    #[inline]
    fn count(&mut self, v: Value) {
        let Some(i) = self.place(v) else { return };
        let uses = &mut self.uses[i];
        if uses.round != self.round {
            (uses.round, uses.needed) = (self.round, 0);
        }
        uses.needed += 1;
        if uses.needed == uses.all && matches!(self.kernel.inst(v), Inst::Prim(..)) {
            self.needed.push(v);
        }
    }
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
        assert_eq!(found[0].selects.len(), 1);
        assert_eq!(found[0].needed.len(), 1);
    }

    #[test]
    fn functions_under_one_condition_follow_each_other() {
        let found = rare(
            &kernel(|b, x| {
                let (sine, cosine) = (math::sin(b, &[x]), math::cos(b, &[x]));
                b.mul(sine, cosine)
            }),
            1,
        );
        assert_eq!(found.len(), 2);
        assert_eq!(found[0].condition, found[1].condition);
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
                let y = math::tanh(b, &[x]);
                b.select(negative, y, x)
            }),
            1,
        );
        assert_eq!(found.len(), 1);
    }
}
