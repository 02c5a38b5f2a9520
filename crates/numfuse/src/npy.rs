//! NumPy's `.npy` files: one array each, read into memory and written from it.
//!
//! The format is <https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html>, versions 1.0 to 3.0. The header
//! is a Python dictionary in text; it is read by a closed grammar that knows three keys and no Python.
//!
//! # Invariants
//!
//! * A file is not trusted: at most 64 KiB of header are read, sizes are checked for overflow, and the length of the file
//!   is held against the shape before memory for the elements is asked for.
//! * Whatever the file says of them, bools become 0 or 1, and big-endian elements little-endian.
//! * Objects, text, records, complex numbers, half floats and dates are refused, each with what to do about it.

use crate::array::Array;
use crate::device::Device;
use crate::env::AsArrayRef;
use crate::error::{Error, Result};
use numfuse_core::diagnostic::{Code, Diagnostic};
use numfuse_core::dtype::DType;
use numfuse_core::plan::Strided;
use numfuse_core::shape::MAX_RANK;
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;

const MAGIC: &[u8; 6] = b"\x93NUMPY";
/// The longest header that is read; those of arrays of up to 32 dimensions have a few hundred bytes.
const MAX_HEADER: usize = 64 << 10;

/// Reads an array from a file.
///
/// # Errors
/// If the file cannot be read, is no `.npy` file, is damaged or cut short, or has elements of a type that is not a
/// [`DType`].
pub fn read(path: impl AsRef<Path>) -> Result<Array> {
    let path = path.as_ref();
    let read = || -> Result<Array, Problem> {
        let mut file = File::open(path)?;
        let about = file.metadata()?;
        if about.is_file() {
            return read_inner(&mut file, about.len());
        }
        // A pipe has no length; it is what it is when it ends.
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        read_inner(&mut bytes.as_slice(), bytes.len() as u64)
    };
    read().map_err(|problem| problem.about(path))
}

/// Reads an array from the next bytes, of which there are `available`.
///
/// # Errors
/// As [`read`].
pub fn read_from(reader: &mut impl Read, available: u64) -> Result<Array> {
    read_inner(reader, available).map_err(|problem| problem.about(Path::new("the data")))
}

/// Writes an array to a file, which is replaced if it is there.
///
/// # Errors
/// If the file cannot be written.
pub fn write(path: impl AsRef<Path>, array: &(impl AsArrayRef + ?Sized)) -> Result<()> {
    let path = path.as_ref();
    let written = File::create(path).and_then(|mut file| write_inner(&mut file, array));
    written.map_err(|error| Problem::from(error).about(path))
}

/// Writes an array.
///
/// # Errors
/// If the writer fails.
pub fn write_to(writer: &mut impl Write, array: &(impl AsArrayRef + ?Sized)) -> Result<()> {
    write_inner(writer, array).map_err(|error| Problem::from(error).about(Path::new("the data")))
}

/// What is wrong with a file, without its name.
enum Problem {
    Io(io::Error),
    /// A reason and a way out, which may be empty.
    Format(String, &'static str),
    Other(Error),
}

impl From<io::Error> for Problem {
    fn from(error: io::Error) -> Problem {
        Problem::Io(error)
    }
}

impl From<Error> for Problem {
    fn from(error: Error) -> Problem {
        Problem::Other(error)
    }
}

impl Problem {
    fn new(why: impl Into<String>) -> Problem {
        Problem::Format(why.into(), "")
    }

