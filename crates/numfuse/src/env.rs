//! Names bound to arrays: what an expression is evaluated with.

use crate::array::Array;
use crate::element::Element;
use crate::view::{ArrayMut, ArrayRef};
use smallvec::SmallVec;
use std::borrow::Cow;

/// Names and the arrays that they stand for; [`vars!`](crate::vars) makes one. Arrays are borrowed, never copied.
///
/// ```
/// use numfuse::{Env, evaluate};
/// let a = [1.0, 2.0];
/// let mut env = Env::new().with("a", &a);
/// env.insert("b", &10.0);
/// assert_eq!(evaluate("a * b", &env)?.as_slice::<f64>()?, [10.0, 20.0]);
/// # Ok::<(), numfuse::Error>(())
/// ```
#[derive(Clone, Default)]
pub struct Env<'a> {
    // In the order of the first insertion. Expressions have few names, so that a search beats a hash.
    vars: SmallVec<[(Cow<'a, str>, ArrayRef<'a>); 3]>,
}

impl<'a> Env<'a> {
    /// No names.
    #[inline]
    pub fn new() -> Env<'a> {
        Env::default()
    }

    /// Binds names to arrays.
    #[inline]
    pub fn of<const N: usize>(vars: [(&'a str, ArrayRef<'a>); N]) -> Env<'a> {
        let mut env = Env::new();
        for (name, array) in vars {
            env.bind(Cow::Borrowed(name), array);
        }
        env
    }

    /// What [`vars!`](crate::vars) expands to: each array is made where the environment has it.
    #[doc(hidden)]
    #[inline(always)]
    pub fn of_list(vars: impl Vars<'a>) -> Env<'a> {
        let mut env = Env::new();
        // Names that are written in a program are compared while it is compiled.
        if vars.is_distinct() {
            vars.push_to(&mut env);
        } else {
            vars.bind_in(&mut env);
        }
        env
    }

    /// Binds a name, as part of a chain.
    #[inline]
    #[must_use]
    pub fn with(mut self, name: impl Into<Cow<'a, str>>, array: &'a (impl AsArrayRef + ?Sized)) -> Env<'a> {
        self.insert(name, array);
        self
    }

    /// Binds a name; the array that it was bound to before goes away.
    #[inline]
    pub fn insert(&mut self, name: impl Into<Cow<'a, str>>, array: &'a (impl AsArrayRef + ?Sized)) {
        self.bind(name.into(), array.as_array_ref());
    }

    #[inline]
    fn bind(&mut self, name: Cow<'a, str>, array: ArrayRef<'a>) {
        match self.vars.iter_mut().find(|(n, _)| *n == name) {
            Some((_, bound)) => *bound = array,
            None => self.vars.push((name, array)),
        }
    }

    /// The array that a name is bound to.
    pub fn get(&self, name: &str) -> Option<&ArrayRef<'a>> {
        self.vars.iter().find(|(n, _)| n == name).map(|(_, array)| array)
    }

    /// The names, in the order in which they were bound first.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.vars.iter().map(|(name, _)| name.as_ref())
    }

    /// As [`Env::get`], looking first where the name is likely to be.
    #[inline]
    pub(crate) fn get_near(&self, at: usize, name: &str) -> Option<&ArrayRef<'a>> {
        match self.vars.get(at) {
            Some((n, array)) if is_same(n, name) => Some(array),
            _ => self.get(name),
        }
    }
}

/// True if two names are equal: without a call, since most have few letters.
#[inline]
fn is_same(a: &str, b: &str) -> bool {
    a.len() == b.len() && a.bytes().zip(b.bytes()).all(|(a, b)| a == b)
}

