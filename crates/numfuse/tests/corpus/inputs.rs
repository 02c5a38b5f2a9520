//! The `in` lines of a corpus file: declarations of inputs and the generators of their values.
//!
//! ```text
//! in a: f64[n, 3]              symbolic: a size may be a name; for stages before the run
//! in a: f64[2, 3] = iota       0, 1, 2, ... in row-major order (bools: False, True, False, ...)
//! in a: f64[4] = 2.5           one value everywhere; also `nan`, `inf`, `min` and `max` of the dtype
//! in a: f64[3] = [1, nan, -0.0]  each value
//! in a: f64[5] = ramp(-1, 1)   evenly spaced, both ends included
//! in a: f64[7] = mixed         a pattern of positive and negative values without symmetry
//! in a: f64[2, 3] = iota.T     what `.T` makes of an array of the reversed shape
//! in a: f64[3] = iota[::-1]    a reversed first axis
//! in a: f64[3] = iota[::2]     every second of an array twice as long
//! in a: f64[2, 3] = iota.broadcast   the first axis has stride 0
//! in k: f64 weak = 0.5         a plain number, whose dtype gives way to that of an array
//! ```
//!
//! `scripts/corpus_oracle.py` reads the same lines.

use numfuse_core::dtype::{DType, Kind};
use numfuse_core::literal::Literal;

/// A size in a declaration.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Size {
    /// A number.
    Fixed(u64),
    /// A name.
    Symbol(String),
}

/// An `in` line.
#[derive(Clone, PartialEq, Debug)]
pub struct InputLine {
    /// The name.
    pub name: String,
    /// The dtype.
    pub dtype: DType,
    /// True for a plain number.
    pub weak: bool,
    /// The shape.
    pub shape: Vec<Size>,
    /// The values, if they are given.
    pub data: Option<Data>,
}

/// Elements and how they lie: element `[i, j, ...]` is `elements[offset + i * strides[0] + j * strides[1] ...]`.
#[derive(Clone, PartialEq, Debug)]
pub struct Data {
    /// The memory.
    pub elements: Vec<Literal>,
    /// Sizes, outermost first.
    pub shape: Vec<usize>,
    /// Strides in elements.
    pub strides: Vec<isize>,
    /// Where the first element is.
    pub offset: usize,
}

impl InputLine {
    /// Reads what follows `in `.
    pub fn read(line: &str) -> Result<InputLine, String> {
        let (name, rest) = line.split_once(": ").ok_or("expected `NAME: DTYPE[SHAPE]`")?;
        let (declared, values) = match rest.split_once(" = ") {
            Some((declared, values)) => (declared, Some(values)),
            None => (rest, None),
        };
        let (declared, weak) = declared.strip_suffix(" weak").map_or((declared, false), |d| (d, true));
        let (dtype, shape) = match declared.split_once('[') {
            None => (declared, Vec::new()),
            Some((dtype, sizes)) => {
                let sizes = sizes.strip_suffix(']').ok_or("expected `]`")?;
                let size = |s: &str| s.parse().map_or_else(|_| Size::Symbol(s.to_owned()), Size::Fixed);
                (dtype, sizes.split(", ").map(size).collect())
            }
        };
        let dtype = DType::from_name(dtype).ok_or_else(|| format!("unknown dtype `{dtype}`"))?;
        let data = values.map(|values| Data::read(dtype, &shape, values)).transpose()?;
        if weak && !shape.is_empty() {
            return Err("only scalars are weak".into());
        }
        Ok(InputLine { name: name.to_owned(), dtype, weak, shape, data })
    }
}

impl Data {
    fn read(dtype: DType, shape: &[Size], values: &str) -> Result<Data, String> {
        let mut sizes = Vec::new();
        for size in shape {
            match size {
                Size::Fixed(size) => sizes.push(*size as usize),
                Size::Symbol(name) => return Err(format!("values for a size `{name}` that is not known")),
            }
        }
        if let Some(base) = values.strip_suffix(".T") {
            sizes.reverse();
            let mut data = Data::dense(dtype, &sizes, base)?;
            data.shape.reverse();
            data.strides.reverse();
            return Ok(data);
        }
        if let Some(base) = values.strip_suffix("[::-1]") {
            let mut data = Data::dense(dtype, &sizes, base)?;
            let first = *sizes.first().ok_or("a scalar has no first axis")?;
            data.offset = first.saturating_sub(1) * data.strides[0] as usize;
            data.strides[0] = -data.strides[0];
            return Ok(data);
        }
        if let Some(base) = values.strip_suffix("[::2]") {
            *sizes.first_mut().ok_or("a scalar has no first axis")? *= 2;
            let mut data = Data::dense(dtype, &sizes, base)?;
            data.shape[0] /= 2;
            data.strides[0] *= 2;
            return Ok(data);
        }
        if let Some(base) = values.strip_suffix(".broadcast") {
            let mut data = Data::dense(dtype, sizes.get(1..).ok_or("a scalar has no first axis")?, base)?;
            data.shape.insert(0, sizes[0]);
            data.strides.insert(0, 0);
            return Ok(data);
        }
        Data::dense(dtype, &sizes, values)
    }

