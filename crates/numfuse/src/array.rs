//! Owned arrays, on the host or on a device: what an evaluation returns, and what a file is read into.
//!
//! Invariants: the memory is aligned to 64 bytes and holds every element of the shape at the array's byte strides; all
//! of them are initialised. Results are row-major without gaps; only what was read from a column-major
//! file, or is in memory of another library, is not.

use crate::device::{Device, mismatch};
use crate::element::Element;
use crate::env::AsArrayRef;
use crate::error::{Error, Result, cpu_error};
use crate::view::{ArrayMut, ArrayRef, DeviceMemory, Memory};
use numfuse_core::diagnostic::{Code, Diagnostic};
use numfuse_core::dtype::DType;
use numfuse_core::literal::Literal;
use numfuse_core::plan::Strided;
use numfuse_core::shape::MAX_RANK;
use std::borrow::Cow;
use std::fmt::{self, Write};

/// An n-dimensional array of any dtype.
///
/// ```
/// use numfuse::{Array, evaluate, vars};
/// let a = Array::from_vec(vec![1.0, 2.0, 3.0, 4.0, 5.0, 6.0], &[2, 3])?;
/// let means = evaluate("mean(a, axis=1)", &vars! { a })?;
/// assert_eq!(means.shape(), [2]);
/// assert_eq!(means.as_slice::<f64>()?, [2.0, 5.0]);
/// # Ok::<(), numfuse::Error>(())
/// ```
///
/// The elements are on the host unless [`Array::to_device`] or an engine of a device has made the array. Those on a device
/// cannot be borrowed; what returns copies of elements brings them to the host.
pub struct Array {
    memory: Storage,
    dtype: DType,
    place: Strided,
}

/// Where the elements are.
enum Storage {
    Host(Memory),
    Device(Box<DeviceMemory>),
}

impl Array {
    /// An array of zeros.
    pub fn zeros(dtype: DType, shape: &[usize]) -> Result<Array> {
        let mut array = Array::uninitialized(dtype, &sizes(shape)?)?;
        array.zeroed_bytes();
        Ok(array)
    }

    /// The elements of a vector, in row-major order of the shape.
    pub fn from_vec<T: Element>(elements: Vec<T>, shape: &[usize]) -> Result<Array> {
        Array::copy_of(&ArrayRef::shaped(&elements, shape)?)
    }

    /// A scalar with a dtype of its own, unlike a plain number, whose dtype gives way to that of any array.
    pub fn scalar<T: Element>(value: T) -> Result<Array> {
        Array::from_vec(vec![value], &[])
    }

    /// A row-major copy of any array, on the device that it is on.
    pub fn copy_of(array: &impl AsArrayRef) -> Result<Array> {
        let from = array.as_array_ref();
        match from.memory() {
            Some(memory) => Array::copy_to(&from, &memory.device()),
            None => Array::copy_to(&from, &Device::cpu()),
        }
    }

    /// A row-major copy of any array on a device.
    pub(crate) fn copy_to(from: &ArrayRef<'_>, device: &Device) -> Result<Array> {
        let place = Strided::row_major(from.shape(), from.dtype())?;
        let bytes = place.count() as usize * from.dtype().size();
        let memory = match device.backend() {
            Some(backend) => Storage::Device(Box::new(DeviceMemory::uninit(backend, bytes)?)),
            None => Storage::Host(Memory::uninit(bytes)?),
        };
        let mut copy = Array { memory, dtype: from.dtype(), place };
        copy.view_mut().copy_from(from)?;
        Ok(copy)
    }

    /// A row-major copy on a device, or on the host for [`Device::cpu`]. A copy from the host, or to it, waits until it is
    /// made; also that of an array which is there already is one.
    ///
    /// # Errors
    /// If the device has no memory for it, or is lost.
    pub fn to_device(&self, device: &Device) -> Result<Array> {
        Array::copy_to(&self.view(), device)
    }

    /// A row-major copy on the host; see [`Array::to_device`].
    ///
    /// # Errors
    /// If there is no memory for it, or the device is lost.
    pub fn to_host(&self) -> Result<Array> {
        self.to_device(&Device::cpu())
    }

    /// The address of the first element on the device that it is on, for other libraries; none on the host. Work of theirs
    /// comes after that of [`Device::stream`].
    pub fn device_address(&self) -> Option<u64> {
        self.device_memory().map(DeviceMemory::first_address)
    }