/// Names with their arrays, as `("a", a, ("b", b, ()))`: a list that the compiler takes apart.
#[doc(hidden)]
pub trait Vars<'a> {
    /// True if a name is one of these.
    fn has(&self, name: &str) -> bool;
    /// True if no two names are the same.
    fn is_distinct(&self) -> bool;
    /// Adds them, in order; they are distinct.
    fn push_to(self, env: &mut Env<'a>);
    /// Binds them, in order.
    fn bind_in(self, env: &mut Env<'a>);
}

impl<'a> Vars<'a> for () {
    #[inline(always)]
    fn has(&self, _: &str) -> bool {
        false
    }

    #[inline(always)]
    fn is_distinct(&self) -> bool {
        true
    }

    #[inline(always)]
    fn push_to(self, _: &mut Env<'a>) {}

    #[inline(always)]
    fn bind_in(self, _: &mut Env<'a>) {}
}

impl<'a, R: Vars<'a>> Vars<'a> for (&'static str, ArrayRef<'a>, R) {
    #[inline(always)]
    fn has(&self, name: &str) -> bool {
        self.0 == name || self.2.has(name)
    }

    #[inline(always)]
    fn is_distinct(&self) -> bool {
        !self.2.has(self.0) && self.2.is_distinct()
    }

    #[inline(always)]
    fn push_to(self, env: &mut Env<'a>) {
        env.vars.push((Cow::Borrowed(self.0), self.1));
        self.2.push_to(env);
    }

    #[inline]
    fn bind_in(self, env: &mut Env<'a>) {
        env.bind(Cow::Borrowed(self.0), self.1);
        self.2.bind_in(env);
    }
}

/// Binds names to arrays for an evaluation, without copying: `vars! { a, b: &other, c: 1.5 }`. A bare name is bound to
/// the variable of that name. What can be bound is what implements [`AsArrayRef`]: slices, arrays and vectors of
/// elements, `ndarray` arrays and views of any strides, [`Array`], and plain numbers.
///
/// ```
/// use numfuse::{evaluate, vars};
/// let a = vec![1.0, 2.0, 3.0];
/// let y = evaluate("a + offset", &vars! { a, offset: 0.5 })?;
/// assert_eq!(y.as_slice::<f64>()?, [1.5, 2.5, 3.5]);
/// # Ok::<(), numfuse::Error>(())
/// ```
///
/// Anything else is refused by the compiler:
/// ```compile_fail
/// numfuse::vars! { a: "text" };
/// ```
#[macro_export]
macro_rules! vars {
    ($($name:ident $(: $value:expr)?),* $(,)?) => {
        $crate::Env::of_list($crate::vars!(@list $([$name $(: $value)?])*))
    };
    (@list) => { () };
    (@list [$name:ident $(: $value:expr)?] $($rest:tt)*) => {
        (
            ::core::stringify!($name),
            $crate::AsArrayRef::as_array_ref($crate::vars!(@value $name $(: $value)?)),
            $crate::vars!(@list $($rest)*),
        )
    };
    (@value $name:ident) => { &$name };
    (@value $name:ident : $value:expr) => { &$value };
}

/// What can be read as an array: slices, arrays and vectors of elements, scalars, `ndarray` arrays and views, [`Array`].
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be read as an array",
    note = "slices, arrays and vectors of `bool`, `i8`..`i64`, `u8`..`u64`, `f32`, `f64`; numbers; `ndarray` arrays and views \
            (feature `ndarray`); `numfuse::Array`"
)]
pub trait AsArrayRef {
    /// The array, borrowed.
    fn as_array_ref(&self) -> ArrayRef<'_>;
}

/// What can be written as an array: slices, arrays and vectors of elements, `ndarray` arrays and views, [`Array`].
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be written as an array",
    note = "mutable slices, arrays and vectors of `bool`, `i8`..`i64`, `u8`..`u64`, `f32`, `f64`; `ndarray` arrays and mutable \
            views (feature `ndarray`); `numfuse::Array`"
)]
pub trait AsArrayMut {
    /// The array, borrowed to be written.
    fn as_array_mut(&mut self) -> ArrayMut<'_>;
}

macro_rules! numbers {
    ($($t:ty)*) => {$(
        /// A plain number: its dtype gives way to that of any array.
        impl AsArrayRef for $t {
            #[inline]
            fn as_array_ref(&self) -> ArrayRef<'_> {
                ArrayRef::number(*self)
            }
        }
    )*};
}
numbers!(bool i8 i16 i32 i64 u8 u16 u32 u64 f32 f64);

/// A plain number: its dtype gives way to that of any array.
impl AsArrayRef for usize {
    fn as_array_ref(&self) -> ArrayRef<'_> {
        ArrayRef::number(*self as u64)
    }
}

macro_rules! slices {
    ($([$($generics:tt)*] $t:ty;)*) => {$(
        impl<$($generics)*> AsArrayRef for $t {
            #[inline]
            fn as_array_ref(&self) -> ArrayRef<'_> {
                ArrayRef::from_slice(self)
            }
        }
        impl<$($generics)*> AsArrayMut for $t {
            #[inline]
            fn as_array_mut(&mut self) -> ArrayMut<'_> {
                ArrayMut::from_slice(self)
            }
        }
    )*};
}
slices! {
    [T: Element] [T];
    [T: Element] Vec<T>;
    [T: Element] Box<[T]>;
    [T: Element, const N: usize] [T; N];
}

impl AsArrayRef for Array {
    fn as_array_ref(&self) -> ArrayRef<'_> {
        self.view()
    }
}

impl AsArrayMut for Array {
    fn as_array_mut(&mut self) -> ArrayMut<'_> {
        self.view_mut()
    }
}

impl AsArrayRef for ArrayRef<'_> {
    fn as_array_ref(&self) -> ArrayRef<'_> {
        self.clone()
    }
}

impl AsArrayMut for ArrayMut<'_> {
    fn as_array_mut(&mut self) -> ArrayMut<'_> {
        self.reborrow()
    }
}

impl AsArrayRef for ArrayMut<'_> {
    fn as_array_ref(&self) -> ArrayRef<'_> {
        self.as_ref()
    }
}

impl<A: AsArrayRef + ?Sized> AsArrayRef for &A {
    fn as_array_ref(&self) -> ArrayRef<'_> {
        (**self).as_array_ref()
    }
}

impl<A: AsArrayRef + ?Sized> AsArrayRef for &mut A {
    fn as_array_ref(&self) -> ArrayRef<'_> {
        (**self).as_array_ref()
    }
}

