//! Whether a plan can be run for some indices of the first dimension at a time, without a change to any bit but those of
//! products of matrices, which are a library's for the part as for the whole.
//!
//! It can if that dimension of the results is one that every step goes through an index at a time: never along a
//! reduction, nor at two indices at once. What is found is a property of plan and sizes alone.

use numfuse_core::graph::IndexItem;
use numfuse_core::kernel::Role;
use numfuse_core::plan::{Access, BufferId, BufferKind, ParamSource, Plan, Step, View, Work};
use numfuse_core::shape::{DimId, Slice};
use smallvec::SmallVec;

/// How a plan runs in parts.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Split {
    /// For each input, whether a part of its first dimension is needed rather than all of it.
    pub cut: SmallVec<[bool; 4]>,
    /// The size of the first dimension of every result, and of every input that is cut.
    pub rows: u64,
}

/// How a plan runs in parts for these sizes of all of its dimensions; none if it does not.
pub(super) fn split(plan: &Plan, sizes: &[u64]) -> Option<Split> {
    if !plan.guards.is_empty() {
        return None;
    }
    // Of each buffer, whether it is cut; unknown until a reader is seen, and readers come after writers.
    let mut cut: Vec<Option<bool>> = vec![None; plan.buffers.len()];
    for output in &plan.outputs {
        decide(&mut cut, *output, true)?;
    }
    for step in plan.steps.iter().rev() {
        let axis = cut_axis(step, &cut)?;
        for access in step.accesses(Role::In) {
            let needs = axis.map_or(Some(false), |axis| runs_along(plan, sizes, step, access, axis))?;
            decide(&mut cut, access.buffer, needs)?;
        }
        let is_cut = |dim: &DimId| axis.is_some_and(|axis| step.domain[axis as usize] == *dim);
        if step.params.iter().any(|p| matches!(p, ParamSource::Size(dims) if dims.iter().any(is_cut))) {
            return None;
        }
    }
    let size = |buffer: usize| plan.buffers[buffer].shape.first().map(|dim| sizes[dim.index()]);
    let rows = size(plan.outputs.first()?.index())?;
    let alike = cut.iter().enumerate().all(|(buffer, cut)| *cut != Some(true) || size(buffer) == Some(rows));
    if !alike {
        return None;
    }
    let mut inputs: SmallVec<[bool; 4]> = plan.graph.inputs().iter().map(|_| false).collect();
    for (buffer, cut) in plan.buffers.iter().zip(&cut) {
        if let BufferKind::Input(n) = buffer.kind {
            inputs[n as usize] |= *cut == Some(true);
        }
    }
    Some(Split { cut: inputs, rows })
}

/// Notes whether a buffer is cut; none if that is decided otherwise.
fn decide(cut: &mut [Option<bool>], buffer: BufferId, is_cut: bool) -> Option<()> {
    let known = &mut cut[buffer.index()];
    (*known.get_or_insert(is_cut) == is_cut).then_some(())
}

/// The axis of a step's domain along which what it writes is cut, inside of none if it writes all of everything; none if
/// the step cannot run a part of that axis.
fn cut_axis(step: &Step, cut: &[Option<bool>]) -> Option<Option<u8>> {
    let mut found: Option<Option<u8>> = None;
    for access in step.accesses(Role::Out) {
        let axis = match cut[access.buffer.index()] {
            Some(true) if access.views.is_empty() => Some(*access.axes.first()?),
            Some(true) => return None,
            // What nobody reads is not in a plan.
            Some(false) | None => None,
        };
        if *found.get_or_insert(axis) != axis {
            return None;
        }
    }
    let axis = found?;
    let independent = |axis: u8| {
        step.outer.contains(&axis)
            || match &step.work {
                Work::Kernel(kernel) => step.inner.contains(&axis) && kernel.has_independent_elements(),
                // The rows of one product; never its depth.
                Work::Matmul(_) => step.inner.first() == Some(&axis),
            }
    };
    axis.is_none_or(independent).then_some(axis)
}

