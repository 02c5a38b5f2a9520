//! Kernels whose rows have few elements, without loops: each row becomes one element of an elementwise kernel.
//!
//! The sum of three squares needs no lanes, no leaves and no loop, but five operations; rows are what fills vectors then. The
//! order of every reduction is that of [`super::reduce`], so the bits stay the same.
//!
//! Invariant: the result has no reductions and no scratch, and all of its operands vary along its inner dimension.

use super::{Body, Builder, Inst, Kernel, Level, Nest, Reduction, StageKind, Value, reduce};
use crate::literal::Literal;
use smallvec::SmallVec;

/// A kernel whose rows are unrolled.
#[derive(Clone, Debug)]
pub struct Unrolled {
    /// The kernel.
    pub kernel: Kernel,
    /// For each of its operands the one it comes from, and which element of the row it is: 0 for one per row.
    pub operands: Vec<(usize, usize)>,
}

/// The kernel for rows of so many elements; none unless it is a row kernel that reduces them, and they are one leaf.
pub fn unroll(kernel: &Kernel, elements: usize) -> Option<Unrolled> {
    let is_leaf = (1..=reduce::leaf(Nest::Rows)).contains(&elements);
    if kernel.nest != Nest::Rows || kernel.reductions.is_empty() || !is_leaf {
        return None;
    }
    let mut b = Builder::kernel(Nest::Rows);
    let params = kernel.params.iter().map(|dtype| b.param(*dtype)).collect();
    let mut operands = Vec::new();
    let mut first = Vec::with_capacity(kernel.operands.len());
    for (n, operand) in kernel.operands.iter().enumerate() {
        first.push(operands.len() as u32);
        for element in 0..if operand.level == Level::Row { 1 } else { elements } {
            b.operand(operand.dtype, operand.role, Level::Inner);
            operands.push((n, element));
        }
    }
    b.stage(StageKind::Loop);
    let mut unrolling = Unrolling {
        kernel,
        elements,
        params,
        first,
        values: vec![SmallVec::new(); kernel.insts.len()],
        scratch: vec![vec![None; elements]; kernel.scratch.len()],
        reduced: vec![None; kernel.reductions.len()],
        b,
    };
    for stage in 0..kernel.stages.len() {
        unrolling.stage(stage);
    }
    Some(Unrolled { kernel: unrolling.b.finish(), operands })
}

struct Unrolling<'k> {
    kernel: &'k Kernel,
    elements: usize,
    params: Vec<Value>,
    /// The first of the operands that each operand becomes.
    first: Vec<u32>,
    /// What each value is: for each element of the row, or for all of them.
    values: Vec<SmallVec<[Value; 4]>>,
    /// What each scratch slot holds for each element.
    scratch: Vec<Vec<Option<Value>>>,
    reduced: Vec<Option<Value>>,
    b: Builder,
}

/// A reduction with its bodies.
struct Fold<'k> {
    reduction: &'k Reduction,
    step: Body,
    merge: Body,
}

