//! Products of matrices as CUDA C: what [`numfuse_core::plan::Work::Matmul`] is on a device where no library does it.
//!
//! A [`Product`] is a launch in the form that both this and `cublas.rs` work on. A [`Program`] is the text for a
//! [`Class`] of products, in whose [`Tile`]s blocks compute the result; `matmul/kernel.cu` is that text, below the constants
//! that a class is. There is one text for all shapes: thin results take thin tiles, and where there are too few
//! tiles for a device, each is computed in stretches of the depth, which a second entry adds up.
//!
//! Invariants: tiles, stretches and grids follow from the launch, never from the device, so every device returns the same
//! bits. An element is the sum of its products in order, each multiplied and added with one rounding, stretch by stretch:
//! within the error of a sum of so many products. No address outside of the operands is read, whatever the sizes.

use crate::Error;
use crate::emit::{Dispatch, Grid, MOST_ROWS, Source, blocks};
use numfuse_core::dtype::DType;
use numfuse_core::launch::{ByteStrides, Launch, Layout, Sizes};
use smallvec::{SmallVec, smallvec};
use std::fmt::Write;

/// The text below the constants.
const KERNEL: &str = include_str!("matmul/kernel.cu");
/// Bytes of the widest load.
const WIDEST: usize = 16;
/// Results with at most so many columns are thin.
const THIN: usize = 8;
/// Steps of a stretch, at least: below that, adding stretches up costs more than they gain.
const LEAST_STEPS: usize = 8;
/// Threads that a multiprocessor has room for, so each may have 128 registers: while some wait for memory, others compute.
const RESIDENT: usize = 512;
/// Threads of a block that adds stretches up, along the elements and across them.
const ADDERS: [u32; 2] = [32, 8];
/// The words of the argument block that are addresses: `left`, `right`, `out`, and the workspace.
pub const ADDRESSES: usize = 4;

/// A product of matrices with the sizes and strides of its operands: `out[i, j]` is the sum over `k` of
/// `left[i, k] * right[k, j]`, for each index of a stack.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Product {
    pub(crate) dtype: DType,
    /// The sizes of the stack.
    pub(crate) outer: Sizes,
    /// The sizes of `i`, `j` and `k`.
    pub(crate) sizes: [usize; 3],
    /// `left`, `right` and `out`.
    pub(crate) places: [Place; 3],
    /// Which of the launch's operands each of these is: its transpose is computed where that is better.
    pub(crate) given: [usize; 3],
}

/// Byte strides of an operand.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Place {
    pub outer: ByteStrides,
    /// Along rows and columns: `i, k` of `left`; `k, j` of `right`; `i, j` of `out`.
    pub matrix: [isize; 2],
}

/// Places in [`Product::sizes`].
pub(crate) const I: usize = 0;
pub(crate) const J: usize = 1;
pub(crate) const K: usize = 2;
/// The sizes along rows and columns of each operand.
const AXES: [[usize; 2]; 3] = [[I, K], [K, J], [I, J]];

impl Product {
    /// The product of a launch.
    ///
    /// # Errors
    /// If the launch is not that of a product of matrices of floats.
    pub fn new(dtype: DType, launch: &Launch) -> Result<Product, Error> {
        let no_product = || Error::Internal(format!("not a product of matrices of {dtype}: {launch:?}"));
        let (&[i, j], &[k], [left, right, out]) =
            (launch.inner.as_slice(), launch.reduced.as_slice(), launch.layouts.as_slice())
        else {
            return Err(no_product());
        };
        let fits = |l: &Layout| (l.outer.len(), l.reduced.len(), l.inner.len()) == (launch.outer.len(), 1, 2);
        if !dtype.is_float() || ![left, right, out].into_iter().all(fits) {
            return Err(no_product());
        }
        let place = |l: &Layout, matrix: [isize; 2]| Place { outer: l.outer.clone(), matrix };
        let mut product = Product {
            dtype,
            outer: launch.outer.clone(),
            sizes: [i, j, k],
            places: [
                place(left, [left.inner[0], left.reduced[0]]),
                place(right, [right.reduced[0], right.inner[1]]),
                place(out, out.inner[..].try_into().map_err(|_| no_product())?),
            ],
            given: [0, 1, 2],
        };
        product.merge_stack();
        Ok(product)
    }

    /// The same product in the other order: the transpose of `right` times that of `left`.
    #[must_use]
    pub fn transposed(&self) -> Product {
        let place = |n: usize| {
            let Place { outer, matrix: [rows, columns] } = &self.places[n];
            Place { outer: outer.clone(), matrix: [*columns, *rows] }
        };
        let [i, j, k] = self.sizes;
        let given = [self.given[1], self.given[0], self.given[2]];
        Product { sizes: [j, i, k], places: [1, 0, 2].map(place), given, outer: self.outer.clone(), ..*self }
    }