/// True if an operand runs along an axis with the first dimension of its buffer, all of it; false if it does not run along
/// the axis at all; none if it does in some other way.
fn runs_along(plan: &Plan, sizes: &[u64], step: &Step, access: &Access, axis: u8) -> Option<bool> {
    let shape = &plan.buffers[access.buffer.index()].shape;
    // The dimensions of the buffer as the views show them: which one, if it is all there.
    let mut dims: SmallVec<[Option<usize>; 4]> = (0..shape.len()).map(Some).collect();
    let mut is_one: SmallVec<[bool; 4]> = shape.iter().map(|dim| sizes[dim.index()] == 1).collect();
    for view in &access.views {
        match view {
            View::Transpose(order) => {
                dims = order.iter().map(|p| dims[*p as usize]).collect();
                is_one = order.iter().map(|p| is_one[*p as usize]).collect();
            }
            View::Index(items) => {
                let mut old = dims.into_iter().zip(is_one);
                let mut new: (SmallVec<[Option<usize>; 4]>, SmallVec<[bool; 4]>) = Default::default();
                for item in items {
                    match item {
                        IndexItem::NewAxis => {
                            new.0.push(None);
                            new.1.push(true);
                        }
                        IndexItem::At(_) => drop(old.next()),
                        IndexItem::Slice(slice) => {
                            let (dim, one) = old.next()?;
                            let all = *slice == Slice::ALL;
                            new.0.push(dim.filter(|_| all));
                            new.1.push(one && all);
                        }
                    }
                }
                (dims, is_one) = new;
            }
        }
    }
    let along: SmallVec<[usize; 2]> = (0..access.axes.len())
        .filter(|k| access.axes[*k] == axis && !is_one.get(*k).copied().unwrap_or(false))
        .collect();
    let cuts_first = sizes[step.domain[axis as usize].index()] != 1;
    match along.as_slice() {
        [] => Some(false),
        [k] if cuts_first && dims.get(*k) == Some(&Some(0)) => Some(true),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::Engine;
    use crate::view::ArrayRef;
    use crate::{Array, DType};

    /// The inputs that are cut, of a text of `a`: [8, 4], `b`: [8], `c`: [4], `d`: [4, 4], `s`: [8, 8], `t`: [8, 4, 4].
    fn cut(text: &str) -> Option<String> {
        let zeros = |shape: &[usize]| Array::zeros(DType::F64, shape).unwrap();
        let (a, b, c, d) = (zeros(&[8, 4]), zeros(&[8]), zeros(&[4]), zeros(&[4, 4]));
        let arrays = [("a", a), ("b", b), ("c", c), ("d", d), ("s", zeros(&[8, 8])), ("t", zeros(&[8, 4, 4]))];
        let engine = Engine::default();
        let env = arrays.iter().fold(crate::Env::new(), |env, (name, array)| env.with(*name, array));
        let (program, inputs) = engine.program(text, &env).unwrap();
        let inputs: Vec<&ArrayRef<'_>> = inputs.to_vec();
        let (variant, sizes) = program.variant(engine.shared(), &inputs).unwrap();
        let split = split(&variant.plan, &sizes)?;
        assert_eq!(split.rows, 8, "{text}");
        let names = program.inputs.iter().zip(&split.cut).filter(|(_, cut)| **cut);
        Some(names.map(|(input, _)| input.name.as_str()).collect())
    }

    #[test]
    fn elementwise_work_and_rows_are_cut() {
        assert_eq!(cut("2*a + c").as_deref(), Some("a"));
        assert_eq!(cut("a*a, b + 1").as_deref(), Some("ab"));
        assert_eq!(cut("a + b[:, None]").as_deref(), Some("ab"));
        assert_eq!(cut("sum(a, axis=1)").as_deref(), Some("a"));
        assert_eq!(cut("exp(a - max(a, axis=1, keepdims=True))").as_deref(), Some("a"));
        assert_eq!(cut("a[:, ::2] * 2").as_deref(), Some("a"));
    }

    #[test]
    fn rows_of_products_are_cut_with_what_is_around_them() {
        assert_eq!(cut("a @ d").as_deref(), Some("a"));
        assert_eq!(cut("maximum((a - c) @ d + b[:, None], 0)").as_deref(), Some("ab"));
        assert_eq!(cut("exp(s @ a) @ d, b").as_deref(), Some("sb"));
        // A stack, by its first dimension.
        assert_eq!(cut("t @ d").as_deref(), Some("t"));
        assert_eq!(cut("sum(t @ t, axis=2) + b[:, None]").as_deref(), Some("tb"));
    }

    #[test]
    fn what_mixes_rows_is_not() {
        for text in [
            "sum(a)",
            "sum(a, axis=0)",
            "a.T",
            "s + s.T",
            "b - mean(b)",
            "b[::-1]",
            "b[1:] - b[:-1]",
            "sum(a), b",
            "a.T @ a",
            "s @ s",
            "s.T @ s[0:1].T",
            "(a @ d).T",
            "sum(a @ d, axis=0)",
        ] {
            assert_eq!(cut(text), None, "{text}");
        }
    }
}
