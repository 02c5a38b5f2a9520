//! Products of matrices against the interpreter's: within the error of a sum of so many products, for random shapes and
//! strides, aligned or not; with the same bits on any number of threads; and the bytes around the result untouched.

use numfuse_core::dtype::DType;
use numfuse_core::interp::{self, Bytes, Memory};
use numfuse_core::launch::{Launch, Layout, for_each_index};
use numfuse_cpu::{Error, Matmul, RunOptions};
use std::sync::atomic::AtomicBool;

/// A sequence of numbers that follows from a seed.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let x = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }

    fn pick<T: Copy>(&mut self, items: &[T]) -> T {
        items[self.below(items.len())]
    }
}

/// An operand: bytes, and the offset of the first element.
#[derive(Clone)]
struct Block {
    bytes: Vec<u8>,
    offset: usize,
}

struct Case {
    dtype: DType,
    launch: Launch,
    /// `left`, `right` and `out`.
    memory: [Block; 3],
}

/// How the operands lie in memory.
#[derive(Clone, Copy, PartialEq)]
enum Places {
    RowMajor,
    Any,
    /// Any, and not at multiples of the size of an element.
    Unaligned,
}

impl Case {
    fn new(random: &mut Random, dtype: DType, outer: &[usize], [m, k, n]: [usize; 3], places: Places) -> Case {
        let mut launch = Launch {
            outer: outer.into(),
            reduced: [k].into_iter().collect(),
            inner: [m, n].into_iter().collect(),
            layouts: Vec::new(),
        };
        let memory = [[m, k], [k, n], [m, n]].map(|matrix| {
            let is_out = launch.layouts.len() == 2;
            let sizes: Vec<usize> = outer.iter().copied().chain(matrix).collect();
            // An operand may be one matrix for all of a stack; the result may not.
            let broadcast: Vec<bool> =
                (0..sizes.len()).map(|axis| !is_out && axis < outer.len() && random.below(3) == 0).collect();
            let (strides, mut block) = place(random, dtype, &sizes, &broadcast, places);
            if is_out {
                // What was there before is nothing to add to: all NaN.
                block.bytes.fill(0xff);
            }
            let (stack, strides) = strides.split_at(outer.len());
            let mut layout = Layout { outer: stack.into(), ..Layout::default() };
            let (reduced, inner) = match launch.layouts.len() {
                0 => (strides[1], [strides[0], 0]),
                1 => (strides[0], [0, strides[1]]),
                _ => (0, [strides[0], strides[1]]),
            };
            layout.reduced.push(reduced);
            layout.inner.extend(inner);
            launch.layouts.push(layout);
            block
        });
        Case { dtype, launch, memory }
    }

    /// The bytes of the result, by the interpreter; of the absolute values of the operands if asked for.
    fn interpret(&self, absolute: bool) -> Vec<u8> {
        let [mut left, mut right, mut out] = self.memory.clone();
        if absolute {
            // The highest bit of an element is its sign, wherever in memory elements are.
            for (n, block) in [&mut left, &mut right].into_iter().enumerate() {
                self.each_element(n, |at| block.bytes[at + self.dtype.size() - 1] &= 0x7f);
            }
        }
        let memory = |block: &'_ Block| (block.offset, block.bytes.clone());
        let ((left_at, left), (right_at, right)) = (memory(&left), memory(&right));
        let mut memory = [
            Memory { bytes: Bytes::In(&left), offset: left_at },
            Memory { bytes: Bytes::In(&right), offset: right_at },
            Memory { bytes: Bytes::Out(&mut out.bytes), offset: out.offset },
        ];
        interp::matmul(self.dtype, &self.launch, &mut memory);
        out.bytes
    }

    fn run(&self, threads: usize, cancel: &AtomicBool) -> Result<Vec<u8>, Error> {
        let mut memory = self.memory.clone();
        let pointers = memory.each_mut().map(|block| block.bytes.as_mut_ptr().wrapping_add(block.offset));
        let matmul = Matmul::new(self.dtype, self.launch.clone()).expect("a product");
        // SAFETY: each block covers what the launch reaches in it; blocks are separate allocations.
        unsafe { matmul.run(pointers, &RunOptions { threads, cancel }) }?;
        let [_, _, out] = memory;
        Ok(out.bytes)
    }