    fn about(self, path: &Path) -> Error {
        let title = |what: &str| Diagnostic::new(Code::File, format!("{what} {}", path.display()));
        match self {
            Problem::Io(error) => title("cannot use").why(error.to_string()).into(),
            Problem::Format(why, "") => title("cannot read").why(why).into(),
            Problem::Format(why, hint) => title("cannot read").why(why).hint(hint).into(),
            Problem::Other(error) => error,
        }
    }
}

/// What a header says.
struct Header {
    dtype: DType,
    big_endian: bool,
    column_major: bool,
    shape: Vec<u64>,
}

fn read_inner(reader: &mut impl Read, available: u64) -> Result<Array, Problem> {
    let mut lead = [0u8; 8];
    let cut = |_| Problem::new("the file is shorter than a header");
    reader.read_exact(&mut lead).map_err(cut)?;
    if lead[..6] != *MAGIC {
        return Err(Problem::Format("it does not begin as a .npy file".into(), "save it with `numpy.save`"));
    }
    let (major, minor) = (lead[6], lead[7]);
    let length_bytes = match major {
        1 => 2,
        2 | 3 => 4,
        _ => return Err(Problem::new(format!("format version {major}.{minor} is not known"))),
    };
    let mut length = [0u8; 4];
    reader.read_exact(&mut length[..length_bytes]).map_err(cut)?;
    let length = u32::from_le_bytes(length) as usize;
    if length > MAX_HEADER {
        return Err(Problem::new(format!("its header has {length} bytes; at most {MAX_HEADER} are read")));
    }
    let mut header = vec![0u8; length];
    reader.read_exact(&mut header).map_err(cut)?;
    let header = parse(&header)?;

    let place = Strided::row_major(&header.shape, header.dtype).map_err(Error::from)?;
    let bytes = place.count() * header.dtype.size() as u64;
    let left = available.saturating_sub((8 + length_bytes + length) as u64);
    if bytes > left {
        let text = format!("its shape {:?} takes {bytes} bytes; {left} follow the header", header.shape);
        return Err(Problem::Format(text, "the file may have been cut short"));
    }
    let mut array = if header.column_major {
        let reversed: Vec<u64> = header.shape.iter().rev().copied().collect();
        Array::uninitialized(header.dtype, &reversed)?
    } else {
        Array::uninitialized_at(header.dtype, place)?
    };
    fill(&mut array, reader, &header)?;
    Ok(if header.column_major { array.transposed() } else { array })
}

fn fill(array: &mut Array, reader: &mut impl Read, header: &Header) -> Result<(), Problem> {
    let bytes = array.zeroed_bytes();
    reader.read_exact(bytes)?;
    if header.big_endian {
        bytes.chunks_exact_mut(header.dtype.size()).for_each(<[u8]>::reverse);
    }
    if header.dtype == DType::Bool {
        bytes.iter_mut().for_each(|b| *b = u8::from(*b != 0));
    }
    Ok(())
}

fn parse(header: &[u8]) -> Result<Header, Problem> {
    let mut scan = Scanner { rest: header };
    let (mut descr, mut order, mut shape) = (None, None, None);
    scan.expect(b'{')?;
    while !scan.accept(b'}') {
        let key = scan.string()?;
        scan.expect(b':')?;
        let twice = match key {
            "descr" => descr.replace(scan.descr()?).is_some(),
            "fortran_order" => order.replace(scan.truth()?).is_some(),
            "shape" => shape.replace(scan.shape()?).is_some(),
            _ => return Err(Problem::new(format!("its header has an unknown key `{key}`"))),
        };
        if twice {
            return Err(Problem::new(format!("its header has `{key}` twice")));
        }
        if !scan.accept(b',') {
            scan.expect(b'}')?;
            break;
        }
    }
    if !scan.is_done() {
        return Err(Problem::new("its header goes on after the dictionary"));
    }
    let missing = |key: &str| Problem::new(format!("its header lacks `{key}`"));
    let (dtype, big_endian) = descr.ok_or_else(|| missing("descr"))?;
    let column_major = order.ok_or_else(|| missing("fortran_order"))?;
    Ok(Header { dtype, big_endian, column_major, shape: shape.ok_or_else(|| missing("shape"))? })
}

/// Reads the few literals that a header is made of.
struct Scanner<'a> {
    rest: &'a [u8],
}

impl<'a> Scanner<'a> {
    fn peek(&mut self) -> Option<u8> {
        self.rest = self.rest.trim_ascii_start();
        self.rest.first().copied()
    }

    fn accept(&mut self, byte: u8) -> bool {
        let found = self.peek() == Some(byte);
        if found {
            self.rest = &self.rest[1..];
        }
        found
    }

    fn expect(&mut self, byte: u8) -> Result<(), Problem> {
        if self.accept(byte) {
            return Ok(());
        }
        Err(Problem::new(match self.peek() {
            Some(found) => format!("its header has `{}` where `{}` belongs", found.escape_ascii(), char::from(byte)),
            None => format!("its header ends where `{}` belongs", char::from(byte)),
        }))
    }

    fn is_done(&mut self) -> bool {
        self.peek().is_none()
    }

