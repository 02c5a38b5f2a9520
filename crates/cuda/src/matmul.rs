//! Products of matrices as CUDA C: what [`numfuse_core::plan::Work::Matmul`] is on a device where no library does it.
//!
//! A [`Product`] is a launch in the form that both this and `cublas.rs` work on. A [`Program`] is the text for a
//! [`Class`] of products, in whose [`Tile`]s blocks compute the result; `matmul/kernel.cu` is that text, below the constants
//! that a class is. There is one text for all shapes: thin results take thin tiles, and where there are too few
//! tiles for a device, each is computed in stretches of the depth, which a second entry adds up.
//!
//! Kernels may be fused into a product ([`Fused`]): those of `left` and `right` compute elements on their way to shared
//! memory, that of `out` makes of each sum what is stored. They change no bit of a sum.
//!
//! Invariants: tiles, stretches and grids follow from the launch, never from the device, so every device returns the same
//! bits. An element is the sum of its products in order, each multiplied and added with one rounding, stretch by stretch:
//! within the error of a sum of so many products. No address outside of the operands is read, whatever the sizes.

use crate::Error;
use crate::emit::{Dispatch, Elements, Fused, Grid, MOST_ROWS, Source, blocks};
use numfuse_core::dtype::DType;
use numfuse_core::kernel::Role;
use numfuse_core::launch::{ByteStrides, Launch, Layout, Sizes};
use smallvec::{SmallVec, smallvec};
use std::fmt::Write;
use std::sync::Arc;

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
    pub(crate) sides: [Side; 3],
    /// The product without what is fused into it, whose stack may merge with its rows where this one's does not. Tiles and
    /// stretches are chosen for that one, so that the bits do not depend on what is fused.
    alone: Option<Box<Product>>,
}

/// What is read or written for an operand of a product: that, or the operands of a kernel that is fused into it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Side {
    fused: Option<Arc<Fused>>,
    /// Where each of them lies.
    places: SmallVec<[Place; 1]>,
    /// The one by which accesses are arranged.
    lead: usize,
    /// Where they begin among the launch's operands, and where the kernel's parameters do among all that there are.
    first: usize,
    first_param: usize,
}

impl Side {
    /// Where it lies, or what accesses are arranged by.
    pub fn place(&self) -> &Place {
        &self.places[self.lead]
    }

    /// Which of the launch's operands that is.
    pub fn given(&self) -> usize {
        self.first + self.lead
    }
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
    /// The product of a launch with nothing fused into it.
    ///
    /// # Errors
    /// If the launch is not that of a product of matrices of floats.
    pub fn new(dtype: DType, launch: &Launch) -> Result<Product, Error> {
        Product::with_sides(dtype, launch, [None, None, None])
    }

    /// This product with kernels fused into `left`, `right` and `out`. The launch has a layout for each of these, or in its place
    /// one for each operand of the kernel that is in memory.
    ///
    /// # Errors
    /// If the launch is not such a one.
    pub fn fuse(self, launch: &Launch, fused: [Option<Fused>; 3]) -> Result<Product, Error> {
        let product = Product::with_sides(self.dtype, launch, fused)?;
        Ok(Product { alone: Some(Box::new(self)), ..product })
    }

    fn with_sides(dtype: DType, launch: &Launch, fused: [Option<Fused>; 3]) -> Result<Product, Error> {
        let no_product = || Error::Internal(format!("not a product of matrices of {dtype}: {launch:?}"));
        let (&[i, j], &[k]) = (launch.inner.as_slice(), launch.reduced.as_slice()) else { return Err(no_product()) };
        let fits = |l: &Layout| (l.outer.len(), l.reduced.len(), l.inner.len()) == (launch.outer.len(), 1, 2);
        let counts = fused.each_ref().map(|kernel| kernel.as_ref().map_or(1, |kernel| kernel.memory().count()));
        let is_whole = launch.layouts.len() == counts.iter().sum() && !counts.contains(&0);
        if !dtype.is_float() || !is_whole || !launch.layouts.iter().all(fits) {
            return Err(no_product());
        }
        let (mut first, mut first_param) = (0, 0);
        let mut n = 0;
        let sides = fused.map(|fused| {
            let places = launch.layouts[first..first + counts[n]].iter().map(|l| Place {
                outer: l.outer.clone(),
                matrix: [[l.inner[0], l.reduced[0]], [l.reduced[0], l.inner[1]], [l.inner[0], l.inner[1]]][n],
            });
            let places: SmallVec<[Place; 1]> = places.collect();
            let is_lead = |(at, place): (usize, &Place)| match &fused {
                Some(fused) if n == 2 => {
                    fused.memory().nth(at).is_some_and(|operand| fused.kernel.operands[operand].role == Role::Out)
                }
                _ => !place.matrix.contains(&0),
            };
            let lead = places.iter().enumerate().position(is_lead).unwrap_or(0);
            let params = fused.as_ref().map_or(0, |fused| fused.kernel.params.len());
            let side = Side { fused: fused.map(Arc::new), places, lead, first, first_param };
            first += counts[n];
            first_param += params;
            n += 1;
            side
        });
        let mut product = Product { dtype, outer: launch.outer.clone(), sizes: [i, j, k], sides, alone: None };
        product.merge_stack();
        Ok(product)
    }