    /// The byte strides, one for each size.
    pub fn strides(&self) -> &[isize] {
        &self.place.strides
    }

    /// Where the elements are.
    pub fn device(&self) -> Device {
        match &self.memory {
            Storage::Host(_) => Device::cpu(),
            Storage::Device(memory) => memory.device(),
        }
    }

    /// The memory of a device that the elements are in; none if they are on the host.
    pub(crate) fn device_memory(&self) -> Option<&DeviceMemory> {
        match &self.memory {
            Storage::Host(_) => None,
            Storage::Device(memory) => Some(memory),
        }
    }

    /// The same elements on the host: the array itself, or a copy of it.
    fn on_host(&self) -> Result<Cow<'_, Array>> {
        match &self.memory {
            Storage::Host(_) => Ok(Cow::Borrowed(self)),
            Storage::Device(_) => self.to_host().map(Cow::Owned),
        }
    }

    /// An array whose elements the caller writes, all of them, before anyone reads one.
    pub(crate) fn uninitialized(dtype: DType, shape: &[u64]) -> Result<Array> {
        Array::uninitialized_at(dtype, Strided::row_major(shape, dtype)?)
    }

    /// As [`Array::uninitialized`], at any place whose strides are not negative.
    pub(crate) fn uninitialized_at(dtype: DType, place: Strided) -> Result<Array> {
        let memory = Memory::uninit(place.count() as usize * dtype.size())?;
        Ok(Array { memory: Storage::Host(memory), dtype, place })
    }

    /// An array in memory that holds it, all of its elements written.
    #[inline]
    pub(crate) fn of_memory(memory: Memory, dtype: DType, place: Strided) -> Array {
        Array { memory: Storage::Host(memory), dtype, place }
    }

    /// An array in memory of a device that holds it, all of its elements written by work that the device has been given.
    #[inline]
    pub(crate) fn of_device_memory(memory: Box<DeviceMemory>, dtype: DType, place: Strided) -> Array {
        Array { memory: Storage::Device(memory), dtype, place }
    }

    /// The same elements with dimensions in the opposite order.
    pub(crate) fn transposed(mut self) -> Array {
        self.place.shape.reverse();
        self.place.strides.reverse();
        self
    }

    /// All bytes, set to zero, to read elements into; none of an array of a device.
    pub(crate) fn zeroed_bytes(&mut self) -> &mut [u8] {
        match &mut self.memory {
            Storage::Host(memory) => memory.filled_with(0),
            Storage::Device(_) => &mut [],
        }
    }

    /// The element type.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// The sizes, outermost first.
    pub fn shape(&self) -> Vec<usize> {
        self.place.shape.iter().map(|n| *n as usize).collect()
    }

    /// The number of dimensions.
    pub fn rank(&self) -> usize {
        self.place.shape.len()
    }

    /// The number of elements.
    pub fn len(&self) -> usize {
        self.place.count() as usize
    }

    /// True if there is no element.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The elements in row-major order.
    ///
    /// # Errors
    /// If they are of another type; on a device; or not in row-major order, which only arrays read from column-major files
    /// are not.
    pub fn as_slice<T: Element>(&self) -> Result<&[T]> {
        self.expect::<T>()?;
        if let Storage::Device(memory) = &self.memory {
            return Err(mismatch("the array", &memory.device(), &Device::cpu()));
        }
        self.view().as_slice().ok_or_else(|| {
            Diagnostic::new(Code::InputMismatch, "the array is not in row-major order")
                .hint("`to_vec` copies the elements in order; `view` takes any order")
                .into()
        })
    }

    /// The elements in row-major order, to change.
    ///
    /// # Errors
    /// As [`Array::as_slice`].
    pub fn as_mut_slice<T: Element>(&mut self) -> Result<&mut [T]> {
        self.as_slice::<T>()?;
        self.view_mut().into_slice().ok_or_else(|| Error::new(Code::Internal, "a slice that can be read, not written"))
    }

    /// The elements in row-major order, copied; from a device as well.
    ///
    /// # Errors
    /// If they are of another type.
    pub fn to_vec<T: Element>(&self) -> Result<Vec<T>> {
        self.expect::<T>()?;
        if let Storage::Device(_) = self.memory {
            return self.to_host()?.to_vec();
        }
        let mut elements: Vec<T> = Vec::new();
        let bytes = self.len() * size_of::<T>();
        elements.try_reserve_exact(self.len()).map_err(|_| cpu_error(numfuse_cpu::Error::OutOfMemory { bytes }))?;
        if let Some(slice) = self.view().as_slice() {
            elements.extend_from_slice(slice);
            return Ok(elements);
        }
        elements.resize(self.len(), T::default());
        ArrayMut::shaped(&mut elements, &self.shape())?.copy_from(&self.view())?;
        Ok(elements)
    }

    /// The only element, converted to `T` as a cast in an expression would; copied from a device if it is there.
    ///
    /// # Errors
    /// If there is not just one element.
    pub fn item<T: Element>(&self) -> Result<T> {
        if self.len() != 1 {
            let text = format!("an array of shape {:?} is no scalar", self.shape());
            return Err(Error::new(Code::InputMismatch, text));
        }
        let first: Vec<usize> = vec![0; self.rank()];
        let literal = self.on_host()?.view().get(&first).unwrap_or(Literal::from_bits(self.dtype, 0));
        Ok(T::from_literal(literal.cast(T::DTYPE)))
    }

    /// The array, borrowed.
    pub fn view(&self) -> ArrayRef<'_> {
        match &self.memory {
            Storage::Host(memory) => memory.array(self.dtype, &self.place),
            Storage::Device(memory) => memory.array(self.dtype, &self.place),
        }
    }

    /// The array, borrowed to be written.
    pub fn view_mut(&mut self) -> ArrayMut<'_> {
        match &mut self.memory {
            Storage::Host(memory) => memory.array_mut(self.dtype, &self.place),
            Storage::Device(memory) => memory.array_mut(self.dtype, &self.place),
        }
    }

    /// The array as an `ndarray` view.
    ///
    /// # Errors
    /// As [`Array::as_slice`].
    #[cfg(feature = "ndarray")]
    pub fn as_ndarray<T: Element>(&self) -> Result<ndarray::ArrayViewD<'_, T>> {
        let slice = self.as_slice::<T>()?;
        ndarray::ArrayViewD::from_shape(self.shape(), slice).map_err(|e| Error::new(Code::Internal, e.to_string()))
    }

    /// The array as an owned `ndarray`, copied.
    ///
    /// # Errors
    /// If the elements are of another type.
    #[cfg(feature = "ndarray")]
    pub fn to_ndarray<T: Element>(&self) -> Result<ndarray::ArrayD<T>> {
        let elements = self.to_vec::<T>()?;
        ndarray::ArrayD::from_shape_vec(self.shape(), elements).map_err(|e| Error::new(Code::Internal, e.to_string()))
    }

    fn expect<T: Element>(&self) -> Result<()> {
        if T::DTYPE == self.dtype {
            return Ok(());
        }
        let error =
            Diagnostic::new(Code::InputMismatch, format!("an array of {} is not one of {}", self.dtype, T::DTYPE));
        Err(error.hint(format!("convert in the expression, as in `{}(x)`", T::DTYPE)).into())
    }
}