    /// A string of printable ASCII without escapes.
    fn string(&mut self) -> Result<&'a str, Problem> {
        let bad = || Problem::new("its header has a damaged string");
        let quote = self.peek().filter(|q| matches!(q, b'\'' | b'"')).ok_or_else(bad)?;
        let text = &self.rest[1..];
        let end = text.iter().position(|b| *b == quote).ok_or_else(bad)?;
        let (text, rest) = (&text[..end], &text[end + 1..]);
        if !text.iter().all(|b| (b' '..=b'~').contains(b) && *b != b'\\') {
            return Err(bad());
        }
        self.rest = rest;
        std::str::from_utf8(text).map_err(|_| bad())
    }

    fn truth(&mut self) -> Result<bool, Problem> {
        for (text, value) in [(&b"False"[..], false), (b"True", true)] {
            self.peek();
            if let Some(rest) = self.rest.strip_prefix(text) {
                self.rest = rest;
                return Ok(value);
            }
        }
        Err(Problem::new("its header says neither True nor False for `fortran_order`"))
    }

    fn shape(&mut self) -> Result<Vec<u64>, Problem> {
        let mut shape = Vec::new();
        self.expect(b'(')?;
        while !self.accept(b')') {
            let too_large = || Problem::new("its header has a size that is too large");
            self.peek();
            let digits = self.rest.iter().take_while(|b| b.is_ascii_digit()).count();
            let (number, rest) = self.rest.split_at(digits);
            let text = std::str::from_utf8(number).map_err(|_| too_large())?;
            if text.is_empty() {
                return Err(Problem::new("its header has a size that is no number"));
            }
            shape.push(text.parse().map_err(|_| too_large())?);
            self.rest = rest;
            if shape.len() > MAX_RANK {
                return Err(Problem::new(format!("it has more than {MAX_RANK} dimensions")));
            }
            if !self.accept(b',') {
                // `(3)` is a number in Python, no tuple; NumPy never writes it.
                if shape.len() == 1 {
                    return Err(Problem::new("its header has a shape that is no tuple"));
                }
                self.expect(b')')?;
                break;
            }
        }
        Ok(shape)
    }

    /// The dtype, and whether it is big-endian.
    fn descr(&mut self) -> Result<(DType, bool), Problem> {
        if self.peek() == Some(b'[') {
            return Err(Problem::Format("its elements are records".into(), "save each field as a file of its own"));
        }
        let text = self.string()?;
        let (order, code) = match text.split_at_checked(1) {
            Some((order @ ("<" | ">" | "|" | "="), code)) => (order, code),
            _ => ("=", text),
        };
        let refuse =
            |what: &str, hint: &'static str| Err(Problem::Format(format!("its elements are {what} (`{text}`)"), hint));
        let dtype = match code {
            "b1" | "?" => DType::Bool,
            "i1" => DType::I8,
            "i2" => DType::I16,
            "i4" => DType::I32,
            "i8" => DType::I64,
            "u1" => DType::U8,
            "u2" => DType::U16,
            "u4" => DType::U32,
            "u8" => DType::U64,
            "f4" => DType::F32,
            "f8" => DType::F64,
            "f2" => return refuse("half-precision floats", "convert them: `a.astype('f4')`"),
            "c8" | "c16" => return refuse("complex numbers", "save `a.real` and `a.imag`"),
            "O" => return refuse("Python objects", "objects are never loaded: they could run code; save numbers"),
            _ if code.starts_with(['U', 'S', 'V', 'a']) => return refuse("text or raw bytes", "save numbers"),
            _ if code.starts_with(['M', 'm']) => return refuse("dates or times", "save `a.astype('i8')`"),
            _ => return refuse("of an unknown type", ""),
        };
        Ok((dtype, order == ">" && dtype.size() > 1))
    }
}

