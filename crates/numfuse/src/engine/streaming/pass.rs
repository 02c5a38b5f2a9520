//! The running of passes (`passes.rs`): tiles of each through the device, states of reductions merged there.

use super::passes::{Operand, Output, Pass, Passes, Root, Source, Target};
use super::pipeline::{self, Part, Pipeline, Staged};
use super::tiles::{Ranges, Tiling, boxes};
use super::{Job, PART, Room, SHARE, computed, products};
use crate::array::Array;
use crate::engine::program::limit;
use crate::engine::run::Results;
use crate::error::{Error, Result};
use crate::view::{ArrayMut, ArrayRef};
use numfuse_core::diagnostic::Code;
use numfuse_core::graph::Graph;
use numfuse_core::kernel::Reducer;
use numfuse_core::literal::Literal;
use smallvec::SmallVec;

/// About how many bytes go to the device and come back, for these sizes of all dimensions; none if some pass has nothing to
/// go through, which passes do not do.
pub(super) fn bytes(graph: &Graph, passes: &Passes, sizes: &[u64]) -> Option<u64> {
    let mut bytes = 0u64;
    for pass in &passes.list {
        let lens = pass.lens(sizes);
        if lens.contains(&0) {
            return None;
        }
        for (operand, input) in pass.operands.iter().zip(&pass.program.inputs) {
            let along = lens.iter().zip(&operand.runs).filter(|(_, runs)| **runs);
            let elements = along.fold(1u64, |n, (len, _)| n.saturating_mul(*len));
            bytes = bytes.saturating_add(elements.saturating_mul(input.dtype.size() as u64));
        }
        for root in &pass.roots {
            let node = graph.node(root.node);
            let elements = node.shape.iter().fold(1u64, |n, dim| n.saturating_mul(sizes[dim.index()]));
            bytes = bytes.saturating_add(elements.saturating_mul(node.dtype.size() as u64));
        }
    }
    Some(bytes)
}

