//! Expressions built with Rust operators: of named inputs, to be compiled, or of lazy arrays, to be evaluated at once.
//!
//! An [`Expr`] is a shared, immutable graph of nodes. Building one runs nothing and fails never; types and shapes are
//! checked when it is compiled or evaluated. Cloning is cheap, and what is used twice is computed once. Walks and drops
//! are loops, so a sum of a million terms is as good as one of two.

mod axis;
mod methods;
mod operators;
mod recipe;

pub use axis::{Axis, Index, IntoIndex, Over};
pub(crate) use recipe::Recipe;

use crate::array::Array;
use crate::element::Element;
use crate::engine::Results;
use crate::env::AsArrayRef;
use crate::error::{Error, Result};
use crate::view::ArrayRef;
use numfuse_core::diagnostic::{Code, Diagnostic};
use numfuse_core::dtype::DType;
use numfuse_core::graph::ReduceOptions;
use numfuse_core::literal::Literal;
use numfuse_core::ops::{Op, OpKind};
use numfuse_core::shape::MAX_RANK;
use smallvec::SmallVec;
use std::sync::Arc;

/// An expression: what to compute, not yet computed.
///
/// ```
/// use numfuse::{Axis, DType, Engine, Expr, vars};
/// let x = Expr::input("x", DType::F32, [None, None])?;
/// let y = Expr::input("y", DType::F32, [None])?;
/// let kernel = Engine::default().compile((2.0 * &x * &y + 1.0).sum(Axis::Last))?;
/// let (a, b) = (ndarray::arr2(&[[1f32, 2.0], [3.0, 4.0]]), [10f32, 100.0]);
/// assert_eq!(kernel.run(&vars! { x: a, y: b })?.as_slice::<f32>()?, [422.0, 862.0]);
/// # Ok::<(), numfuse::Error>(())
/// ```
#[derive(Clone)]
pub struct Expr<'a>(Arc<Node<'a>>);

struct Node<'a> {
    kind: Kind<'a>,
    // A vector lets an expression of long-lived parts stand where a short-lived one is asked for; a `SmallVec` would not.
    operands: Vec<Expr<'a>>,
}

enum Kind<'a> {
    Input(Arc<Input>),
    Data(ArrayRef<'a>),
    Scalar(Literal),
    Apply(Op),
    Reduce(Op, ReduceOptions),
    Index(Vec<Index>),
    Transpose(Option<SmallVec<[i64; 4]>>),
    Cast(DType),
}

/// A named input.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Input {
    pub name: String,
    pub dtype: DType,
    pub weak: bool,
    pub shape: SmallVec<[Size; 4]>,
}

/// What is known of a dimension of an input before a call.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Size {
    Fixed(u64),
    /// The same as all others of this name.
    Named(String),
    Unknown,
}

/// A graph would otherwise be dropped by recursion, as deep as it is.
impl Drop for Node<'_> {
    fn drop(&mut self) {
        let mut orphans = std::mem::take(&mut self.operands);
        while let Some(Expr(node)) = orphans.pop() {
            if let Some(mut node) = Arc::into_inner(node) {
                orphans.append(&mut node.operands);
            }
        }
    }
}

/// An array as an expression, bound to its data: operators build the graph, and [`eval`](crate::eval) computes it.
///
/// ```
/// use numfuse::{Axis, eval, lazy};
/// let (a, b) = ([1.0, 2.0, 3.0], [10.0, 20.0, 30.0]);
/// let (a, b) = (lazy(&a), lazy(&b));
/// let d = (&a - a.mean(0)) * b;
/// assert_eq!(eval(d.sum(Axis::All))?.item::<f64>()?, 20.0);
/// # Ok::<(), numfuse::Error>(())
/// ```
pub fn lazy<'a>(array: &'a (impl AsArrayRef + ?Sized)) -> Expr<'a> {
    Expr::new(Kind::Data(array.as_array_ref()), vec![])
}

