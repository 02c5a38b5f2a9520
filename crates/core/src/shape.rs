//! Shapes whose sizes may be unknown: a dimension is a number, a symbol, or a slice of another dimension.
//!
//! A graph is built once and run with any sizes, so its shapes are made of [`DimId`]s, interned in a [`Dims`] arena:
//! equal dimensions have equal ids. What has to hold between the sizes of a call is collected as [`Constraint`]s when
//! the graph is built and checked by [`Dims::check`] when the sizes are known.
//!
//! Broadcasting depends on which sizes are 1. The arena may hold *hints*, the sizes of the call that the graph is built
//! for; two different unknown dimensions are taken to be equal, unless the hint of one is 1. Either way a constraint
//! records the assumption. A later call that breaks it is either a user's error or, if a size of 1 is involved, a reason
//! to build the graph anew for these sizes ([`Unmet::Respecialize`]).
//!
//! Invariants: a dimension is interned after the one that it slices; every size fits `i64`.

use crate::diagnostic::{Code, Diagnostic, Span};
use rustc_hash::{FxHashMap, FxHashSet};
use smallvec::SmallVec;
use std::fmt;

/// The most dimensions that an array may have.
pub const MAX_RANK: usize = 32;

/// A dimension of a shape, interned in [`Dims`].
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct DimId(u32);

/// A shape: dimensions, outermost first.
pub type Shape = SmallVec<[DimId; 4]>;

/// What a dimension is.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Dim {
    /// A size known when the graph is built.
    Fixed(u64),
    /// The n-th symbol; its size comes with each call.
    Symbol(u32),
    /// What `start:stop:step` selects of another dimension, with Python's rules.
    Sliced {
        /// The dimension that is sliced.
        of: DimId,
        /// The slice.
        slice: Slice,
    },
}

/// `start:stop:step`, Python's.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Slice {
    /// The first index; negative counts from the end.
    pub start: Option<i64>,
    /// One past the last index; negative counts from the end.
    pub stop: Option<i64>,
    /// The distance between indices; not 0.
    pub step: i64,
}

impl Slice {
    /// `:`
    pub const ALL: Slice = Slice { start: None, stop: None, step: 1 };

    /// The first selected index and how many are selected, of a dimension of `size` (Python's `slice.indices`).
    pub fn resolve(self, size: u64) -> (i64, u64) {
        let size = size as i128;
        let step = i128::from(self.step);
        let (low, high) = if step > 0 { (0, size) } else { (-1, size - 1) };
        let place = |index: Option<i64>, default: i128| match index {
            None => default,
            Some(i) if i < 0 => (i128::from(i) + size).max(low),
            Some(i) => i128::from(i).min(high),
        };
        let (start, stop) = if step > 0 {
            (place(self.start, low), place(self.stop, high))
        } else {
            (place(self.start, high), place(self.stop, low))
        };
        let count = if step > 0 { (stop - start + step - 1) / step } else { (stop - start + step + 1) / step };
        if count <= 0 { (0, 0) } else { (start as i64, count as u64) }
    }
}

impl fmt::Display for Slice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(start) = self.start {
            write!(f, "{start}")?;
        }
        f.write_str(":")?;
        if let Some(stop) = self.stop {
            write!(f, "{stop}")?;
        }
        if self.step != 1 {
            write!(f, ":{}", self.step)?;
        }
        Ok(())
    }
}

/// What has to hold between the sizes of a call, and where in the text it came from.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Constraint {
    /// The condition.
    pub kind: ConstraintKind,
    /// The operation that asks for it.
    pub span: Option<Span>,
}

/// The condition of a [`Constraint`].
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum ConstraintKind {
    /// Two dimensions have the same size.
    Equal(DimId, DimId),
    /// A dimension has size 1: it was broadcast.
    One(DimId),
    /// An index is in range of a dimension.
    InRange(DimId, i64),
    /// A reduction without a value for no elements has some; the name is the function's.
    NonEmpty(SmallVec<[DimId; 2]>, &'static str),
    /// Two shapes have a matrix product: the sizes that [`contracted`] picks are equal.
    Product(Shape, Shape),
}

/// The dimensions of two operands of a matrix product along which it sums: the last one of the left operand, and of the
/// right one the last but one, or the only one. Each has one dimension at least.
pub fn contracted(left: &[DimId], right: &[DimId]) -> (DimId, DimId) {
    (left[left.len() - 1], right[right.len().saturating_sub(2)])
}

/// Why a call cannot run with a graph.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Unmet {
    /// The sizes broadcast in another way than the graph was built for.
    Respecialize,
    /// The sizes are wrong.
    Error(Box<Diagnostic>),
}