    /// A stack of matrices with rows in one sequence, all multiplied by one matrix, is one matrix.
    fn merge_stack(&mut self) {
        while let Some(size) = self.outer.last().copied() {
            let rows = self.sizes[I];
            let strides = [0, 1, 2].map(|n| self.places[n].outer.last().copied().unwrap_or(0));
            let goes_on =
                |n: usize| rows == 1 || self.places[n].matrix[0].checked_mul(rows as isize) == Some(strides[n]);
            if strides[1] != 0 || !goes_on(0) || !goes_on(2) {
                return;
            }
            self.sizes[I] = rows * size;
            self.outer.pop();
            for (n, place) in self.places.iter_mut().enumerate() {
                place.outer.pop();
                if rows == 1 && n != 1 {
                    place.matrix[0] = strides[n];
                }
            }
        }
    }

    /// How many matrices there are.
    pub(crate) fn stack(&self) -> usize {
        self.outer.iter().product()
    }

    /// True if there is no element to be computed.
    pub(crate) fn is_empty(&self) -> bool {
        self.stack() == 0 || self.sizes[I] == 0 || self.sizes[J] == 0
    }

    /// The sizes of an operand along its rows and columns.
    pub(crate) fn extent(&self, n: usize) -> [usize; 2] {
        AXES[n].map(|axis| self.sizes[axis])
    }

    /// True if an operand's accesses of so many bytes are aligned, along one of the axes of its matrices.
    fn is_aligned(&self, n: usize, address: u64, bytes: usize, along: Option<usize>) -> bool {
        let place = &self.places[n];
        let across = (0..2).filter(|axis| Some(*axis) != along).map(|axis| place.matrix[axis]);
        address.is_multiple_of(bytes as u64)
            && place.outer.iter().copied().chain(across).all(|stride| stride.unsigned_abs().is_multiple_of(bytes))
    }

    /// An error if elements are not where elements of their dtype may be.
    pub(crate) fn check_aligned(&self, addresses: [u64; 3]) -> Result<(), Error> {
        let is_aligned = |n: usize| self.is_aligned(n, addresses[self.given[n]], self.dtype.size(), None);
        let reaches = |n: usize| !self.extent(n).contains(&0) && self.stack() > 0;
        if (0..3).all(|n| !reaches(n) || is_aligned(n)) {
            return Ok(());
        }
        Err(Error::Unsupported(format!("{} elements that are not aligned", self.dtype)))
    }

    /// The order in which its text computes it: thin results have few columns, others have columns that lie closer together
    /// than their rows.
    fn oriented(&self) -> Product {
        let [i, j, _] = self.sizes;
        let [down, along] = self.places[2].matrix.map(isize::unsigned_abs);
        let is_better = if i.min(j) <= THIN { i < j } else { down < along };
        if is_better { self.transposed() } else { self.clone() }
    }
}

/// The part of a result that a block computes.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Tile {
    /// Squares for results of many of them; of `f32` alone.
    Large,
    /// Squares.
    Medium,
    /// Squares for small results.
    Small,
    /// For few columns.
    Thin,
    /// For few rows and columns.
    Tiny,
}

/// What a tile is.
struct Form {
    rows: usize,
    columns: usize,
    /// How much of the depth is in shared memory at once.
    depth: usize,
    /// Rows and columns of a thread.
    each: [usize; 2],
    /// Blocks that a device should have at least; below that, there are stretches.
    blocks: usize,
}

impl Tile {
    /// All of them.
    pub const ALL: [Tile; 5] = [Tile::Large, Tile::Medium, Tile::Small, Tile::Thin, Tile::Tiny];

    fn form(self, dtype: DType) -> Form {
        let form = |rows, columns, depth, each, blocks| Form { rows, columns, depth, each, blocks };
        let is_single = dtype == DType::F32;
        match self {
            Tile::Large if is_single => form(128, 128, 16, [8, 8], 256),
            Tile::Large | Tile::Medium => form(64, 64, 16, [4, 4], 256),
            Tile::Small => form(32, 32, if is_single { 32 } else { 16 }, [2, 2], 256),
            Tile::Thin => form(128, 8, if is_single { 32 } else { 16 }, [4, 1], 512),
            Tile::Tiny => form(8, 8, 64, [1, 1], 512),
        }
    }

    /// The tile for a product.
    fn of(product: &Product) -> Tile {
        let [i, j, k] = product.sizes;
        if i.min(j) <= THIN {
            return if i.max(j) <= THIN { Tile::Tiny } else { Tile::Thin };
        }
        let squares: &[Tile] = if product.dtype == DType::F32 { &[Tile::Large, Tile::Medium] } else { &[Tile::Medium] };
        let suits = |tile: &&Tile| {
            let form = tile.form(product.dtype);
            let stretches = (k / (LEAST_STEPS * form.depth)).max(1);
            i.min(j) > form.rows / 2 && form.count(product).saturating_mul(stretches) >= form.blocks / 2
        };
        squares.iter().find(suits).copied().unwrap_or(Tile::Small)
    }
}