impl Clone for Array {
    /// A row-major copy.
    ///
    /// # Panics
    /// If the system gives no memory; [`Array::copy_of`] returns an error instead.
    fn clone(&self) -> Array {
        match Array::copy_of(self) {
            Ok(copy) => copy,
            Err(error) => panic!("cloning an array: {error}"),
        }
    }
}

/// Equal dtype, shape and bits, except that any NaN equals any NaN. Arrays of devices are copied to the host for it, and
/// equal none if that fails.
impl PartialEq for Array {
    fn eq(&self, other: &Array) -> bool {
        let nan = |l: Literal| l.dtype().is_float() && l.as_f64().is_nan();
        if (self.dtype, &self.place.shape) != (other.dtype, &other.place.shape) {
            return false;
        }
        let (Ok(this), Ok(other)) = (self.on_host(), other.on_host()) else { return false };
        this.view().elements().zip(other.view().elements()).all(|(a, b)| a == b || (nan(a) && nan(b)))
    }
}

/// `f64[2, 3]` and the elements; long dimensions are cut to the first and last three.
/// The dtype, the shape and the elements, each with all of its digits. With `{:#}` a table for people: eight digits,
/// aligned columns, and only the edges of what is long.
impl fmt::Display for Array {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{:?}", self.dtype, self.shape())?;
        let array = match self.on_host() {
            Ok(array) => array,
            Err(error) => return write!(f, " ({error})"),
        };
        if !f.alternate() {
            f.write_char(' ')?;
            return write_elements(f, &array.view());
        }
        f.write_char(if self.shape().len() < 2 { ' ' } else { '\n' })?;
        write_table(f, &array.view())
    }
}