/// The dimensions of one graph, the constraints on them, and the hints that it is built for.
#[derive(Clone, Debug, Default)]
pub struct Dims {
    dims: Vec<Dim>,
    /// Which of them have size 1 in every call: known to be, or asked to be by a constraint.
    ones: Vec<bool>,
    interned: FxHashMap<Dim, DimId>,
    symbols: Vec<String>,
    constraints: Vec<Constraint>,
    /// Their kinds, so that a text with many of them is not quadratic.
    required: FxHashSet<ConstraintKind>,
    /// The size of each dimension in the call that the graph is built for; empty without one.
    hints: Vec<u64>,
    /// The symbols' hints, by symbol.
    symbol_hints: Option<Vec<u64>>,
}

impl Dims {
    /// An empty arena; with hints, the n-th symbol made will have the n-th of these sizes.
    pub fn new(symbol_hints: Option<Vec<u64>>) -> Dims {
        Dims { symbol_hints, ..Dims::default() }
    }

    /// A known size.
    pub fn fixed(&mut self, size: u64) -> DimId {
        self.intern(Dim::Fixed(size))
    }

    /// The symbol of this name, the same one for the same name.
    pub fn named(&mut self, name: &str) -> DimId {
        let index = self.symbols.iter().position(|s| s == name).unwrap_or_else(|| {
            self.symbols.push(name.to_owned());
            self.symbols.len() - 1
        });
        self.intern(Dim::Symbol(index as u32))
    }

    /// A new symbol with a name of its own, which no user can write.
    pub fn fresh(&mut self) -> DimId {
        let name = format!("?{}", self.symbols.len());
        self.symbols.push(name);
        self.intern(Dim::Symbol(self.symbols.len() as u32 - 1))
    }

    /// What a slice selects of a dimension.
    pub fn sliced(&mut self, of: DimId, slice: Slice) -> DimId {
        if slice == Slice::ALL || (slice == Slice { step: -1, ..Slice::ALL }) {
            return of;
        }
        match self.dims[of.0 as usize] {
            Dim::Fixed(size) => self.fixed(slice.resolve(size).1),
            _ => self.intern(Dim::Sliced { of, slice }),
        }
    }

    /// What a dimension is.
    pub fn get(&self, dim: DimId) -> &Dim {
        &self.dims[dim.0 as usize]
    }

    /// The size of a dimension if it is known without a call.
    pub fn known(&self, dim: DimId) -> Option<u64> {
        match self.dims[dim.0 as usize] {
            Dim::Fixed(size) => Some(size),
            _ => None,
        }
    }

    /// True if a dimension has size 1 in every call.
    pub fn is_one(&self, dim: DimId) -> bool {
        self.ones[dim.index()]
    }

    /// How many symbols there are; a call brings one size for each.
    pub fn symbol_count(&self) -> usize {
        self.symbols.len()
    }

    /// All dimensions, each after the one that it slices.
    pub fn iter(&self) -> impl Iterator<Item = DimId> + use<> {
        (0..self.dims.len() as u32).map(DimId)
    }

    /// The constraints collected so far.
    pub fn constraints(&self) -> &[Constraint] {
        &self.constraints
    }

    /// Adds a constraint unless it is known.
    pub fn require(&mut self, kind: ConstraintKind, span: Option<Span>) {
        if self.required.insert(kind.clone()) {
            if let ConstraintKind::One(dim) = kind {
                self.ones[dim.index()] = true;
            }
            self.constraints.push(Constraint { kind, span });
        }
    }

    /// The dimension that two become when they meet in an elementwise operation.
    pub fn broadcast(&mut self, a: DimId, b: DimId, span: Option<Span>) -> Result<DimId, Diagnostic> {
        if a == b || self.is_one(b) {
            return Ok(a);
        }
        if self.is_one(a) {
            return Ok(b);
        }
        if let (Some(x), Some(y)) = (self.known(a), self.known(b)) {
            return Err(mismatch(x, y, span));
        }
        match (self.hint(a), self.hint(b)) {
            (Some(x), Some(y)) if x == 1 && y != 1 => {
                self.require(ConstraintKind::One(a), span);
                return Ok(b);
            }
            (Some(x), Some(y)) if y == 1 && x != 1 => {
                self.require(ConstraintKind::One(b), span);
                return Ok(a);
            }
            (Some(x), Some(y)) if x != y => return Err(mismatch(x, y, span)),
            _ => {}
        }
        self.require(ConstraintKind::Equal(a, b), span);
        Ok(if self.known(b).is_some() { b } else { a })
    }