fn write_inner(writer: &mut impl Write, array: &(impl AsArrayRef + ?Sized)) -> io::Result<()> {
    let array = array.as_array_ref();
    let dtype = array.dtype();
    let descr = match dtype.size() {
        1 => '|',
        _ => '<',
    };
    let kind = match dtype {
        DType::Bool => 'b',
        d if d.is_float() => 'f',
        d if d.is_signed() => 'i',
        _ => 'u',
    };
    let mut shape: String = array.shape().iter().map(|n| format!("{n}, ")).collect();
    if array.shape().len() > 1 {
        shape.truncate(shape.len() - 2);
    } else {
        shape = shape.trim_end().to_owned();
    }
    let mut header =
        format!("{{'descr': '{descr}{kind}{}', 'fortran_order': False, 'shape': ({shape}), }}", dtype.size());
    // The elements begin at a multiple of 64 bytes; the header ends with a line feed.
    let unpadded = MAGIC.len() + 4 + header.len() + 1;
    header.push_str(&" ".repeat(unpadded.next_multiple_of(64) - unpadded));
    header.push('\n');
    writer.write_all(MAGIC)?;
    writer.write_all(&[1, 0])?;
    writer.write_all(&(header.len() as u16).to_le_bytes())?;
    writer.write_all(header.as_bytes())?;

    match array.as_bytes() {
        Some(bytes) => writer.write_all(bytes)?,
        None => {
            let row_major = Array::copy_to(&array, &Device::cpu()).map_err(io::Error::other)?;
            writer.write_all(row_major.view().as_bytes().unwrap_or_default())?;
        }
    }
    writer.flush()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::element::Element;

    fn npy(header: &str, data: &[u8]) -> Vec<u8> {
        let mut file = MAGIC.to_vec();
        file.extend([1, 0]);
        file.extend((header.len() as u16).to_le_bytes());
        file.extend(header.as_bytes());
        file.extend(data);
        file
    }

    fn read_bytes(file: &[u8]) -> Result<Array> {
        read_from(&mut &file[..], file.len() as u64)
    }

    fn round_trip<T: Element>(elements: Vec<T>, shape: &[usize]) {
        let array = Array::from_vec(elements, shape).unwrap();
        let mut file = Vec::new();
        write_to(&mut file, &array).unwrap();
        assert_eq!(file.iter().position(|b| *b == b'\n').map(|end| (end + 1) % 64), Some(0));
        assert_eq!(read_bytes(&file).unwrap(), array);
    }

    #[test]
    fn arrays_round_trip() {
        round_trip(vec![true, false], &[2]);
        round_trip(vec![-1i8, 2], &[2, 1]);
        round_trip(vec![i16::MIN, 2], &[2]);
        round_trip(vec![i32::MIN, 2], &[1, 2]);
        round_trip(vec![i64::MIN], &[]);
        round_trip(vec![u8::MAX; 30], &[2, 3, 5]);
        round_trip(vec![u16::MAX], &[1]);
        round_trip(vec![u32::MAX], &[1]);
        round_trip(vec![u64::MAX], &[1]);
        round_trip(vec![f32::NAN, -0.0], &[2]);
        round_trip::<f64>(vec![], &[0, 7]);
        round_trip(vec![1.5f64; 1], &[1; 32]);
    }

    #[test]
    fn strided_arrays_are_written_in_order() {
        let base = ndarray::Array2::from_shape_fn((3, 4), |(i, j)| (10 * i + j) as i32);
        let view = base.slice(ndarray::s![..;-1, 1..;2]);
        let mut file = Vec::new();
        write_to(&mut file, &view).unwrap();
        assert_eq!(read_bytes(&file).unwrap().as_slice::<i32>().unwrap(), [21, 23, 11, 13, 1, 3]);
    }

    #[test]
    fn numpy_header_variants_are_read() {
        // As `numpy.save` writes them, and as other programs do.
        let one = 1.5f64.to_le_bytes();
        for header in [
            "{'descr': '<f8', 'fortran_order': False, 'shape': (1,), }          \n",
            "{\"shape\":(1,),\"fortran_order\":True,\"descr\":\"=f8\"}",
            "{ 'fortran_order' : False , 'descr' : 'f8' , 'shape' : ( 1 , ) }\n",
        ] {
            assert_eq!(read_bytes(&npy(header, &one)).unwrap().as_slice::<f64>().unwrap(), [1.5], "{header}");
        }
        let big = npy("{'descr': '>i4', 'fortran_order': False, 'shape': (2,), }", &[0, 0, 1, 0, 255, 255, 255, 254]);
        assert_eq!(read_bytes(&big).unwrap().as_slice::<i32>().unwrap(), [256, -2]);
        let bools = npy("{'descr': '|b1', 'fortran_order': False, 'shape': (3,), }", &[0, 2, 255]);
        assert_eq!(read_bytes(&bools).unwrap().as_slice::<bool>().unwrap(), [false, true, true]);
        let columns = npy("{'descr': '|u1', 'fortran_order': True, 'shape': (2, 3), }", &[0, 10, 1, 11, 2, 12]);
        let columns = read_bytes(&columns).unwrap();
        assert_eq!(columns.shape(), [2, 3]);
        assert_eq!(columns.to_vec::<u8>().unwrap(), [0, 1, 2, 10, 11, 12]);
        assert!(columns.as_slice::<u8>().is_err());
    }

    #[test]
    fn versions_2_and_3_have_longer_lengths() {
        for version in [2, 3] {
            let header = "{'descr': '|u1', 'fortran_order': False, 'shape': (), }";
            let mut file = MAGIC.to_vec();
            file.extend([version, 0]);
            file.extend((header.len() as u32).to_le_bytes());
            file.extend(header.as_bytes());
            file.push(7);
            assert_eq!(read_bytes(&file).unwrap().item::<i64>().unwrap(), 7);
        }
    }

    #[test]
    fn hostile_files_are_refused() {
        let header = |h: &str| npy(h, &[0; 64]);
        let cases: Vec<(Vec<u8>, &str)> = vec![
            (vec![], "shorter than a header"),
            (b"PK\x03\x04 not npy".to_vec(), "does not begin"),
            (b"\x93NUMPY\x09\x00\x10\x00".to_vec(), "version 9.0"),
            (b"\x93NUMPY\x02\x00\xff\xff\xff\xff".to_vec(), "at most 65536"),
            (b"\x93NUMPY\x01\x00\xff\x00{".to_vec(), "shorter than a header"),
            (header("{'descr': '|O', 'fortran_order': False, 'shape': (1,)}"), "Python objects"),
            (header("{'descr': '<U3', 'fortran_order': False, 'shape': (1,)}"), "text or raw bytes"),
            (header("{'descr': '<c16', 'fortran_order': False, 'shape': (1,)}"), "complex"),
            (header("{'descr': '<M8[ns]', 'fortran_order': False, 'shape': (1,)}"), "dates"),
            (header("{'descr': [('a', '<f8')], 'fortran_order': False, 'shape': (1,)}"), "records"),
            (header("{'descr': '<f16', 'fortran_order': False, 'shape': (1,)}"), "unknown type"),
            (header("{'descr': '<f8', 'fortran_order': False, 'shape': (99,)}"), "cut short"),
            (header("{'descr': '<f8', 'fortran_order': False, 'shape': (-1,)}"), "no number"),
            (header("{'descr': '<f8', 'fortran_order': False, 'shape': (99999999999999999999,)}"), "too large"),
            (
                header("{'descr': '<f8', 'fortran_order': False, 'shape': (4294967296, 4294967296)}"),
                "too many elements",
            ),
            (header("{'descr': '<f8', 'fortran_order': False, 'shape': (2305843009213693952,)}"), "overflows"),
            (header("{'descr': '<f8', 'fortran_order': False, 'shape': (3)}"), "no tuple"),
            (header("{'descr': '<f8', 'fortran_order': False}"), "lacks `shape`"),
            (header("{'descr': '<f8', 'descr': '<f8', 'fortran_order': False, 'shape': ()}"), "twice"),
            (header("{'descr': '<f8', 'fortran_order': 0, 'shape': ()}"), "neither True nor False"),
            (header("{'descr': '<f8', 'fortran_order': False, 'shape': (), 'x': 1}"), "unknown key"),
            (header("{'descr': __import__('os').system('id')}"), "damaged string"),
            (header("{'descr': '\\x3cf8', 'fortran_order': False, 'shape': ()}"), "damaged string"),
            (header("{'descr': '<f8', 'fortran_order': False, 'shape': ()} or 1"), "goes on after"),
            (header("{'descr': '<f8', 'fortran_order': False, 'shape': (((((("), "no number"),
            (
                header(&format!("{{'descr': '<f8', 'fortran_order': False, 'shape': ({})}}", "1,".repeat(33))),
                "more than 32",
            ),
            (header(&"{".repeat(60000)), "damaged string"),
            (header("\0\0\0\0"), "where `{` belongs"),
        ];
        for (file, want) in cases {
            let error = read_bytes(&file).unwrap_err();
            assert!(error.to_string().contains(want), "{error} should mention {want}");
        }
    }

    #[test]
    fn any_cut_of_a_file_is_an_error() {
        let mut file = Vec::new();
        write_to(&mut file, &[1.0, 2.0, 3.0]).unwrap();
        for len in 0..file.len() {
            assert_eq!(read_bytes(&file[..len]).unwrap_err().code(), Code::File, "{len}");
        }
    }

    #[test]
    fn errors_name_the_file() {
        let error = read("/no/such/file.npy").unwrap_err();
        assert_eq!(error.code(), Code::File);
        assert!(error.to_string().contains("/no/such/file.npy"), "{error}");
    }
}