impl fmt::Debug for Array {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// How many elements a dimension shows at either end when it is cut.
const SHOWN: u64 = 3;

/// Brackets around rows, innermost dimensions on one line. Of arrays with many elements only the edges are shown.
pub(crate) fn write_elements(f: &mut dyn Write, array: &ArrayRef<'_>) -> fmt::Result {
    let least = if array.len() > 1000 { 2 * SHOWN } else { u64::MAX };
    walk_elements(f, array, least, &mut |f, index| write_element(f, array, index))
}

/// The same in columns of one width, with less of long dimensions and of long numbers.
fn write_table(f: &mut dyn Write, array: &ArrayRef<'_>) -> fmt::Result {
    let text = |index: &[usize]| array.get(index).map_or(String::new(), |literal| Plain(brief(literal)).to_string());
    let mut width = 0;
    walk_elements(&mut String::new(), array, 4 * SHOWN, &mut |_, index| {
        width = width.max(text(index).len());
        Ok(())
    })?;
    walk_elements(f, array, 4 * SHOWN, &mut |f, index| write!(f, "{:>width$}", text(index)))
}

/// A float with eight digits; everything else as it is.
fn brief(literal: Literal) -> Literal {
    let (dtype, x) = (literal.dtype(), literal.as_f64());
    if dtype != DType::F64 || !x.is_finite() {
        return literal;
    }
    Literal::from_f64(dtype, format!("{x:.7e}").parse().unwrap_or(x))
}

/// Brackets, separators and elements, which `element` writes. Dimensions with more than `least` are cut to their edges.
fn walk_elements(
    f: &mut dyn Write,
    array: &ArrayRef<'_>,
    least: u64,
    element: &mut dyn FnMut(&mut dyn Write, &[usize]) -> fmt::Result,
) -> fmt::Result {
    let shape = array.shape();
    let rank = shape.len();
    if rank == 0 {
        return element(f, &[]);
    }
    if array.is_empty() {
        return f.write_str("[]");
    }
    let mut index = vec![0usize; rank];
    for _ in 0..rank {
        f.write_char('[')?;
    }
    loop {
        element(f, &index)?;
        // To the next element: how many dimensions end here?
        let mut axis = rank;
        loop {
            if axis == 0 {
                return Ok(());
            }
            axis -= 1;
            index[axis] += 1;
            let skips = index[axis] as u64 == SHOWN && shape[axis] > least;
            if skips {
                index[axis] = (shape[axis] - SHOWN) as usize;
            }
            if (index[axis] as u64) < shape[axis] {
                separate(f, rank, axis, skips)?;
                break;
            }
            index[axis] = 0;
            f.write_char(']')?;
        }
    }
}

/// What stands between two elements that differ first at `axis`.
fn separate(f: &mut dyn Write, rank: usize, axis: usize, skips: bool) -> fmt::Result {
    let inner = rank - 1 - axis;
    if inner == 0 {
        return f.write_str(if skips { ", ..., " } else { ", " });
    }
    let indent = " ".repeat(axis + 1);
    write!(f, ",\n{indent}")?;
    if skips {
        write!(f, "...,\n{indent}")?;
    }
    f.write_str(&"[".repeat(inner))
}

fn write_element(f: &mut dyn Write, array: &ArrayRef<'_>, index: &[usize]) -> fmt::Result {
    match array.get(index) {
        Some(literal) => write!(f, "{}", Plain(literal)),
        None => f.write_str("?"),
    }
}

/// A scalar as a person writes it: `1.5`, `-3`, `true`, `nan`, `1e-300`.
pub(crate) struct Plain(pub Literal);

impl fmt::Display for Plain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let literal = self.0;
        match literal.dtype() {
            DType::Bool => write!(f, "{}", literal.as_bool()),
            DType::F32 => float(f, f64::from(literal.as_f64() as f32), &format!("{:?}", literal.as_f64() as f32)),
            DType::F64 => float(f, literal.as_f64(), &format!("{:?}", literal.as_f64())),
            dtype if dtype.is_signed() => write!(f, "{}", literal.as_i64()),
            _ => write!(f, "{}", literal.bits()),
        }
    }
}