    /// The shape that two become; dimensions are aligned at the last.
    pub fn broadcast_shapes(&mut self, a: &[DimId], b: &[DimId], span: Option<Span>) -> Result<Shape, Diagnostic> {
        let (long, short) = if a.len() >= b.len() { (a, b) } else { (b, a) };
        let lead = long.len() - short.len();
        let mut shape = Shape::from_slice(&long[..lead]);
        for (x, y) in long[lead..].iter().zip(short) {
            let dim = if a.len() >= b.len() { self.broadcast(*x, *y, span) } else { self.broadcast(*y, *x, span) };
            shape.push(dim?);
        }
        Ok(shape)
    }

    /// Has the dimensions that a matrix product sums along be of one size.
    pub fn contract(&mut self, left: &[DimId], right: &[DimId], span: Option<Span>) -> Result<(), Diagnostic> {
        let (a, b) = contracted(left, right);
        if a == b {
            return Ok(());
        }
        let size = |dim: DimId| self.known(dim).or(self.hint(dim));
        match (size(a), size(b)) {
            (Some(x), Some(y)) if x != y => {
                let show = |dim: &DimId| size(*dim).map_or_else(|| self.name(*dim), |size| size.to_string());
                let [left, right] = [left, right].map(|shape| shape.iter().map(show).collect());
                Err(no_product(left, right, (x, y), span))
            }
            _ if self.known(a).is_some() && self.known(b).is_some() => Ok(()),
            _ => {
                self.require(ConstraintKind::Product(left.into(), right.into()), span);
                Ok(())
            }
        }
    }

    /// The size of each dimension, by [`DimId`], for these sizes of the symbols.
    pub fn sizes(&self, symbols: &[u64]) -> Vec<u64> {
        let mut sizes: Vec<u64> = Vec::with_capacity(self.dims.len());
        for dim in &self.dims {
            sizes.push(size_of(dim, symbols, &sizes));
        }
        sizes
    }

    /// Checks the constraints against the sizes that [`Dims::sizes`] returned.
    pub fn check(&self, sizes: &[u64]) -> Result<(), Unmet> {
        let size = |d: DimId| sizes[d.0 as usize];
        for Constraint { kind, span } in &self.constraints {
            let error = match kind {
                ConstraintKind::Equal(a, b) if size(*a) != size(*b) => {
                    if size(*a) == 1 || size(*b) == 1 {
                        return Err(Unmet::Respecialize);
                    }
                    mismatch(size(*a), size(*b), *span)
                }
                ConstraintKind::One(d) if size(*d) != 1 => return Err(Unmet::Respecialize),
                ConstraintKind::InRange(d, index) if !in_range(*index, size(*d)) => {
                    out_of_range(*index, size(*d), *span)
                }
                ConstraintKind::NonEmpty(dims, name) if dims.iter().any(|d| size(*d) == 0) => {
                    let error = Diagnostic::new(Code::EmptyReduction, format!("`{name}` of no elements"))
                        .why(format!("`{name}` has no value for an empty array"))
                        .hint("check the size first, or reduce along an axis that is not empty");
                    match span {
                        Some(span) => error.at(*span, "nothing to reduce here"),
                        None => error,
                    }
                }
                ConstraintKind::Product(left, right) => {
                    let (a, b) = contracted(left, right);
                    if size(a) == size(b) {
                        continue;
                    }
                    let [left, right] = [left, right].map(|s| s.iter().map(|d| size(*d).to_string()).collect());
                    no_product(left, right, (size(a), size(b)), *span)
                }
                _ => continue,
            };
            return Err(Unmet::Error(Box::new(error)));
        }
        Ok(())
    }