impl Unrolling<'_> {
    fn stage(&mut self, stage: usize) {
        if self.kernel.stages[stage].kind == StageKind::Row {
            return self.run(stage, 0);
        }
        let mut done = vec![false; self.elements];
        for (n, reduction) in self.kernel.reductions_of(stage) {
            let Reduction { reducer, dtype, .. } = *reduction;
            let fold = Fold { reduction, step: reducer.step(dtype), merge: reducer.merge(dtype) };
            let state = self.state(&fold, &mut done, 0, 1);
            self.reduced[n] = Some(state.0[reduction.reducer.result()]);
        }
        for element in (0..self.elements).filter(|element| !done[*element]) {
            self.run(stage, element);
        }
    }

    /// The state of a lane, and how many elements it holds, when all lanes at a distance of `apart` or more have merged. The
    /// elements come in the order in which they are needed, so that few are waiting for others.
    fn state(
        &mut self,
        fold: &Fold<'_>,
        done: &mut [bool],
        lane: usize,
        apart: usize,
    ) -> (SmallVec<[Value; 2]>, usize) {
        let Reduction { reducer, dtype, input, stage } = *fold.reduction;
        let lanes = reduce::lanes(Nest::Rows, dtype);
        if apart >= lanes.min(self.elements) {
            let mut state: SmallVec<[Value; 2]> = SmallVec::new();
            if reducer.counts() {
                state.extend(reducer.init(dtype).into_iter().map(|x| self.b.constant(x)));
            }
            let mut count = 0;
            for element in (lane..self.elements).step_by(lanes) {
                if !std::mem::replace(&mut done[element], true) {
                    self.run(stage as usize, element);
                }
                let x = self.value(input, element);
                count += 1;
                if state.is_empty() {
                    // Without counts the initial state is an identity.
                    state.push(x);
                    continue;
                }
                let args = state.iter().copied().chain([x]).collect();
                let counts: &[usize] = if reducer.counts() { &[count] } else { &[] };
                state = self.inline(&fold.step, args, counts);
            }
            return (state, count);
        }
        let (left, before) = self.state(fold, done, lane, 2 * apart);
        if lane + apart >= self.elements.min(lanes) {
            return (left, before);
        }
        let (right, after) = self.state(fold, done, lane + apart, 2 * apart);
        let args = left.into_iter().chain(right).collect();
        let counts: &[usize] = if reducer.counts() { &[before, after] } else { &[] };
        (self.inline(&fold.merge, args, counts), before + after)
    }

    /// Appends a body of a reducer, which takes so many counts after its other arguments.
    fn inline(&mut self, body: &Body, mut args: SmallVec<[Value; 4]>, counts: &[usize]) -> SmallVec<[Value; 2]> {
        let dtype = self.b.dtype(args[0]);
        args.extend(counts.iter().map(|n| self.b.constant(Literal::from_i64(dtype, *n as i64))));
        self.b.inline(body, &args)
    }

    /// Appends the instructions of a stage, for one element if it is a loop.
    fn run(&mut self, stage: usize, element: usize) {
        let kernel = self.kernel;
        for v in kernel.stages[stage].values() {
            let dtype = kernel.dtype(v);
            let operand = |n: u32| {
                let varies = kernel.operands[n as usize].level == Level::Inner;
                self.first[n as usize] + if varies { element as u32 } else { 0 }
            };
            let value = match kernel.inst(v) {
                Inst::Const(literal) => self.b.constant(*literal),
                Inst::Param(n) => self.params[*n as usize],
                Inst::Load(n) => self.b.load(operand(*n)),
                Inst::Store(n, x) => {
                    let (operand, x) = (operand(*n), self.value(*x, element));
                    self.b.store(operand, x);
                    continue;
                }
                Inst::Prim(prim, args) => {
                    let args = args.map(|x| self.value(x, element));
                    self.b.push_prim(*prim, args, dtype)
                }
                Inst::ScratchStore(n, x) => {
                    self.scratch[*n as usize][element] = Some(self.value(*x, element));
                    continue;
                }
                Inst::ScratchLoad(n) => match self.scratch[*n as usize][element] {
                    Some(x) => x,
                    None => unreachable!("a scratch slot is stored before it is loaded"),
                },
                Inst::Reduced(n) => match self.reduced[*n as usize] {
                    Some(x) => x,
                    None => unreachable!("a reduction is used after its loop"),
                },
                Inst::Arg(_) => unreachable!("an argument in a kernel"),
            };
            let values = &mut self.values[v.index()];
            // Loop values have one for each element, in any order.
            if kernel.stages[stage].kind == StageKind::Loop && values.is_empty() {
                values.resize(self.elements, value);
            }
            match values.get_mut(element) {
                Some(slot) => *slot = value,
                None => values.push(value),
            }
        }
    }

    /// What a value is for an element.
    fn value(&self, v: Value, element: usize) -> Value {
        let values = &self.values[v.index()];
        if values.len() == 1 { values[0] } else { values[element] }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dtype::DType;
    use crate::interp::{self, Bytes, Memory};
    use crate::kernel::{Reducer, Role, verify};
    use crate::launch::{Launch, Layout};

    /// `x - r` for each element and `r` for each row, where `r` is a reduction of `x`.
    fn centred(reducer: Reducer) -> Kernel {
        let mut b = Builder::kernel(Nest::Rows);
        let x = b.operand(DType::F64, Role::In, Level::Inner);
        let each = b.operand(DType::F64, Role::Out, Level::Inner);
        let of_row = b.operand(DType::F64, Role::Out, Level::Row);
        let slot = b.scratch(DType::F64);
        b.stage(StageKind::Loop);
        let element = b.load(x);
        b.scratch_store(slot, element);
        let r = b.reduce(reducer, element);
        b.stage(StageKind::Row);
        let r = b.reduced(r);
        b.store(of_row, r);
        b.stage(StageKind::Loop);
        let element = b.scratch_load(slot);
        let difference = b.sub(element, r);
        b.store(each, difference);
        b.finish()
    }

    /// What each operand's memory is after a run; each has some of its own, as large as `x`.
    fn run(kernel: &Kernel, launch: &Launch, operands: &[(usize, usize)], x: &[u8]) -> Vec<Vec<u8>> {
        let mut after = vec![x.to_vec(); operands.len()];
        let mut memory: Vec<Memory<'_>> = after
            .iter_mut()
            .zip(operands)
            .map(|(bytes, (operand, element))| Memory {
                offset: 8 * element,
                bytes: if *operand == 0 { Bytes::In(x) } else { Bytes::Out(bytes) },
            })
            .collect();
        interp::run(kernel, launch, &mut memory, &[]);
        drop(memory);
        after
    }

    #[test]
    fn rows_without_loops_give_the_same_bits() {
        const ROWS: usize = 5;
        for reducer in [Reducer::Sum, Reducer::Prod, Reducer::Max, Reducer::Moments, Reducer::Center] {
            for elements in [1, 2, 3, 7, 8, 31, 32, 33, 50, 100] {
                let kernel = centred(reducer);
                let unrolled = unroll(&kernel, elements).expect("a row kernel");
                verify(&unrolled.kernel).unwrap_or_else(|e| panic!("{e}\n{}", unrolled.kernel));
                assert!(unrolled.kernel.is_elementwise(), "{}", unrolled.kernel);
                let x: Vec<u8> = (0..ROWS * elements).flat_map(|i| (1.0 / (i as f64 + 0.7)).to_le_bytes()).collect();
                let rows = |n: usize| if n == 2 { 8 } else { 8 * elements as isize };
                let strides = |stride: isize| [stride].into_iter().collect();
                let along = |n: usize| Layout { outer: strides(rows(n)), inner: strides(8), ..Layout::default() };
                let launch = Launch {
                    outer: [ROWS].into_iter().collect(),
                    inner: [elements].into_iter().collect(),
                    layouts: (0..3).map(along).collect(),
                    ..Launch::default()
                };
                let want = run(&kernel, &launch, &[(0, 0), (1, 0), (2, 0)], &x);
                let launch = Launch {
                    inner: [ROWS].into_iter().collect(),
                    layouts: unrolled
                        .operands
                        .iter()
                        .map(|(n, _)| Layout { inner: strides(rows(*n)), ..Layout::default() })
                        .collect(),
                    ..Launch::default()
                };
                let got = run(&unrolled.kernel, &launch, &unrolled.operands, &x);
                for ((operand, element), got) in unrolled.operands.iter().zip(&got) {
                    for row in 0..ROWS {
                        let at = row * rows(*operand) as usize + 8 * element;
                        assert_eq!(got[at..at + 8], want[*operand][at..at + 8], "{reducer:?}, {elements}, row {row}");
                    }
                }
            }
        }
    }
}