    /// Calls `visit` with the place of every element of an operand in its bytes.
    fn each_element(&self, operand: usize, mut visit: impl FnMut(usize)) {
        let Launch { outer, reduced, inner, .. } = &self.launch;
        let sizes: Vec<usize> = outer.iter().chain(reduced).chain(inner).copied().collect();
        let Layout { outer, reduced, inner } = &self.launch.layouts[operand];
        let strides: Vec<isize> = outer.iter().chain(reduced).chain(inner).copied().collect();
        // The result has no reduced dimension, whose size may be 0.
        let sizes = if operand == 2 {
            sizes.iter().zip(&strides).map(|(n, s)| if *s == 0 { 1 } else { *n }).collect()
        } else {
            sizes
        };
        let sizes: Vec<usize> =
            sizes.iter().zip(&strides).map(|(n, s)| if *s == 0 { (*n).min(1) } else { *n }).collect();
        for_each_index(&sizes, &[&strides], |at| visit(self.memory[operand].offset.wrapping_add_signed(at[0])));
    }

    fn element(&self, bytes: &[u8], at: usize) -> f64 {
        match self.dtype {
            DType::F32 => f64::from(f32::from_ne_bytes(bytes[at..at + 4].try_into().expect("4 bytes"))),
            _ => f64::from_ne_bytes(bytes[at..at + 8].try_into().expect("8 bytes")),
        }
    }

    /// Holds a run against the interpreter.
    fn check(&self, what: &str) {
        let never = AtomicBool::new(false);
        let found = self.run(1, &never).expect("it runs");
        for threads in [2, 3, 7] {
            assert!(self.run(threads, &never).expect("it runs") == found, "{what}: other bits on {threads} threads");
        }
        let (want, sizes) = (self.interpret(false), self.interpret(true));
        let epsilon = if self.dtype == DType::F32 { f64::from(f32::EPSILON) } else { f64::EPSILON };
        let terms = self.launch.reduced[0] as f64;
        let mut is_element = vec![false; found.len()];
        self.each_element(2, |at| {
            let [found, want, size] = [&found, &want, &sizes].map(|bytes| self.element(bytes, at));
            let near = (found - want).abs() <= terms * epsilon * size;
            assert!(near || found == want, "{what}: {found} instead of {want}, of terms that add up to {size}");
            is_element[at..at + self.dtype.size()].fill(true);
        });
        let before = &self.memory[2].bytes;
        let touched = (0..found.len()).find(|at| !is_element[*at] && found[*at] != before[*at]);
        assert_eq!(touched, None, "{what}: a byte of no element");
    }
}

/// Strides for an array of these sizes, and memory for it, filled with numbers around zero.
fn place(
    random: &mut Random,
    dtype: DType,
    sizes: &[usize],
    broadcast: &[bool],
    places: Places,
) -> (Vec<isize>, Block) {
    let size = dtype.size();
    let mut order: Vec<usize> = (0..sizes.len()).collect();
    if places != Places::RowMajor {
        for i in 1..order.len() {
            order.swap(i, random.below(i + 1));
        }
    }
    let mut strides = vec![0isize; sizes.len()];
    let mut span = size;
    let mut offset = if places == Places::Unaligned { 1 + random.below(size - 1) } else { 0 };
    for axis in order.into_iter().rev().filter(|axis| !broadcast[*axis]) {
        if places != Places::RowMajor {
            span += random.pick(&[0, 0, 1, 3]) * size;
        }
        if places == Places::Unaligned {
            span += random.below(3);
        }
        strides[axis] = span as isize;
        span *= sizes[axis].max(1);
        if places != Places::RowMajor && random.below(4) == 0 {
            offset += strides[axis] as usize * sizes[axis].saturating_sub(1);
            strides[axis] = -strides[axis];
        }
    }
    let mut bytes: Vec<u8> = vec![0x5a; span + 2 * size];
    let filled: Vec<usize> =
        sizes.iter().zip(&strides).map(|(n, stride)| if *stride == 0 { (*n).min(1) } else { *n }).collect();
    for_each_index(&filled, &[&strides], |at| {
        let x = (random.next() as i32) as f64 / 2f64.powi(20);
        let at = offset.wrapping_add_signed(at[0]);
        match dtype {
            DType::F32 => bytes[at..at + 4].copy_from_slice(&(x as f32).to_ne_bytes()),
            _ => bytes[at..at + 8].copy_from_slice(&x.to_ne_bytes()),
        }
    });
    (strides, Block { bytes, offset })
}

/// Sizes around those of vectors, of the library's tiles, and of blocks.
const SIZES: &[usize] = &[1, 2, 3, 4, 7, 8, 16, 17, 31, 33, 48, 65, 127, 130];