    /// For each dimension, by index, the representative of those that have the same size in every call that passes the
    /// checks: equal by a constraint, or equal slices of equal dimensions.
    pub fn canonical(&self) -> Vec<DimId> {
        let all: Vec<DimId> = self.iter().collect();
        let mut parent = all.clone();
        fn find(parent: &[DimId], mut d: DimId) -> DimId {
            while parent[d.index()] != d {
                d = parent[d.index()];
            }
            d
        }
        let join = |parent: &mut Vec<DimId>, a: DimId, b: DimId| {
            let (a, b) = (find(parent, a), find(parent, b));
            // A known size represents its class, else the oldest dimension does.
            let swap = self.known(b).is_some() || (self.known(a).is_none() && b < a);
            let (keep, drop) = if swap { (b, a) } else { (a, b) };
            parent[drop.index()] = keep;
        };
        for constraint in &self.constraints {
            match &constraint.kind {
                ConstraintKind::Equal(a, b) => join(&mut parent, *a, *b),
                ConstraintKind::Product(left, right) => {
                    let (a, b) = contracted(left, right);
                    join(&mut parent, a, b);
                }
                ConstraintKind::One(_) | ConstraintKind::InRange(..) | ConstraintKind::NonEmpty(..) => {}
            }
        }
        let mut slices: FxHashMap<(DimId, Slice), DimId> = FxHashMap::default();
        for dim in &all {
            if let Dim::Sliced { of, slice } = self.get(*dim) {
                let of = find(&parent, *of);
                let same = *slices.entry((of, *slice)).or_insert(*dim);
                join(&mut parent, same, *dim);
                let size = self.known(of).map(|size| Dim::Fixed(slice.resolve(size).1));
                if let Some(fixed) = size.and_then(|size| self.interned.get(&size)) {
                    join(&mut parent, *fixed, *dim);
                }
            }
        }
        all.iter().map(|d| find(&parent, *d)).collect()
    }

    /// The number of elements of a shape, if it fits.
    pub fn element_count(shape: &[DimId], sizes: &[u64]) -> Result<u64, Diagnostic> {
        let shape: SmallVec<[u64; 4]> = shape.iter().map(|d| sizes[d.0 as usize]).collect();
        checked_count(&shape)
    }

    /// A shape as `[n, 3]`.
    pub fn display<'a>(&'a self, shape: &'a [DimId]) -> impl fmt::Display + 'a {
        struct Display<'a>(&'a Dims, &'a [DimId]);
        impl fmt::Display for Display<'_> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("[")?;
                for (i, dim) in self.1.iter().enumerate() {
                    if i > 0 {
                        f.write_str(", ")?;
                    }
                    self.0.write_dim(f, *dim)?;
                }
                f.write_str("]")
            }
        }
        Display(self, shape)
    }

    /// A dimension as in a shape, without the brackets.
    pub fn name(&self, dim: DimId) -> String {
        let shape = self.display(&[dim]).to_string();
        shape[1..shape.len() - 1].to_owned()
    }

    /// `n`, `3`, or `n[1:-1]`; slices of slices follow each other.
    fn write_dim(&self, f: &mut fmt::Formatter<'_>, dim: DimId) -> fmt::Result {
        let mut slices = Vec::new();
        let mut dim = dim;
        loop {
            match self.get(dim) {
                Dim::Fixed(size) => write!(f, "{size}")?,
                Dim::Symbol(index) => f.write_str(&self.symbols[*index as usize])?,
                Dim::Sliced { of, slice } => {
                    slices.push(*slice);
                    dim = *of;
                    continue;
                }
            }
            break;
        }
        slices.iter().rev().try_for_each(|slice| write!(f, "[{slice}]"))
    }

    fn hint(&self, dim: DimId) -> Option<u64> {
        self.hints.get(dim.0 as usize).copied()
    }

    fn intern(&mut self, dim: Dim) -> DimId {
        if let Some(known) = self.interned.get(&dim) {
            return *known;
        }
        if let Some(symbols) = &self.symbol_hints {
            self.hints.push(size_of(&dim, symbols, &self.hints));
        }
        let id = DimId(self.dims.len() as u32);
        self.ones.push(dim == Dim::Fixed(1));
        self.dims.push(dim.clone());
        self.interned.insert(dim, id);
        id
    }
}