    fn dense(dtype: DType, shape: &[usize], values: &str) -> Result<Data, String> {
        let count: usize = shape.iter().product();
        let elements: Vec<Literal> = match values {
            "iota" => (0..count).map(|i| integer(dtype, i as i64)).collect(),
            "mixed" => (0..count).map(|i| Literal::f64(((i * 7 + 3) % 11) as f64 / 2.0 - 2.0).cast(dtype)).collect(),
            _ => match (values.strip_prefix("ramp("), values.strip_prefix('[')) {
                (Some(ends), _) => {
                    let ends =
                        ends.strip_suffix(')').and_then(|e| e.split_once(", ")).ok_or("expected `ramp(LOW, HIGH)`")?;
                    let low: f64 = ends.0.parse().map_err(|_| "a bad number")?;
                    let high: f64 = ends.1.parse().map_err(|_| "a bad number")?;
                    let step = (high - low) / (count.max(2) - 1) as f64;
                    (0..count).map(|i| Literal::f64(low + i as f64 * step).cast(dtype)).collect()
                }
                (None, Some(list)) => {
                    let list = list.strip_suffix(']').ok_or("expected `]`")?;
                    list.split(", ").filter(|v| !v.is_empty()).map(|v| value(dtype, v)).collect::<Result<_, _>>()?
                }
                (None, None) => vec![value(dtype, values)?; count],
            },
        };
        if elements.len() != count {
            return Err(format!("{} values for {count} elements", elements.len()));
        }
        let mut strides = vec![1isize; shape.len()];
        for i in (1..shape.len()).rev() {
            strides[i - 1] = strides[i] * shape[i] as isize;
        }
        Ok(Data { elements, shape: shape.to_vec(), strides, offset: 0 })
    }
}

fn integer(dtype: DType, i: i64) -> Literal {
    if dtype == DType::Bool { Literal::bool(i % 2 == 1) } else { Literal::from_i64(dtype, i) }
}

/// One value as it is written; it has to be one of the dtype.
fn value(dtype: DType, text: &str) -> Result<Literal, String> {
    let parsed = match (text, dtype.kind()) {
        ("min", _) => Some(Literal::min_of(dtype)),
        ("max", _) => Some(Literal::max_of(dtype)),
        ("True", Kind::Bool) => Some(Literal::bool(true)),
        ("False", Kind::Bool) => Some(Literal::bool(false)),
        (_, Kind::Bool) => None,
        (_, Kind::Int | Kind::Uint) => {
            text.parse().ok().map(|x: i128| Literal::from_i64(dtype, x as i64)).filter(|l| l.to_string() == text)
        }
        (_, Kind::Float) if dtype == DType::F32 => text.parse().ok().map(Literal::f32),
        (_, Kind::Float) => text.parse().ok().map(Literal::f64),
    };
    parsed.ok_or_else(|| format!("`{text}` is no {dtype}"))
}

#[test]
fn generators() {
    let logical = |line: &str| {
        let data = InputLine::read(line).expect(line).data.expect(line);
        let mut out = Vec::new();
        let (rows, columns) = (data.shape[0], *data.shape.get(1).unwrap_or(&1));
        for i in 0..rows as isize {
            for j in 0..columns as isize {
                let at = data.offset as isize + i * data.strides[0] + j * data.strides.get(1).unwrap_or(&0);
                out.push(data.elements[at as usize].to_string());
            }
        }
        out.join(" ")
    };
    assert_eq!(logical("x: i32[2, 3] = iota"), "0 1 2 3 4 5");
    assert_eq!(logical("x: i32[2, 3] = iota.T"), "0 2 4 1 3 5");
    assert_eq!(logical("x: i32[2, 3] = iota[::-1]"), "3 4 5 0 1 2");
    assert_eq!(logical("x: i32[2, 3] = iota[::2]"), "0 1 2 6 7 8");
    assert_eq!(logical("x: i32[2, 3] = iota.broadcast"), "0 1 2 0 1 2");
    assert_eq!(logical("x: bool[3] = iota"), "False True False");
    assert_eq!(logical("x: f64[3] = ramp(-1, 1)"), "-1.0 0.0 1.0");
    assert_eq!(logical("x: u8[2] = [min, max]"), "0 255");
    assert_eq!(logical("x: f32[2] = [nan, -0.0]"), "nan -0.0");
}