impl<'a> Expr<'a> {
    /// An input of this name, dtype and shape; a size that is `None` may be any in each call.
    ///
    /// # Errors
    /// If the name is empty, or there are more than 32 sizes.
    pub fn input(name: &str, dtype: DType, shape: impl IntoIterator<Item = Option<u64>>) -> Result<Expr<'static>> {
        let size = |size: Option<u64>| size.map_or(Size::Unknown, Size::Fixed);
        let shape: SmallVec<[Size; 4]> = shape.into_iter().take(MAX_RANK + 1).map(size).collect();
        if shape.len() > MAX_RANK {
            let error = Diagnostic::new(Code::Rank, format!("more than {MAX_RANK} dimensions for `{name}`"));
            return Err(error.why(format!("an array has at most {MAX_RANK}")).into());
        }
        if name.is_empty() {
            return Err(Error::new(Code::Arguments, "an input needs a name"));
        }
        let input = Input { name: name.to_owned(), dtype, weak: false, shape };
        Ok(Expr::new(Kind::Input(Arc::new(input)), vec![]))
    }

    /// A plain number; its dtype gives way to that of any array, as that of a number between operators does.
    pub fn number<T: Element>(value: T) -> Expr<'a> {
        match value.weak_literal() {
            Some(literal) => Expr::new(Kind::Scalar(literal), vec![]),
            // No weak dtype holds it.
            None => Expr::new(Kind::Scalar(value.literal()), vec![]).cast(T::DTYPE),
        }
    }

    /// A function by its name, such as `arctan2`, or a reduction of all elements, such as `sum`.
    ///
    /// # Errors
    /// If there is no such function, or it takes another number of operands.
    pub fn call(name: &str, operands: impl IntoIterator<Item = Expr<'a>>) -> Result<Expr<'a>> {
        let Some(op) = Op::named(name) else {
            let error = Diagnostic::new(Code::UnknownFunction, format!("there is no function `{name}`"));
            let near = numfuse_core::diagnostic::suggest(name, Op::all().flat_map(Op::names));
            return Err(near.map_or(error.clone(), |near| error.hint(format!("did you mean `{near}`?"))).into());
        };
        let operands: Vec<Expr<'a>> = operands.into_iter().collect();
        let def = op.def();
        let arity = if def.is_reduction() { 1 } else { def.params.len() };
        if operands.len() != arity {
            let plural = if arity == 1 { "" } else { "s" };
            let title = format!("`{name}` takes {arity} operand{plural}, not {}", operands.len());
            return Err(Error::new(Code::Arguments, title));
        }
        Ok(match def.kind {
            OpKind::Elementwise(_) | OpKind::Product(_) => Expr::new(Kind::Apply(op), operands),
            OpKind::Reduce(_) | OpKind::Composite(_) => Expr::new(Kind::Reduce(op, ReduceOptions::default()), operands),
        })
    }

    /// The elements converted to another dtype; see the cast functions of the text language, such as `f32(x)`.
    #[must_use]
    pub fn cast(&self, dtype: DType) -> Expr<'a> {
        Expr::new(Kind::Cast(dtype), vec![self.clone()])
    }

    /// Elements chosen by a basic index, as `x[0, :, None]` in text: one item for each of the first dimensions.
    ///
    /// ```
    /// use numfuse::{Axis, Index, eval, lazy};
    /// let x = ndarray::arr2(&[[0.0, 0.0], [3.0, 4.0]]);
    /// let x = lazy(&x);
    /// let d = x.index((.., Index::NewAxis)) - x.index((Index::NewAxis, ..));
    /// assert_eq!(eval(d.square().sum(-1).sqrt().index((0, 1)))?.item::<f64>()?, 5.0);
    /// # Ok::<(), numfuse::Error>(())
    /// ```
    #[must_use]
    pub fn index(&self, items: impl IntoIndex) -> Expr<'a> {
        Expr::new(Kind::Index(items.into_index()), vec![self.clone()])
    }

    /// All dimensions in the opposite order.
    #[must_use]
    pub fn t(&self) -> Expr<'a> {
        Expr::new(Kind::Transpose(None), vec![self.clone()])
    }

    /// The dimensions in another order, each named once; negative ones count from the last.
    #[must_use]
    pub fn transpose(&self, axes: impl IntoIterator<Item = i64>) -> Expr<'a> {
        Expr::new(Kind::Transpose(Some(axes.into_iter().collect())), vec![self.clone()])
    }

    fn new(kind: Kind<'a>, operands: Vec<Expr<'a>>) -> Expr<'a> {
        Expr(Arc::new(Node { kind, operands }))
    }

    fn apply(op: Op, operands: Vec<Expr<'a>>) -> Expr<'a> {
        Expr::new(Kind::Apply(op), operands)
    }

    fn reduce(&self, op: Op, over: Over, ddof: i64) -> Expr<'a> {
        let options = ReduceOptions { axes: over.axis.into_axes(), keepdims: over.keepdims, ddof };
        Expr::new(Kind::Reduce(op, options), vec![self.clone()])
    }
}