impl DimId {
    /// As an index into what [`Dims::sizes`] returns.
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

/// The product of sizes, refused if it is more than `isize::MAX` elements.
pub fn checked_count(shape: &[u64]) -> Result<u64, Diagnostic> {
    if shape.contains(&0) {
        return Ok(0);
    }
    shape.iter().try_fold(1u64, |n, d| n.checked_mul(*d)).filter(|n| *n <= isize::MAX as u64).ok_or_else(|| {
        Diagnostic::new(Code::TooLarge, format!("an array of shape {shape:?} has too many elements"))
            .why("the number of elements overflows")
    })
}

/// True if `index`, which may count from the end, is in range of `size`.
pub fn in_range(index: i64, size: u64) -> bool {
    if index < 0 { index.unsigned_abs() <= size } else { (index as u64) < size }
}

/// The message for an index that is not.
pub fn out_of_range(index: i64, size: u64, span: Option<Span>) -> Diagnostic {
    let error = Diagnostic::new(Code::Index, format!("index {index} is out of range for a dimension of size {size}"));
    let error = if size == 0 {
        error.why("the dimension is empty")
    } else {
        error.why(format!("indices go from {} to {}", -(size as i128), size - 1))
    };
    match span {
        Some(span) => error.at(span, "out of range"),
        None => error,
    }
}

fn mismatch(x: u64, y: u64, span: Option<Span>) -> Diagnostic {
    let error = Diagnostic::new(Code::Broadcast, format!("sizes {x} and {y} do not broadcast"))
        .why("dimensions are matched from the last one; each pair must be equal, or one of them 1")
        .hint("insert a dimension of size 1 with `x[:, None]`, or slice one operand");
    match span {
        Some(span) => error.at(span, format!("one operand has {x} here, the other {y}")),
        None => error,
    }
}

/// The message for two shapes without a matrix product; `x` and `y` are the sizes that should be one.
fn no_product(left: Vec<String>, right: Vec<String>, (x, y): (u64, u64), span: Option<Span>) -> Diagnostic {
    let show = |shape: &[String]| format!("[{}]", shape.join(", "));
    let title = format!("shapes {} and {} have no matrix product", show(&left), show(&right));
    let error = Diagnostic::new(Code::MatrixProduct, title).why(format!(
        "it sums along the last dimension of the left operand and the {} of the right one: {x} is not {y}",
        if right.len() == 1 { "only one" } else { "last but one" }
    ));
    let error = error.hint(match (left.as_slice(), right.as_slice()) {
        ([.., k], [_, l]) if k == l && left.len() <= 2 => {
            "to multiply with the transpose of the right operand write `x @ y.T`"
        }
        ([k, _], [l, ..]) if k == l && right.len() <= 2 => {
            "to multiply with the transpose of the left operand write `x.T @ y`"
        }
        _ => "to multiply element by element write `x * y`",
    });
    match span {
        Some(span) => error.at(span, format!("{x} in the left operand, {y} in the right one")),
        None => error,
    }
}

fn size_of(dim: &Dim, symbols: &[u64], sizes: &[u64]) -> u64 {
    match dim {
        Dim::Fixed(size) => *size,
        Dim::Symbol(index) => symbols.get(*index as usize).copied().unwrap_or(0),
        Dim::Sliced { of, slice } => slice.resolve(sizes[of.index()]).1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slices_follow_python() {
        // len(range(size)[start:stop:step]) and its first element, from CPython.
        for (start, stop, step, size, want) in [
            (None, None, 1, 5, (0, 5)),
            (Some(1), Some(-1), 1, 5, (1, 3)),
            (Some(1), Some(-1), 1, 1, (0, 0)),
            (None, None, -1, 5, (4, 5)),
            (Some(-100), Some(100), 2, 5, (0, 3)),
            (Some(3), Some(0), -2, 5, (3, 2)),
            (Some(100), None, -3, 5, (4, 2)),
            (Some(i64::MIN), Some(i64::MAX), i64::MAX, 5, (0, 1)),
            (None, None, i64::MIN, 5, (4, 1)),
            (Some(2), Some(2), 1, 5, (0, 0)),
            (None, None, 1, 0, (0, 0)),
        ] {
            assert_eq!(Slice { start, stop, step }.resolve(size), want, "{start:?}:{stop:?}:{step} of {size}");
        }
    }

    #[test]
    fn hints_decide_broadcasts() {
        let mut dims = Dims::new(Some(vec![1, 7]));
        let (a, b) = (dims.fresh(), dims.fresh());
        assert_eq!(dims.broadcast(a, b, None), Ok(b));
        assert_eq!(dims.check(&dims.sizes(&[1, 9])), Ok(()));
        assert_eq!(dims.check(&dims.sizes(&[9, 9])), Err(Unmet::Respecialize));
    }

    #[test]
    fn unknown_sizes_are_taken_to_be_equal() {
        let mut dims = Dims::new(None);
        let (a, b) = (dims.named("n"), dims.named("m"));
        assert_eq!(dims.broadcast(a, b, None), Ok(a));
        assert_eq!(dims.check(&dims.sizes(&[3, 3])), Ok(()));
        assert_eq!(dims.check(&dims.sizes(&[3, 1])), Err(Unmet::Respecialize));
        assert!(matches!(dims.check(&dims.sizes(&[3, 4])), Err(Unmet::Error(e)) if e.code == Code::Broadcast));
    }

    #[test]
    fn counts_are_checked() {
        assert_eq!(checked_count(&[1 << 40, 0]), Ok(0));
        assert_eq!(checked_count(&[1 << 40, 1 << 40]).unwrap_err().code, Code::TooLarge);
    }
}