    /// The same product in the other order: the transpose of `right` times that of `left`.
    #[must_use]
    pub fn transposed(&self) -> Product {
        let [i, j, k] = self.sizes;
        let sides = [1, 0, 2].map(|n| {
            let mut side = self.sides[n].clone();
            side.places.iter_mut().for_each(|place| place.matrix.reverse());
            side
        });
        Product { sizes: [j, i, k], sides, outer: self.outer.clone(), dtype: self.dtype, alone: self.alone.clone() }
    }

    /// True if a kernel is fused into it.
    pub fn is_fused(&self) -> bool {
        self.sides.iter().any(|side| side.fused.is_some())
    }

    /// A stack of matrices with rows in one sequence, all multiplied by one matrix, is one matrix.
    fn merge_stack(&mut self) {
        while let Some(size) = self.outer.last().copied() {
            let rows = self.sizes[I];
            let stride = |place: &Place| place.outer.last().copied().unwrap_or(0);
            let goes_on =
                |place: &Place| rows == 1 || place.matrix[0].checked_mul(rows as isize) == Some(stride(place));
            let [left, right, out] = &self.sides;
            if !right.places.iter().all(|place| stride(place) == 0)
                || !left.places.iter().chain(&out.places).all(goes_on)
            {
                return;
            }
            self.sizes[I] = rows * size;
            self.outer.pop();
            for (n, side) in self.sides.iter_mut().enumerate() {
                for place in &mut side.places {
                    let stride = place.outer.pop().unwrap_or(0);
                    if rows == 1 && n != 1 {
                        place.matrix[0] = stride;
                    }
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

    /// An error if elements are not where elements of their dtype may be.
    pub(crate) fn check_aligned(&self, addresses: &[u64]) -> Result<(), Error> {
        for (n, side) in self.sides.iter().enumerate() {
            let reaches = self.stack() > 0 && !self.extent(n).contains(&0);
            let operands = side.fused.as_ref().map(|fused| fused.memory().map(|n| fused.kernel.operands[n].dtype));
            let dtypes: SmallVec<[DType; 4]> =
                operands.map_or_else(|| smallvec![self.dtype], |operands| operands.collect());
            for (at, (place, dtype)) in side.places.iter().zip(dtypes).enumerate() {
                if reaches && !is_aligned(place, addresses[side.first + at], dtype.size(), None) {
                    return Err(Error::Unsupported(format!("{dtype} elements that are not aligned")));
                }
            }
        }
        Ok(())
    }

    /// How many operands in memory it has.
    pub(crate) fn operands(&self) -> usize {
        self.sides.iter().map(|side| side.places.len()).sum()
    }

    /// The order in which its text computes it: thin results have few columns, others have columns that lie closer together
    /// than their rows.
    fn oriented(&self) -> Product {
        let [i, j, _] = self.sizes;
        let [down, along] = self.sides[2].place().matrix.map(isize::unsigned_abs);
        let is_better = if i.min(j) <= THIN { i < j } else { down < along };
        if is_better { self.transposed() } else { self.clone() }
    }
}

/// True if accesses of so many bytes are aligned, along one of the axes of the matrices.
fn is_aligned(place: &Place, address: u64, bytes: usize, along: Option<usize>) -> bool {
    let across = (0..2).filter(|axis| Some(*axis) != along).map(|axis| place.matrix[axis]);
    address.is_multiple_of(bytes as u64)
        && place.outer.iter().copied().chain(across).all(|stride| stride.unsigned_abs().is_multiple_of(bytes))
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

    /// How the depth is cut: the length of a stretch, whole steps, and how many there are. Of a product in its order.
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
    fn new(product: &Product, n: usize, depth: usize, addresses: &[u64]) -> Read {
        let side = &product.sides[n];
        let (place, address) = (side.place(), addresses[side.given()]);
        let size = product.dtype.size() as isize;
        // Where an operand has one row or column, its stride is never taken.
        let extent = product.extent(n);
        let steps = [0, 1].map(|axis| if extent[axis] > 1 { place.matrix[axis] } else { isize::MAX });
        let along_depth = steps[depth].unsigned_abs() <= steps[1 - depth].unsigned_abs();
        let along = if along_depth { depth } else { 1 - depth };
        let wide = side.fused.is_none()
            && steps[along] == size
            && extent[along].is_multiple_of(WIDEST / product.dtype.size())
            && is_aligned(place, address, WIDEST, Some(along));
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
    /// Steps of a stretch, and how many stretches there are.
    stretches: (usize, usize),
}

impl Classified {
    /// A product of operands that lie at these addresses, or at others that are aligned like them.
    ///
    /// # Errors
    /// If elements are not aligned.
    pub fn new(product: &Product, addresses: &[u64]) -> Result<Classified, Error> {
        Classified::with_tile(product, addresses, Tile::of(product.alone.as_deref().unwrap_or(product)))
    }

    /// The same in tiles that somebody chose; not all are fast, but all are right.
    pub fn with_tile(product: &Product, addresses: &[u64], tile: Tile) -> Result<Classified, Error> {
        if addresses.len() != product.operands() {
            return Err(Error::Internal(format!("{} addresses for {product:?}", addresses.len())));
        }
        product.check_aligned(addresses)?;
        let rank = u8::try_from(product.outer.len().max(1))
            .map_err(|_| Error::Unsupported(format!("a stack of {} dimensions", product.outer.len())))?;
        let product = product.oriented();
        let dtype = product.dtype;
        let form = tile.form(dtype);
        let stretches = match &product.alone {
            Some(alone) => form.stretches(&alone.oriented()),
            None => form.stretches(&product),
        };
        let split = stretches.1 > 1;
        let group = form.each[1].min(WIDEST / dtype.size());
        let out = &product.sides[2];
        let contiguous = split
            || out.fused.is_none()
                && out.place().matrix[1] == dtype.size() as isize
                && is_aligned(out.place(), addresses[out.given()], group * dtype.size(), Some(1));
        let class = Class {
            dtype,
            tile,
            left: Read::new(&product, 0, 1, addresses),
            right: Read::new(&product, 1, 0, addresses),
            wide: contiguous && product.sizes[J].is_multiple_of(group),
            split,
            rank,
        };
        Ok(Classified { product, class, stretches })
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
        let Classified { product, class, stretches: (_, stretches) } = self;
        if product.is_empty() {
            return Ok(Dispatch { grids: smallvec![], workspace: 0 });
        }
        let form = class.tile.form(class.dtype);
        let too_many = || Error::Unsupported("a launch of more blocks than a device has".into());
        let count = (product.stack() as u64).checked_mul(*stretches as u64).ok_or_else(too_many)?;
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
            workspace = elements * *stretches as u64 * class.dtype.size() as u64;
            let x = blocks(elements.div_ceil(ADDERS[0].into())).ok_or_else(too_many)?;
            let [along, across] = ADDERS;
            grids.push(Grid { entry: 1, blocks: [x, 1, 1], threads: [along, across, 1], shared: 0 });
        }
        Ok(Dispatch { grids, workspace })
    }

    /// What is fused into the sides of its text.
    pub fn fused(&self) -> [Option<Arc<Fused>>; 3] {
        self.product.sides.each_ref().map(|side| side.fused.clone())
    }

    /// The argument block, from the addresses of the launch's operands, the bits of the parameters of all that is fused, in the
    /// order of `left`, `right` and `out`, and the address of the workspace.
    pub fn words(&self, addresses: &[u64], params: &[u64], workspace: u64) -> SmallVec<[u64; 64]> {
        let Classified { product: Product { outer, sizes, sides, .. }, class, stretches: (stretch, stretches) } = self;
        let matrices = self.product.stack();
        let mut words: SmallVec<[u64; 64]> = smallvec![workspace];
        words.extend([sizes[I], sizes[J], sizes[K], *stretch, *stretches, matrices].map(|n| n as u64));
        let rank = usize::from(class.rank);
        words.extend((0..rank).map(|d| outer.get(d).map_or(1, |n| *n as u64)));
        for (n, side) in sides.iter().enumerate() {
            words.extend(addresses[side.first..][..side.places.len()].iter().copied());
            // Of `right`, columns first, which are across the depth.
            for axis in if n == 1 { [1, 0] } else { [0, 1] } {
                words.extend(side.places.iter().map(|place| place.matrix[axis] as u64));
            }
            for d in 0..rank {
                words.extend(side.places.iter().map(|place| place.outer.get(d).map_or(0, |stride| *stride as u64)));
            }
        }
        let before = words.len();
        for side in sides {
            let count = side.fused.as_ref().map_or(0, |fused| fused.kernel.params.len());
            words.extend((side.first_param..side.first_param + count).map(|n| params.get(n).copied().unwrap_or(0)));
        }
        if words.len() == before {
            words.push(0);
        }
        words
    }
}

impl Program {
    /// The program for products of a class, with what is fused into their sides.
    pub fn new(class: &Class, fused: &[Option<Arc<Fused>>; 3]) -> Program {
        let form = class.tile.form(class.dtype);
        let mut constants = String::new();
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
            ("RIGHT_ALONG_DEPTH", class.right.along_depth),
            ("OUT_WIDE", class.wide),
            ("SPLIT", class.split),
        ];
        for (name, value) in numbers {
            let _ = writeln!(constants, "constexpr int {name} = {value};");
        }
        for (name, value) in choices {
            let _ = writeln!(constants, "constexpr bool {name} = {value};");
        }
        let mut elements = Elements::default();
        for (name, read, fused) in [("Left", class.left, &fused[0]), ("Right", class.right, &fused[1])] {
            match fused {
                Some(fused) => elements.input(name, fused),
                None => elements.plain_input(name, if read.wide { WIDEST / class.dtype.size() } else { 1 }),
            }
        }
        match &fused[2] {
            Some(fused) => elements.output("Out", fused),
            None => elements.plain_output("Out"),
        }
        let mut text = elements.finish(class.dtype, &constants);
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