impl Form {
    fn threads(&self) -> usize {
        self.rows / self.each[0] * (self.columns / self.each[1])
    }

    /// The tiles of one matrix.
    fn in_matrix(&self, product: &Product) -> usize {
        product.sizes[I].div_ceil(self.rows).saturating_mul(product.sizes[J].div_ceil(self.columns))
    }

    /// The tiles of all matrices.
    fn count(&self, product: &Product) -> usize {
        self.in_matrix(product).saturating_mul(product.stack())
    }

    /// How the depth is cut: the length of a stretch, whole steps, and how many there are.
    fn stretches(&self, product: &Product) -> (usize, usize) {
        let steps = product.sizes[K].div_ceil(self.depth).max(1);
        let wanted = self.blocks.div_ceil(self.count(product).max(1));
        let stretch = steps.div_ceil(wanted).max(LEAST_STEPS).min(steps);
        (stretch * self.depth, steps.div_ceil(stretch))
    }
}

/// How an operand is read.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Read {
    /// Consecutive threads go along the depth, not across it.
    pub along_depth: bool,
    /// By 16 bytes.
    pub wide: bool,
}

impl Read {
    /// `depth` is the axis of the depth in the operand's matrices.
    fn new(product: &Product, n: usize, depth: usize, address: u64) -> Read {
        let Place { matrix, .. } = &product.places[n];
        let size = product.dtype.size() as isize;
        // Where an operand has one row or column, its stride is never taken.
        let [rows, columns] = product.extent(n);
        let steps = [if rows > 1 { matrix[0] } else { isize::MAX }, if columns > 1 { matrix[1] } else { isize::MAX }];
        let along_depth = steps[depth].unsigned_abs() <= steps[1 - depth].unsigned_abs();
        let along = if along_depth { depth } else { 1 - depth };
        let wide = steps[along] == size
            && product.extent(n)[along].is_multiple_of(WIDEST / product.dtype.size())
            && product.is_aligned(n, address, WIDEST, Some(along));
        Read { along_depth, wide }
    }
}

/// All that the sizes, strides and addresses of a product decide about its text.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Class {
    /// The element type.
    pub dtype: DType,
    /// What a block computes.
    pub tile: Tile,
    /// How `left` is read.
    pub left: Read,
    /// How `right` is read.
    pub right: Read,
    /// True if neighbours along a row of the result are written at once.
    pub wide: bool,
    /// True if there are several stretches.
    pub split: bool,
    /// Dimensions of the stack, or 1.
    pub rank: u8,
}

/// A product of matrices as CUDA C.
#[derive(Clone, Debug)]
pub struct Program {
    source: Source,
    class: Class,
}

/// A product as its text takes it: with a class, and in the order of that.
#[derive(Clone, Debug)]
pub struct Classified {
    product: Product,
    class: Class,
}

impl Classified {
    /// A product of operands that lie at these addresses, or at others that are aligned like them.
    ///
    /// # Errors
    /// If elements are not aligned.
    pub fn new(product: &Product, addresses: [u64; 3]) -> Result<Classified, Error> {
        Classified::with_tile(product, addresses, Tile::of(product))
    }

    /// The same in tiles that somebody chose; not all are fast, but all are right.
    pub fn with_tile(product: &Product, addresses: [u64; 3], tile: Tile) -> Result<Classified, Error> {
        product.check_aligned(addresses)?;
        let rank = u8::try_from(product.outer.len().max(1))
            .map_err(|_| Error::Unsupported(format!("a stack of {} dimensions", product.outer.len())))?;
        let product = product.oriented();
        let dtype = product.dtype;
        let form = tile.form(dtype);
        let addresses = product.given.map(|n| addresses[n]);
        let split = form.stretches(&product).1 > 1;
        let group = form.each[1].min(WIDEST / dtype.size());
        let bytes = group * dtype.size();
        let contiguous = split
            || product.places[2].matrix[1] == dtype.size() as isize
                && product.is_aligned(2, addresses[2], bytes, Some(1));
        let class = Class {
            dtype,
            tile,
            left: Read::new(&product, 0, 1, addresses[0]),
            right: Read::new(&product, 1, 0, addresses[1]),
            wide: contiguous && product.sizes[J].is_multiple_of(group),
            split,
            rank,
        };
        Ok(Classified { product, class })
    }

    /// Its class.
    pub fn class(&self) -> &Class {
        &self.class
    }