/// Evaluates passes into arrays that overlap no input.
pub(super) fn run(job: Job<'_>, passes: &Passes, room: &Room, outputs: &mut [ArrayMut<'_>]) -> Result<()> {
    let Job { shared, variant, sizes, .. } = job;
    let graph = &variant.plan.graph;
    let shape = |root: &Root| -> SmallVec<[u64; 4]> {
        graph.node(root.node).shape.iter().map(|dim| sizes[dim.index()]).collect()
    };
    let mut stored: Vec<Option<Array>> = passes.stored.iter().map(|_| None).collect();
    let mut stored_bytes = 0usize;
    for pass in &passes.list {
        let mut own: Vec<(usize, Array)> = Vec::new();
        for root in &pass.roots {
            if let Target::Stored(place) = root.target {
                let array = Array::uninitialized(graph.node(root.node).dtype, &shape(root))?;
                stored_bytes = stored_bytes.saturating_add(array.len() * array.dtype().size());
                own.push((place, array));
            }
        }
        limit("temporaries", stored_bytes, shared.limits.temp_bytes)?;
        {
            let mut targets: Vec<(Target, ArrayMut<'_>)> = Vec::new();
            for (n, output) in outputs.iter_mut().enumerate() {
                targets.push((Target::Output(n), output.reborrow()));
            }
            targets.extend(own.iter_mut().map(|(place, array)| (Target::Stored(*place), array.view_mut())));
            let mut results: Vec<ArrayMut<'_>> = Vec::new();
            for root in &pass.roots {
                let found = targets.iter().position(|(target, _)| *target == root.target);
                let found = found.ok_or_else(|| Error::new(Code::Internal, "a pass that writes nowhere"))?;
                results.push(targets.swap_remove(found).1);
            }
            run_pass(job, pass, room, &stored, &mut results)?;
        }
        for (place, array) in own {
            for (_, guard) in passes.guards.iter().filter(|(guarded, _)| *guarded == place) {
                if array.item::<bool>()? {
                    return Err(graph.guards[*guard].error.clone().into());
                }
            }
            stored[place] = Some(array);
        }
    }
    for (n, output) in passes.outputs.iter().enumerate() {
        match *output {
            Output::Written => {}
            Output::Stored(place) => outputs[n].copy_from(&in_place(&stored, place)?.view())?,
            Output::Same(other) => {
                let (before, rest) = outputs.split_at_mut(n);
                rest[0].copy_from(&before[other].as_ref())?;
            }
        }
    }
    Ok(())
}

fn in_place(stored: &[Option<Array>], place: usize) -> Result<&Array> {
    stored[place].as_ref().ok_or_else(|| Error::new(Code::Internal, "a pass that reads what is not there yet"))
}

/// Runs one pass into the places of its roots.
fn run_pass(
    job: Job<'_>,
    pass: &Pass,
    room: &Room,
    stored: &[Option<Array>],
    results: &mut [ArrayMut<'_>],
) -> Result<()> {
    let Job { shared, backend, sizes, inputs, flag, .. } = job;
    let domain: SmallVec<[u64; 4]> = pass.domain.iter().map(|dim| sizes[dim.index()]).collect();
    let mut sources: SmallVec<[ArrayRef<'_>; 3]> = SmallVec::new();
    for operand in &pass.operands {
        let source = match &operand.source {
            Source::Input(n) => inputs[*n as usize].clone(),
            Source::Stored(place) => in_place(stored, *place)?.view(),
            Source::Size(dims) => {
                let count: u64 = dims.iter().map(|dim| sizes[dim.index()]).product();
                ArrayRef::from_literal(Literal::i64(count as i64), true)
            }
        };
        // A scalar has no dimensions, whatever it was taken of.
        let domain = if operand.runs.is_empty() { &[][..] } else { &domain[..] };
        sources.push(source.spread(&operand.views, &operand.axes, domain)?);
    }
    let lens = pass.lens(sizes);
    let is_map = pass.folded.is_none();
    let element: usize = sources.iter().filter(|source| !source.shape().is_empty()).map(|s| s.dtype().size()).sum();
    let written: usize = results.iter().filter(|_| is_map).map(|result| result.dtype().size()).sum();
    let part = PART.min(room.free / SHARE);
    let budget = match pass.is_product {
        false => part / (element + written).max(1) as u64,
        true => match products::whole_matrices(&lens, results[0].dtype(), part) {
            Some(elements) => elements,
            None => return products::run(job, pass, room, &sources, &lens, results),
        },
    };
    let tiling = Tiling::new(&lens, pass.grain(), budget);
    // What is the same in every tile stays on the device.
    let is_ranked = |n: usize| !pass.operands[n].runs.is_empty();
    let moves = |n: usize| (0..lens.len()).any(|g| tiling.is_cut(g) && pass.operands[n].runs[g]);
    let all: Ranges = lens.iter().map(|len| 0..*len).collect();
    let mut kept: Vec<Option<Array>> = Vec::new();
    for (n, source) in sources.iter().enumerate() {
        let stays = is_ranked(n) && !moves(n);
        kept.push(match stays {
            true => {
                // Along a group that is cut it is the same everywhere.
                let packed = staged(pass, n, source, &all)?.packed(shared.threads)?;
                Some(packed.to_device(&shared.device)?)
            }
            false => None,
        });
    }
    let views: SmallVec<[ArrayRef<'_>; 3]> =
        sources.iter().zip(&kept).map(|(s, kept)| kept.as_ref().map_or_else(|| s.clone(), Array::view)).collect();
    let travels: SmallVec<[usize; 3]> = (0..sources.len()).filter(|n| is_ranked(*n) && moves(*n)).collect();
    let most = |n: &usize| {
        let runs = tiling.largest().iter().zip(&pass.operands[*n].runs);
        runs.filter(|(_, runs)| **runs).map(|(len, _)| *len).product::<u64>() as usize * sources[*n].dtype().size()
    };
    // The depth of a product is not one of its result's, either.
    let gone = pass.folded.map(|(folded, _)| folded).or_else(|| pass.is_product.then(|| lens.len() - 2));
    let kept_groups: SmallVec<[usize; 4]> = (0..lens.len()).filter(|g| Some(*g) != gone).collect();
    let tile_results: u64 = kept_groups.iter().map(|g| tiling.largest()[*g]).product();
    let input_bytes = pipeline::room(travels.iter().map(most));
    let output_bytes = pipeline::room(results.iter().map(|result| tile_results as usize * result.dtype().size()));
    let part = |k: usize| {
        let ranges = tiling.ranges(k);
        let staged = travels.iter().map(|n| staged(pass, *n, &sources[*n], &ranges)).collect::<Result<_>>()?;
        let own: Ranges = kept_groups.iter().map(|g| ranges[*g].clone()).collect();
        let results = tiling.ends_chain(k).then(|| pass.roots.iter().map(|_| own.clone()).collect());
        Ok(Part { inputs: staged, results })
    };
    let mut chain = Chain { roots: &pass.roots, states: Vec::new() };
    let compute = |k: usize, views: &[ArrayRef<'_>]| {
        let results = computed(shared, &pass.program, views, flag)?;
        let Some((group, _)) = pass.folded else { return Ok(results) };
        let range = tiling.ranges(k)[group].clone();
        chain.push(results, range.end - range.start)?;
        if tiling.ends_chain(k) { chain.finish() } else { Ok(Results::new()) }
    };
    let pipeline = Pipeline { shared, backend, input_bytes, output_bytes };
    pipeline.run(tiling.count(), &views, results, part, compute)
}

/// What of an operand, seen in its pass's domain, a tile needs.
pub(super) fn staged<'a>(
    pass: &Pass,
    n: usize,
    source: &ArrayRef<'a>,
    ranges: &[std::ops::Range<u64>],
) -> Result<Staged<'a>> {
    let Operand { runs, .. } = &pass.operands[n];
    let mut shape = SmallVec::new();
    // Boxes of the dimensions of all groups so far. Only the folded group has several, and those before it are then at one
    // index, so that the boxes follow each other in memory.
    let mut found: SmallVec<[Ranges; 1]> = SmallVec::from_iter([Ranges::new()]);
    for ((group, range), runs) in pass.groups.iter().zip(ranges).zip(runs) {
        let dims = &source.shape()[group.clone()];
        let of_group = match runs {
            true => boxes(dims, range.clone()),
            false => SmallVec::from_iter([dims.iter().map(|_| 0..1).collect()]),
        };
        shape.push(if *runs { range.end - range.start } else { 1 });
        let join = |before: &Ranges| {
            let joined = |own: &Ranges| before.iter().chain(own).cloned().collect();
            of_group.iter().map(joined).collect::<SmallVec<[Ranges; 1]>>()
        };
        found = found.iter().flat_map(join).collect();
    }
    let pieces = found.iter().map(|ranges| source.part(ranges)).collect::<Result<_>>()?;
    Ok(Staged { input: n, dtype: source.dtype(), shape, pieces })
}

/// The states of the tiles of a chain, of which neighbours of the same height are merged as soon as there are two: the tree
/// of the reduction, from the left.
struct Chain<'p> {
    roots: &'p [Root],
    states: Vec<State>,
}

struct State {
    /// How many tiles it is of.
    tiles: u64,
    /// How many elements each result is of.
    elements: u64,
    /// The components of each root, one after the other.
    components: Results,
}

impl Chain<'_> {
    fn push(&mut self, components: Results, elements: u64) -> Result<()> {
        self.states.push(State { tiles: 1, elements, components });
        while let [.., left, right] = self.states.as_slice()
            && left.tiles == right.tiles
        {
            self.merge_last()?;
        }
        Ok(())
    }

    /// What all tiles give; what has no neighbour moves up unchanged.
    fn finish(&mut self) -> Result<Results> {
        while self.states.len() > 1 {
            self.merge_last()?;
        }
        let state = self.states.pop().map(|state| state.components).unwrap_or_default();
        let mut state = state.into_iter();
        let mut results = Results::new();
        for root in self.roots {
            let components: SmallVec<[Array; 2]> = state.by_ref().take(root.components().len()).collect();
            let result = root.reducer.map_or(0, Reducer::result);
            results.extend(components.into_iter().nth(result));
        }
        Ok(results)
    }

    fn merge_last(&mut self) -> Result<()> {
        let (Some(right), Some(left)) = (self.states.pop(), self.states.pop()) else { return Ok(()) };
        let counts = [left.elements, right.elements];
        let mut components = Results::new();
        let mut at = 0;
        for root in self.roots {
            let Some(reducer) = root.reducer else { continue };
            let end = at + root.components().len();
            components.extend(Array::merged(reducer, &left.components[at..end], &right.components[at..end], counts)?);
            at = end;
        }
        let tiles = left.tiles + right.tiles;
        self.states.push(State { tiles, elements: left.elements + right.elements, components });
        Ok(())
    }
}