fn float(f: &mut fmt::Formatter<'_>, value: f64, shortest: &str) -> fmt::Result {
    match value {
        x if x.is_nan() => f.write_str("nan"),
        x if x == f64::INFINITY => f.write_str("inf"),
        x if x == f64::NEG_INFINITY => f.write_str("-inf"),
        _ => f.write_str(shortest),
    }
}

/// A shape as the core counts it.
fn sizes(shape: &[usize]) -> Result<Vec<u64>> {
    if shape.len() > MAX_RANK {
        let error = Diagnostic::new(Code::Rank, format!("{} dimensions", shape.len()));
        return Err(error.why(format!("an array has at most {MAX_RANK}")).into());
    }
    Ok(shape.iter().map(|n| *n as u64).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_are_for_people() {
        let a = Array::from_vec(vec![1.0, 1981.6507000000004, -2.5e-300, f64::NAN], &[2, 2]).unwrap();
        assert_eq!(format!("{a:#}"), "f64[2, 2]\n[[      1.0, 1981.6507],\n [-2.5e-300,       nan]]");
        let long = Array::from_vec((0..100i64).collect(), &[100]).unwrap();
        assert_eq!(format!("{long:#}"), "i64[100] [ 0,  1,  2, ..., 97, 98, 99]");
        assert_eq!(format!("{:#}", Array::scalar(1.0 / 3.0).unwrap()), "f64[] 0.33333333");
    }

    #[test]
    fn elements_come_back() {
        let a = Array::from_vec(vec![1i32, 2, 3, 4, 5, 6], &[2, 3]).unwrap();
        assert_eq!(a.as_slice::<i32>().unwrap(), [1, 2, 3, 4, 5, 6]);
        assert_eq!(a.as_slice::<i64>().unwrap_err().code(), Code::InputMismatch);
        assert_eq!(a.as_slice::<i32>().unwrap().as_ptr() as usize % 64, 0);
        assert_eq!(a.clone(), a);
        assert_eq!(Array::scalar(2.5f32).unwrap().item::<f64>().unwrap(), 2.5);
        assert!(a.item::<i32>().is_err());
        assert!(Array::from_vec(vec![1u8], &[2]).is_err());
    }

    #[test]
    fn arrays_print_as_brackets() {
        let show = |shape: &[usize]| {
            let n: usize = shape.iter().product();
            Array::from_vec((0..n as i64).collect(), shape).unwrap().to_string()
        };
        assert_eq!(show(&[]), "i64[] 0");
        assert_eq!(show(&[3]), "i64[3] [0, 1, 2]");
        assert_eq!(show(&[2, 2]), "i64[2, 2] [[0, 1],\n [2, 3]]");
        assert_eq!(show(&[2, 1, 2]), "i64[2, 1, 2] [[[0, 1]],\n [[2, 3]]]");
        assert_eq!(show(&[0, 3]), "i64[0, 3] []");
        assert_eq!(show(&[2000]), "i64[2000] [0, 1, 2, ..., 1997, 1998, 1999]");
        assert_eq!(Array::from_vec(vec![1.0, f64::NAN, -0.0], &[3]).unwrap().to_string(), "f64[3] [1.0, nan, -0.0]");
    }

    #[test]
    fn long_matrices_are_cut_in_both_directions() {
        let a = Array::from_vec((0..100 * 100).collect::<Vec<i32>>(), &[100, 100]).unwrap();
        let text = a.to_string();
        assert_eq!(text.lines().count(), 7, "{text}");
        assert!(text.contains("[0, 1, 2, ..., 97, 98, 99],"), "{text}");
        assert!(text.ends_with("[9900, 9901, 9902, ..., 9997, 9998, 9999]]"), "{text}");
    }

    #[test]
    fn sizes_that_overflow_are_refused() {
        for shape in [&[usize::MAX, 2][..], &[1 << 62, 1], &[1 << 33, 1 << 33, 0, 3]] {
            let result = Array::zeros(DType::F64, shape);
            match shape.contains(&0) {
                true => assert!(result.unwrap().is_empty()),
                false => assert_eq!(result.unwrap_err().code(), Code::TooLarge),
            }
        }
        assert_eq!(Array::zeros(DType::U8, &[1; 33]).unwrap_err().code(), Code::Rank);
        assert_eq!(Array::zeros(DType::U8, &[1; 32]).unwrap().len(), 1);
    }
}