    /// The launches.
    ///
    /// # Errors
    /// If there are more blocks than a device has.
    pub fn dispatch(&self) -> Result<Dispatch, Error> {
        let Classified { product, class } = self;
        if product.is_empty() {
            return Ok(Dispatch { grids: smallvec![], workspace: 0 });
        }
        let form = class.tile.form(class.dtype);
        let (_, stretches) = form.stretches(product);
        let too_many = || Error::Unsupported("a launch of more blocks than a device has".into());
        let count = (product.stack() as u64).checked_mul(stretches as u64).ok_or_else(too_many)?;
        let y = count.min(MOST_ROWS);
        let z = count.div_ceil(y);
        if z > MOST_ROWS {
            return Err(too_many());
        }
        let x = blocks(form.in_matrix(product) as u64).ok_or_else(too_many)?;
        let threads = [form.threads() as u32, 1, 1];
        let mut grids = smallvec![Grid { entry: 0, blocks: [x, y as u32, z as u32], threads, shared: 0 }];
        let mut workspace = 0;
        if class.split {
            let elements = (product.stack() * product.sizes[I] * product.sizes[J]) as u64;
            workspace = elements * stretches as u64 * class.dtype.size() as u64;
            let x = blocks(elements.div_ceil(ADDERS[0].into())).ok_or_else(too_many)?;
            let [along, across] = ADDERS;
            grids.push(Grid { entry: 1, blocks: [x, 1, 1], threads: [along, across, 1], shared: 0 });
        }
        Ok(Dispatch { grids, workspace })
    }

    /// The argument block: first the addresses ([`ADDRESSES`]), which a run gives with [`Classified::addresses`].
    pub fn words(&self) -> SmallVec<[u64; 32]> {
        let Classified { product: Product { outer, sizes, places, .. }, class } = self;
        let (stretch, stretches) = class.tile.form(class.dtype).stretches(&self.product);
        let stack = self.product.stack();
        let mut words: SmallVec<[u64; 32]> = smallvec![0; ADDRESSES];
        words.extend([sizes[I], sizes[J], sizes[K], stretch, stretches, stack * stretches].map(|n| n as u64));
        words.extend(places.iter().flat_map(|place| place.matrix).map(|stride| stride as u64));
        let rank = usize::from(class.rank);
        let padded = |numbers: Vec<u64>, with: u64| numbers.into_iter().chain([with]).take(rank);
        words.extend(padded(outer.iter().map(|n| *n as u64).collect(), 1));
        for place in places {
            words.extend(padded(place.outer.iter().map(|stride| *stride as u64).collect(), 0));
        }
        words
    }

    /// The words of a run's addresses, from those of the launch's operands and that of the workspace.
    pub fn addresses(&self, addresses: [u64; 3], workspace: u64) -> [u64; ADDRESSES] {
        let [left, right, out] = self.product.given.map(|n| addresses[n]);
        [left, right, out, workspace]
    }
}

impl Program {
    /// The program for products of a class.
    pub fn new(class: &Class) -> Program {
        let form = class.tile.form(class.dtype);
        let mut text = format!("typedef {} T;\n", if class.dtype == DType::F32 { "float" } else { "double" });
        let numbers = [
            ("ROWS", form.rows),
            ("COLUMNS", form.columns),
            ("DEPTH", form.depth),
            ("ROWS_EACH", form.each[0]),
            ("COLUMNS_EACH", form.each[1]),
            ("RANK", class.rank.into()),
        ];
        let choices = [
            ("LEFT_ALONG_DEPTH", class.left.along_depth),
            ("LEFT_WIDE", class.left.wide),
            ("RIGHT_ALONG_DEPTH", class.right.along_depth),
            ("RIGHT_WIDE", class.right.wide),
            ("OUT_WIDE", class.wide),
            ("SPLIT", class.split),
        ];
        for (name, value) in numbers {
            let _ = writeln!(text, "constexpr int {name} = {value};");
        }
        for (name, value) in choices {
            let _ = writeln!(text, "constexpr bool {name} = {value};");
        }
        text.push_str(KERNEL);
        let mut entries = SmallVec::new();
        let mut entry = |name: &str, threads: usize, body: &str| {
            let resident = RESIDENT / threads;
            let _ = write!(
                text,
                "\nextern \"C\" __global__ void __launch_bounds__({threads}, {resident}) {name}(const __grid_constant__ Args a) {{\n    \
                 {body}(a);\n}}\n"
            );
            entries.push(name.to_owned());
        };
        entry("kernel_matmul", form.threads(), "multiply");
        if class.split {
            entry("kernel_matmul_add_up", (ADDERS[0] * ADDERS[1]) as usize, "add_up");
        }
        Program { source: Source { text, entries }, class: *class }
    }

    /// The text.
    pub fn source(&self) -> &Source {
        &self.source
    }

    /// What it is for.
    pub fn class(&self) -> &Class {
        &self.class
    }
}