#[test]
fn random_products_are_near_those_of_the_interpreter() {
    for seed in 0..250 {
        let mut random = Random(seed);
        let dtype = random.pick(&[DType::F32, DType::F64]);
        let places = random.pick(&[Places::RowMajor, Places::Any, Places::Any, Places::Unaligned]);
        let outer: Vec<usize> = (0..random.pick(&[0, 0, 0, 1, 2])).map(|_| random.pick(&[1, 2, 3, 5])).collect();
        let mut size = || if random.below(25) == 0 { 0 } else { random.pick(SIZES) };
        let sizes = [size(), size(), size()];
        if sizes.iter().product::<usize>() > 200_000 {
            continue;
        }
        // A plan leaves out what has no elements.
        let [m, _, n] = sizes.map(|n| n.max(1));
        let case = Case::new(&mut random, dtype, &outer, [m, sizes[1], n], places);
        case.check(&format!("seed {seed}, {dtype}, {outer:?}, {sizes:?}"));
    }
}

#[test]
fn products_of_many_blocks() {
    for (seed, (dtype, outer, sizes)) in [
        (DType::F64, vec![], [300, 20, 530]),
        (DType::F32, vec![], [1030, 6, 260]),
        (DType::F64, vec![], [3, 50, 3000]),
        (DType::F32, vec![], [5000, 7, 2]),
        (DType::F64, vec![], [2, 30_000, 3]),
        (DType::F64, vec![3000], [3, 3, 3]),
        (DType::F32, vec![40, 3], [20, 30, 10]),
    ]
    .into_iter()
    .enumerate()
    {
        for places in [Places::RowMajor, Places::Any] {
            let case = Case::new(&mut Random(seed as u64), dtype, &outer, sizes, places);
            case.check(&format!("{dtype}, {outer:?}, {sizes:?}"));
        }
    }
}

/// Integers are exact in any order: what is added up in several stretches is complete.
#[test]
fn long_sums_are_whole() {
    let (m, k, n) = (512, 2300, 600);
    let mut random = Random(0);
    let mut case = Case::new(&mut random, DType::F32, &[], [m, k, n], Places::RowMajor);
    let value = |i: usize| ((i * 7 + i / 13) % 5) as f32 - 2.0;
    for block in &mut case.memory[..2] {
        for (i, element) in block.bytes.chunks_exact_mut(4).enumerate() {
            element.copy_from_slice(&value(i).to_ne_bytes());
        }
    }
    let found = case.run(2, &AtomicBool::new(false)).expect("it runs");
    for (i, j) in [(0, 0), (1, 599), (511, 0), (511, 599), (300, 301), (127, 128)] {
        let want: f32 = (0..k).map(|l| value(i * k + l) * value(l * n + j)).sum();
        assert_eq!(case.element(&found, 4 * (i * n + j)), f64::from(want), "{i}, {j}");
    }
}

#[test]
fn special_values_go_through() {
    for size in [2, 20, 70] {
        let mut case = Case::new(&mut Random(1), DType::F64, &[], [size, size, size], Places::RowMajor);
        case.memory[0].bytes[..8].copy_from_slice(&f64::INFINITY.to_ne_bytes());
        case.memory[0].bytes[8 * size..8 * size + 8].copy_from_slice(&f64::NAN.to_ne_bytes());
        case.memory[1].bytes[..8].copy_from_slice(&0f64.to_ne_bytes());
        let found = case.run(1, &AtomicBool::new(false)).expect("it runs");
        let at = |i: usize, j: usize| case.element(&found, 8 * (i * size + j));
        assert!(at(0, 0).is_nan() && at(0, 1).is_infinite(), "{size}");
        assert!((0..size).all(|j| at(1, j).is_nan()), "{size}");
    }
}

#[test]
fn products_can_be_cancelled() {
    let case = Case::new(&mut Random(2), DType::F64, &[], [600, 10, 600], Places::RowMajor);
    for threads in [1, 2] {
        assert_eq!(case.run(threads, &AtomicBool::new(true)), Err(Error::Cancelled));
    }
}

#[test]
fn what_is_no_product_is_refused() {
    let case = Case::new(&mut Random(3), DType::F64, &[2], [3, 4, 5], Places::RowMajor);
    assert!(Matmul::new(DType::I64, case.launch.clone()).is_err());
    let mut launch = case.launch.clone();
    launch.layouts.pop();
    assert!(Matmul::new(DType::F64, launch).is_err());
    let mut launch = case.launch;
    launch.layouts[1].outer.clear();
    assert!(Matmul::new(DType::F64, launch).is_err());
}