impl<'a> From<&Expr<'a>> for Expr<'a> {
    fn from(expr: &Expr<'a>) -> Expr<'a> {
        expr.clone()
    }
}

impl std::fmt::Debug for Expr<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let what = match &self.0.kind {
            Kind::Input(input) => format!("input `{}`", input.name),
            Kind::Data(array) => format!("{}{:?}", array.dtype(), array.shape()),
            Kind::Scalar(literal) => literal.to_string(),
            Kind::Apply(op) | Kind::Reduce(op, _) => format!("{op} of {}", self.0.operands.len()),
            Kind::Index(_) => "index".to_owned(),
            Kind::Transpose(_) => "transpose".to_owned(),
            Kind::Cast(dtype) => format!("cast to {dtype}"),
        };
        write!(f, "Expr({what})")
    }
}

/// One expression, or a tuple, array or vector of several that are computed together.
pub trait Exprs<'a> {
    /// What evaluation returns: an [`Array`] for each expression, in the same form.
    type Arrays;

    /// The expressions, in order.
    fn into_exprs(self) -> Vec<Expr<'a>>;

    /// The results, one for each expression, in the form of the expressions.
    fn collect(arrays: Results) -> Self::Arrays;
}

impl<'a> Exprs<'a> for Expr<'a> {
    type Arrays = Array;

    fn into_exprs(self) -> Vec<Expr<'a>> {
        vec![self]
    }

    fn collect(arrays: Results) -> Array {
        let [array] = fixed(arrays);
        array
    }
}

impl<'a> Exprs<'a> for &Expr<'a> {
    type Arrays = Array;

    fn into_exprs(self) -> Vec<Expr<'a>> {
        vec![self.clone()]
    }

    fn collect(arrays: Results) -> Array {
        Expr::collect(arrays)
    }
}

impl<'a> Exprs<'a> for Vec<Expr<'a>> {
    type Arrays = Vec<Array>;

    fn into_exprs(self) -> Vec<Expr<'a>> {
        self
    }

    fn collect(arrays: Results) -> Vec<Array> {
        arrays.into_vec()
    }
}

impl<'a, const N: usize> Exprs<'a> for [Expr<'a>; N] {
    type Arrays = [Array; N];

    fn into_exprs(self) -> Vec<Expr<'a>> {
        self.into()
    }

    fn collect(arrays: Results) -> [Array; N] {
        fixed(arrays)
    }
}

macro_rules! tuples {
    ($(($($x:ident $t:ident $array:ident)*))*) => {$(
        impl<'a, $($t: Into<Expr<'a>>),*> Exprs<'a> for ($($t,)*) {
            type Arrays = ($($array,)*);

            fn into_exprs(self) -> Vec<Expr<'a>> {
                let ($($x,)*) = self;
                vec![$($x.into()),*]
            }

            fn collect(arrays: Results) -> Self::Arrays {
                let [$($x),*] = fixed(arrays);
                ($($x,)*)
            }
        }
    )*};
}
tuples! {
    (a A Array) (a A Array b B Array) (a A Array b B Array c C Array) (a A Array b B Array c C Array d D Array)
    (a A Array b B Array c C Array d D Array e E Array) (a A Array b B Array c C Array d D Array e E Array f F Array)
    (a A Array b B Array c C Array d D Array e E Array f F Array g G Array)
    (a A Array b B Array c C Array d D Array e E Array f F Array g G Array h H Array)
}

/// The engine returns one array for each expression that it was given.
fn fixed<const N: usize>(arrays: Results) -> [Array; N] {
    debug_assert_eq!(arrays.len(), N);
    let mut arrays = arrays.into_iter();
    std::array::from_fn(|_| arrays.next().expect("one array for each expression"))
}
