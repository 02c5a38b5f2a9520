//! Products of matrices for tests: operands that lie in memory in every way, and what their product is.

#![allow(dead_code, reason = "each test file uses a part of it")]

use numfuse_core::dtype::DType;
use numfuse_core::launch::{Launch, Layout, for_each_index};

/// How the operands lie.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Lie {
    /// All of them row by row; of the result, column by column where it says so.
    Rows { out: bool },
    /// `left`, `right`, or both, column by column.
    Columns { left: bool, right: bool },
    /// Row by row, but not at multiples of 16 bytes.
    Odd,
    /// With gaps, backwards, the same element for all of an axis, axes in any order.
    Any(u64),
}

pub const ROWS: Lie = Lie::Rows { out: true };

/// A product, and memory for it.
#[derive(Clone)]
pub struct Case {
    pub what: String,
    pub dtype: DType,
    pub launch: Launch,
    /// `left`, `right` and `out`: bytes, and where the first element is.
    pub memory: [(Vec<u8>, usize); 3],
}

/// A sequence of numbers that follows from a seed.
pub struct Random(pub u64);

impl Random {
    pub fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let x = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((x ^ (x >> 31)) % n as u64) as usize
    }
}

impl Case {
    /// `values` are the elements of `left` and `right`, in any order.
    pub fn new(dtype: DType, outer: &[usize], [m, k, n]: [usize; 3], lie: Lie, mut value: impl FnMut() -> f64) -> Case {
        let mut random = Random(if let Lie::Any(seed) = lie { seed } else { 0 });
        let mut launch = Launch {
            outer: outer.into(),
            reduced: [k].into_iter().collect(),
            inner: [m, n].into_iter().collect(),
            layouts: Vec::new(),
        };
        let memory = [[m, k], [k, n], [m, n]].map(|matrix| {
            let which = launch.layouts.len();
            let sizes: Vec<usize> = outer.iter().copied().chain(matrix).collect();
            let (strides, offset, bytes) = place(&mut random, dtype.size(), &sizes, lie, which);
            let mut block = (vec![0xff; bytes], offset);
            let reached: Vec<usize> =
                sizes.iter().zip(&strides).map(|(n, stride)| if *stride == 0 { (*n).min(1) } else { *n }).collect();
            if which < 2 {
                for_each_index(&reached, &[&strides], |at| put(&mut block.0, dtype, offset, at[0], value()));
            }
            let (stack, strides) = strides.split_at(outer.len());
            let (reduced, inner) = match which {
                0 => (strides[1], [strides[0], 0]),
                1 => (strides[0], [0, strides[1]]),
                _ => (0, [strides[0], strides[1]]),
            };
            launch.layouts.push(Layout {
                outer: stack.into(),
                reduced: [reduced].into_iter().collect(),
                inner: inner.into_iter().collect(),
            });
            block
        });
        Case { what: format!("{dtype} {outer:?} {m} x {k} x {n} {lie:?}"), dtype, launch, memory }
    }

    /// The bytes that the result should have, and for each element of it where it is and what its terms add up to in size.
    pub fn expected(&self) -> (Vec<u8>, Vec<(usize, f64, f64)>) {
        let (mut bytes, first) = self.memory[2].clone();
        let mut elements = Vec::new();
        let strides = |group: fn(&Layout) -> &[isize]| self.launch.layouts.iter().map(group).collect::<Vec<_>>();
        for_each_index(&self.launch.outer, &strides(|l| &l.outer), |matrix| {
            for_each_index(&self.launch.inner, &strides(|l| &l.inner), |at| {
                let (mut sum, mut size) = (0.0, 0.0);
                for_each_index(&self.launch.reduced, &strides(|l| &l.reduced), |k| {
                    let [x, y] = [0, 1].map(|n| {
                        let (bytes, first) = &self.memory[n];
                        get(bytes, self.dtype, *first, matrix[n] + at[n] + k[n])
                    });
                    sum += x * y;
                    size += (x * y).abs();
                });
                let place = matrix[2] + at[2];
                put(&mut bytes, self.dtype, first, place, sum);
                elements.push((first.strict_add_signed(place), sum, size));
            });
        });
        (bytes, elements)
    }
}

/// Exactly the sums, and the bytes of nothing else.
pub fn is_exact(case: &Case, found: &[u8]) {
    let (want, elements) = case.expected();
    if found == want {
        return;
    }
    let wrong = elements.iter().enumerate().filter(|(_, (at, sum, _))| get(found, case.dtype, *at, 0) != *sum);
    let wrong: Vec<String> =
        wrong.map(|(i, (at, sum, _))| format!("element {i}: {} for {sum}", get(found, case.dtype, *at, 0))).collect();
    panic!("{}: {} elements are wrong, or bytes of none: {:?}", case.what, wrong.len(), &wrong[..wrong.len().min(8)]);
}

/// Strides of an operand, where its first element is, and how many bytes it has.
pub fn place(random: &mut Random, size: usize, sizes: &[usize], lie: Lie, which: usize) -> (Vec<isize>, usize, usize) {
    let mut order: Vec<usize> = (0..sizes.len()).collect();
    let last = sizes.len() - 1;
    let is_columns = match lie {
        Lie::Columns { left, right } => [left, right, false][which],
        Lie::Rows { out } => which == 2 && !out,
        Lie::Odd | Lie::Any(_) => false,
    };
    if is_columns {
        order.swap(last, last - 1);
    }
    let is_any = matches!(lie, Lie::Any(_));
    if is_any {
        for i in 1..order.len() {
            order.swap(i, random.below(i + 1));
        }
    }
    let mut strides = vec![0isize; sizes.len()];
    let mut span = size;
    let mut offset = if lie == Lie::Odd { size } else { 0 };
    for axis in order.into_iter().rev() {
        if is_any && which < 2 && random.below(6) == 0 {
            continue;
        }
        if is_any {
            span += random.below(3) * size;
        }
        strides[axis] = span as isize;
        span *= sizes[axis].max(1);
        if is_any && random.below(4) == 0 {
            offset += strides[axis].unsigned_abs() * sizes[axis].saturating_sub(1);
            strides[axis] = -strides[axis];
        }
    }
    let bytes = if sizes.contains(&0) { 0 } else { span + if lie == Lie::Odd { size } else { 0 } };
    (strides, if sizes.contains(&0) { 0 } else { offset }, bytes)
}

pub fn get(bytes: &[u8], dtype: DType, first: usize, at: isize) -> f64 {
    let at = first.strict_add_signed(at);
    match dtype {
        DType::F32 => f32::from_ne_bytes(bytes[at..at + 4].try_into().expect("4 bytes")).into(),
        _ => f64::from_ne_bytes(bytes[at..at + 8].try_into().expect("8 bytes")),
    }
}

pub fn put(bytes: &mut [u8], dtype: DType, first: usize, at: isize, value: f64) {
    let at = first.strict_add_signed(at);
    match dtype {
        DType::F32 => bytes[at..at + 4].copy_from_slice(&(value as f32).to_ne_bytes()),
        _ => bytes[at..at + 8].copy_from_slice(&value.to_ne_bytes()),
    }
}

/// Small integers, whose products and sums are exact in any order.
pub fn integers() -> impl FnMut() -> f64 {
    let mut random = Random(7);
    move || random.below(7) as f64 - 3.0
}