impl<A: AsArrayMut + ?Sized> AsArrayMut for &mut A {
    fn as_array_mut(&mut self) -> ArrayMut<'_> {
        (**self).as_array_mut()
    }
}

impl<A: AsArrayRef + ?Sized> AsArrayRef for std::sync::Arc<A> {
    fn as_array_ref(&self) -> ArrayRef<'_> {
        (**self).as_array_ref()
    }
}

#[cfg(feature = "ndarray")]
mod nd {
    use super::*;
    use ndarray::{ArrayBase, Data, DataMut, Dimension};

    impl<T: Element, S: Data<Elem = T>, D: Dimension> AsArrayRef for ArrayBase<S, D> {
        fn as_array_ref(&self) -> ArrayRef<'_> {
            ArrayRef::from_ndarray(self.view())
        }
    }

    impl<T: Element, S: DataMut<Elem = T>, D: Dimension> AsArrayMut for ArrayBase<S, D> {
        fn as_array_mut(&mut self) -> ArrayMut<'_> {
            ArrayMut::from_ndarray(self.view_mut())
        }
    }
}

/// Where results are written: one array, or a tuple or vector of several.
pub trait Outputs<'a> {
    /// The arrays, in order.
    fn into_arrays(self) -> SmallVec<[ArrayMut<'a>; 2]>;
}

impl<'a, A: AsArrayMut + ?Sized> Outputs<'a> for &'a mut A {
    #[inline]
    fn into_arrays(self) -> SmallVec<[ArrayMut<'a>; 2]> {
        let mut arrays = SmallVec::new();
        arrays.push(self.as_array_mut());
        arrays
    }
}

impl<'a> Outputs<'a> for Vec<ArrayMut<'a>> {
    fn into_arrays(self) -> SmallVec<[ArrayMut<'a>; 2]> {
        self.into_iter().collect()
    }
}

impl<'a> Outputs<'a> for SmallVec<[ArrayMut<'a>; 2]> {
    #[inline]
    fn into_arrays(self) -> SmallVec<[ArrayMut<'a>; 2]> {
        self
    }
}

macro_rules! tuples {
    ($(($($t:ident $x:ident)*))*) => {$(
        impl<'a, $($t: AsArrayMut + ?Sized),*> Outputs<'a> for ($(&'a mut $t,)*) {
            fn into_arrays(self) -> SmallVec<[ArrayMut<'a>; 2]> {
                let ($($x,)*) = self;
                SmallVec::from_iter([$($x.as_array_mut()),*])
            }
        }
    )*};
}
tuples! {
    (A a) (A a B b) (A a B b C c) (A a B b C c D d) (A a B b C c D d E e) (A a B b C c D d E e F f)
    (A a B b C c D d E e F f G g) (A a B b C c D d E e F f G g H h)
}

#[cfg(test)]
mod tests {
    use super::*;
    use numfuse_core::dtype::DType;

    #[test]
    fn everything_array_like_can_be_bound() {
        let (slice, vector, list): (&[f64], Vec<i32>, [u8; 2]) = (&[1.0, 2.0], vec![3], [4, 5]);
        let array = Array::scalar(1.5f32).unwrap();
        let env = vars! { slice, vector, list, array, number: 2.5f32, count: 3usize, flag: &true, huge: u64::MAX };
        let types: Vec<_> =
            env.names().map(|n| env.get(n).map(|a| (a.dtype(), a.is_weak(), a.shape().len()))).collect();
        assert_eq!(
            types.into_iter().flatten().collect::<Vec<_>>(),
            [
                (DType::F64, false, 1),
                (DType::I32, false, 1),
                (DType::U8, false, 1),
                (DType::F32, false, 0),
                (DType::F64, true, 0),
                (DType::I64, true, 0),
                (DType::Bool, true, 0),
                (DType::U64, false, 0),
            ]
        );
    }

    #[test]
    fn a_name_is_bound_once() {
        let env = vars! { a: 1, b: 2, a: 3 };
        assert_eq!(env.names().collect::<Vec<_>>(), ["a", "b"]);
        assert_eq!(env.get("a").and_then(|a| a.get(&[])).map(|l| l.as_i64()), Some(3));
        assert!(env.get("c").is_none());
    }

    #[cfg(feature = "ndarray")]
    #[test]
    fn strides_of_ndarray_views_are_kept() {
        let base = ndarray::Array2::from_shape_fn((4, 6), |(i, j)| (10 * i + j) as f64);
        let view = base.slice(ndarray::s![..;-1, ..;2]);
        let array = view.as_array_ref();
        assert_eq!(array.shape(), [4, 3]);
        assert_eq!(array.strides(), [-48, 16]);
        assert_eq!(array.get(&[0, 2]).map(|l| l.as_f64()), Some(34.0));
        let copy = Array::copy_of(&view).unwrap();
        assert_eq!(copy.to_ndarray::<f64>().unwrap(), view.to_owned().into_dyn());
        let transposed = Array::copy_of(&base.t()).unwrap();
        assert_eq!(transposed.as_ndarray::<f64>().unwrap(), base.t().into_dyn());
    }
}
