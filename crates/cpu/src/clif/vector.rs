//! One primitive on N lanes at once, in 128-bit vectors.
//!
//! A [`Vector`] holds N lanes of one dtype in as many 128-bit parts as they need; if they need less than one part, the
//! upper lanes hold anything. Unrolling is nothing but a larger N, and dtypes of different sizes may meet in one body.
//! A bool is a mask, all ones or all zeros in each lane; its lanes are as wide as those of the values that it was
//! compared from, and are narrowed or widened where it is used. Primitives without a vector form on the host are
//! computed lane by lane by `scalar.rs`.

use super::Gen;
use super::scalar::{float_cc, int_cc, scalar_type};
use cranelift_codegen::ir::condcodes::IntCC;
use cranelift_codegen::ir::{self, ConstantData, Endianness, InstBuilder, MemFlagsData, Type, types};
use numfuse_core::dtype::DType;
use numfuse_core::kernel::{Prim, expand};
use numfuse_core::literal::Literal;
use smallvec::SmallVec;

/// The 128-bit values of a vector.
pub(crate) type Parts = SmallVec<[ir::Value; 4]>;

/// N lanes of one dtype.
#[derive(Clone, Debug)]
pub(crate) struct Vector {
    /// The parts in order; a single one if all lanes are `same`.
    pub parts: Parts,
    /// Bytes of a lane: the size of the dtype, or of the mask for bools.
    pub width: usize,
    /// Every lane of every part is the same.
    pub same: bool,
}

impl Vector {
    /// The n-th part.
    pub fn part(&self, n: usize) -> ir::Value {
        self.parts[if self.same { 0 } else { n }]
    }
}

/// An operand of a vector primitive.
#[derive(Clone, Debug)]
pub(crate) struct Lanes {
    /// Its lanes.
    pub vector: Vector,
    /// Its value as a scalar, if it is the same for all lanes.
    pub scalar: Option<ir::Value>,
    /// Its value, if it is known when the kernel is compiled.
    pub literal: Option<Literal>,
}

impl From<Vector> for Lanes {
    fn from(vector: Vector) -> Lanes {
        Lanes { vector, scalar: None, literal: None }
    }
}

/// How many parts N lanes of this width need.
pub(crate) fn part_count(lanes: usize, width: usize) -> usize {
    (lanes * width).div_ceil(16)
}

/// The 128-bit integer type with lanes of this width.
pub(super) fn int_vector(width: usize) -> Type {
    match width {
        1 => types::I8X16,
        2 => types::I16X8,
        4 => types::I32X4,
        _ => types::I64X2,
    }
}

/// The 128-bit type of a dtype; for bools that of a byte mask.
pub(super) fn vector_type(dtype: DType) -> Type {
    match dtype {
        DType::F32 => types::F32X4,
        DType::F64 => types::F64X2,
        _ => int_vector(dtype.size()),
    }
}

/// True if the host has no vector form of the primitive, so that it costs one scalar primitive for each lane.
/// `count_is_uniform` says whether the second operand of a shift is the same for all lanes.
pub(crate) fn is_scalarised(
    prim: Prim,
    result: DType,
    operand: DType,
    count_is_uniform: bool,
    target: &super::Target,
) -> bool {
    match prim {
        Prim::Rem => true,
        Prim::Div => !result.is_float(),
        Prim::Fma => !target.fma,
        Prim::Floor | Prim::Ceil | Prim::Trunc | Prim::RoundEven => !target.round,
        Prim::Shl | Prim::Shr => !count_is_uniform,
        Prim::Cast => match (operand.is_float(), result.is_float()) {
            (true, false) if result == DType::U32 && operand == DType::F64 => !target.round,
            (true, false) => result.size() == 8,
            (false, true) => operand.size() == 8 && result == DType::F32,
            _ => false,
        },
        _ => false,
    }
}

impl Gen<'_> {
    /// The same bits as another 128-bit type.
    pub(super) fn reinterpret(&mut self, ty: Type, x: ir::Value) -> ir::Value {
        if self.b.func.dfg.value_type(x) == ty {
            return x;
        }
        let flags = MemFlagsData::new().with_endianness(Endianness::Little);
        self.b.ins().bitcast(ty, flags, x)
    }

    /// A 128-bit constant.
    pub(super) fn vector_constant(&mut self, ty: Type, bytes: [u8; 16]) -> ir::Value {
        let constant = self.b.func.dfg.constants.insert(ConstantData::from(&bytes[..]));
        self.b.ins().vconst(ty, constant)
    }

    /// Zeros.
    pub(super) fn zeros(&mut self, ty: Type) -> ir::Value {
        self.vector_constant(ty, [0; 16])
    }

    /// A vector whose lanes are all `literal`.
    pub(crate) fn splat_constant(&mut self, literal: Literal) -> Vector {
        let dtype = literal.dtype();
        let mut bytes = [0; 16];
        if dtype == DType::Bool {
            bytes = [if literal.as_bool() { 0xff } else { 0 }; 16];
        } else {
            for (i, byte) in bytes.iter_mut().enumerate() {
                *byte = literal.bits().to_le_bytes()[i % dtype.size()];
            }
        }
        let part = self.vector_constant(vector_type(dtype), bytes);
        Vector { parts: SmallVec::from_elem(part, 1), width: dtype.size(), same: true }
    }

    /// A vector whose lanes are all the scalar `x`.
    pub(crate) fn splat(&mut self, dtype: DType, x: ir::Value) -> Vector {
        let x = if dtype == DType::Bool { self.b.ins().ineg(x) } else { x };
        let part = self.b.ins().splat(vector_type(dtype), x);
        Vector { parts: SmallVec::from_elem(part, 1), width: dtype.size(), same: true }
    }

    /// The scalar in a lane.
    pub(crate) fn lane(&mut self, dtype: DType, vector: &Vector, lane: usize) -> ir::Value {
        let per_part = 16 / vector.width;
        let x = self.b.ins().extractlane(vector.part(lane / per_part), (lane % per_part) as u8);
        if dtype != DType::Bool {
            return x;
        }
        let x = if vector.width > 1 { self.b.ins().ireduce(types::I8, x) } else { x };
        self.b.ins().band_imm_u(x, 1)
    }

    /// A vector of these scalars, none of them bools.
    pub(crate) fn gather(&mut self, dtype: DType, lanes: &[ir::Value]) -> Vector {
        let ty = vector_type(dtype);
        let parts = lanes
            .chunks(16 / dtype.size())
            .map(|chunk| {
                let mut part = if dtype.size() >= 4 {
                    self.b.ins().scalar_to_vector(ty, chunk[0])
                } else {
                    let zero = self.zeros(ty);
                    self.b.ins().insertlane(zero, chunk[0], 0u8)
                };
                for (i, x) in chunk.iter().enumerate().skip(1) {
                    part = self.b.ins().insertlane(part, *x, i as u8);
                }
                part
            })
            .collect();
        Vector { parts, width: dtype.size(), same: false }
    }

    /// The lanes of two vectors' parts picked by byte numbers: 0 to 15 from `x`, 16 to 31 from `y`.
    pub(super) fn shuffle(&mut self, ty: Type, x: ir::Value, y: ir::Value, pick: [u8; 16]) -> ir::Value {
        let (x, y) = (self.reinterpret(types::I8X16, x), self.reinterpret(types::I8X16, y));
        let mask = self.b.func.dfg.immediates.push(ConstantData::from(&pick[..]));
        let shuffled = self.b.ins().shuffle(x, y, mask);
        self.reinterpret(ty, shuffled)
    }

    /// The bytes of a part from `byte` on, moved to its beginning.
    pub(super) fn shift_down(&mut self, ty: Type, x: ir::Value, byte: usize) -> ir::Value {
        let pick = std::array::from_fn(|i| ((i + byte) % 16) as u8);
        self.shuffle(ty, x, x, pick)
    }

    /// Loads `lanes` consecutive elements.
    pub(crate) fn load_vector(&mut self, dtype: DType, lanes: usize, address: ir::Value, offset: i32) -> Vector {
        let (ty, bytes) = (vector_type(dtype), lanes * dtype.size());
        let flags = MemFlagsData::new().with_notrap();
        // Without AVX, instructions fault on memory operands that are not aligned. Cranelift 0.135 knows that, but makes
        // such an operand for `cmpps` and `cmppd` all the same. It does not look through a bitcast for loads to fold.
        let loaded = match (self.target.unaligned, ty) {
            (true, _) => ty,
            (false, types::I8X16) => types::F64X2,
            (false, _) => types::I8X16,
        };
        let mut parts: Parts = (0..bytes / 16)
            .map(|k| {
                let part = self.b.ins().load(loaded, flags, address, offset + 16 * k as i32);
                self.reinterpret(ty, part)
            })
            .collect();
        let end = offset + (bytes / 16 * 16) as i32;
        let rest = match bytes % 16 {
            0 => None,
            8 => {
                let x = self.b.ins().load(types::F64, flags, address, end);
                Some(self.b.ins().scalar_to_vector(types::F64X2, x))
            }
            4 => {
                let x = self.b.ins().load(types::F32, flags, address, end);
                Some(self.b.ins().scalar_to_vector(types::F32X4, x))
            }
            2 => {
                let x = self.b.ins().uload16(types::I32, flags, address, end);
                Some(self.b.ins().scalar_to_vector(types::I32X4, x))
            }
            _ => {
                let x = self.b.ins().uload8(types::I32, flags, address, end);
                Some(self.b.ins().scalar_to_vector(types::I32X4, x))
            }
        };
        if let Some(rest) = rest {
            parts.push(self.reinterpret(ty, rest));
        }
        if dtype == DType::Bool {
            // Any byte but 0 is true.
            let zero = self.zeros(ty);
            for part in &mut parts {
                *part = self.b.ins().icmp(IntCC::NotEqual, *part, zero);
            }
        }
        Vector { parts, width: dtype.size(), same: false }
    }

    /// Stores `lanes` consecutive elements.
    pub(crate) fn store_vector(
        &mut self,
        dtype: DType,
        lanes: usize,
        vector: &Vector,
        address: ir::Value,
        offset: i32,
    ) {
        let flags = MemFlagsData::new().with_notrap();
        let vector = self.memory_form(dtype, lanes, vector);
        let bytes = lanes * dtype.size();
        for k in 0..part_count(lanes, dtype.size()) {
            let (part, at) = (vector.part(k), offset + 16 * k as i32);
            let scalar = match bytes - 16 * k {
                16.. => part,
                8 => {
                    let part = self.reinterpret(types::F64X2, part);
                    self.b.ins().extractlane(part, 0u8)
                }
                4 => {
                    let part = self.reinterpret(types::F32X4, part);
                    self.b.ins().extractlane(part, 0u8)
                }
                2 => {
                    let part = self.reinterpret(types::I16X8, part);
                    self.b.ins().extractlane(part, 0u8)
                }
                _ => {
                    let part = self.reinterpret(types::I8X16, part);
                    self.b.ins().extractlane(part, 0u8)
                }
            };
            self.b.ins().store(flags, scalar, address, at);
        }
    }

    /// Bools as bytes of 0 and 1, everything else as it is.
    pub(crate) fn memory_form(&mut self, dtype: DType, lanes: usize, vector: &Vector) -> Vector {
        if dtype != DType::Bool {
            return vector.clone();
        }
        let mut bytes = self.mask(vector, lanes, 1);
        let one = self.vector_constant(types::I8X16, [1; 16]);
        for part in &mut bytes.parts {
            *part = self.b.ins().band(*part, one);
        }
        bytes
    }

    /// A bool vector with lanes of another width.
    pub(super) fn mask(&mut self, vector: &Vector, lanes: usize, width: usize) -> Vector {
        let ty = int_vector(width);
        if vector.same {
            let part = self.reinterpret(ty, vector.parts[0]);
            return Vector { parts: SmallVec::from_elem(part, 1), width, same: true };
        }
        let mut vector = vector.clone();
        while vector.width < width {
            vector = self.widen(&vector, lanes, true);
        }
        while vector.width > width {
            let narrow = vector.width / 2;
            let parts = vector
                .parts
                .chunks(2)
                .map(|pair| {
                    let (x, y) = (pair[0], pair[pair.len() - 1]);
                    if narrow == 4 { self.even_words(x, y) } else { self.b.ins().snarrow(x, y) }
                })
                .collect();
            vector = Vector { parts, width: narrow, same: false };
        }
        vector
    }

    /// Integer lanes of twice the width, sign- or zero-extended.
    pub(super) fn widen(&mut self, vector: &Vector, lanes: usize, signed: bool) -> Vector {
        let width = vector.width * 2;
        let mut parts = Parts::new();
        for k in 0..part_count(lanes, width) {
            let half = vector.part(k / 2);
            parts.push(match (signed, k % 2) {
                (true, 0) => self.b.ins().swiden_low(half),
                (true, _) => self.b.ins().swiden_high(half),
                (false, 0) => self.b.ins().uwiden_low(half),
                (false, _) => self.b.ins().uwiden_high(half),
            });
        }
        Vector { parts, width, same: false }
    }

    /// The low halves of the 64-bit lanes of `x`, then of `y`.
    pub(super) fn even_words(&mut self, x: ir::Value, y: ir::Value) -> ir::Value {
        let pick = [0, 1, 2, 3, 8, 9, 10, 11, 16, 17, 18, 19, 24, 25, 26, 27];
        self.shuffle(types::I32X4, x, y, pick)
    }

    /// `mask ? x : y` on one part; the mask's lanes are as wide as those of `x` and `y`.
    pub(super) fn blend(&mut self, mask: ir::Value, x: ir::Value, y: ir::Value) -> ir::Value {
        let ty = self.b.func.dfg.value_type(x);
        let mask = self.reinterpret(ty, mask);
        self.b.ins().bitselect(mask, x, y)
    }

    /// True if any lane of a mask is set. Lanes beyond the last may count.
    pub(super) fn any_lane(&mut self, mask: &Vector) -> ir::Value {
        let ty = int_vector(mask.width);
        let mut parts = mask.parts.clone().into_iter();
        let mut all = match parts.next() {
            Some(part) => self.reinterpret(ty, part),
            None => self.zeros(ty),
        };
        for part in parts {
            let part = self.reinterpret(ty, part);
            all = self.b.ins().bor(all, part);
        }
        self.b.ins().vany_true(all)
    }

    /// A primitive on `lanes` lanes. `operand` is the dtype of the first operand (of the second, for `Select`).
    pub(crate) fn vector_prim(
        &mut self,
        prim: Prim,
        result: DType,
        operand: DType,
        lanes: usize,
        args: &[&Lanes],
    ) -> Vector {
        let uniform_count = args.get(1).is_some_and(|count| count.scalar.is_some() || count.literal.is_some());
        if is_scalarised(prim, result, operand, uniform_count, &self.target) {
            return self.each_lane(prim, result, operand, lanes, args);
        }
        if let Some(body) = expand::body(prim, result) {
            let args: SmallVec<[Lanes; 2]> = args.iter().map(|x| (*x).clone()).collect();
            return self.vector_inline(body, &args, lanes).remove(0);
        }
        match prim {
            Prim::Cast => return self.vector_cast(operand, result, lanes, &args[0].vector),
            Prim::Bitcast => {
                let ty = vector_type(result);
                let x = &args[0].vector;
                let parts = x.parts.iter().map(|part| self.reinterpret(ty, *part)).collect();
                return Vector { parts, ..x.clone() };
            }
            Prim::Shl | Prim::Shr => return self.vector_shift(prim, result, lanes, args),
            Prim::Select => {
                let width = if result == DType::Bool { args[1].vector.width } else { result.size() };
                let condition = self.mask(&args[0].vector, lanes, width);
                let (mut x, mut y) = (args[1].vector.clone(), args[2].vector.clone());
                if result == DType::Bool {
                    (x, y) = (self.mask(&x, lanes, width), self.mask(&y, lanes, width));
                }
                return self.each_part(lanes, width, |g, k| g.blend(condition.part(k), x.part(k), y.part(k)));
            }
            _ => {}
        }
        if operand == DType::Bool {
            return self.vector_bool(prim, lanes, args);
        }
        let x = args[0].vector.clone();
        let y = args.get(1).map_or_else(|| x.clone(), |y| y.vector.clone());
        let z = args.get(2).map_or_else(|| x.clone(), |z| z.vector.clone());
        self.each_part(lanes, operand.size(), |g, k| {
            let (x, y) = (x.part(k), y.part(k));
            if operand.is_float() {
                g.float_part(prim, operand, x, y, z.part(k))
            } else {
                g.int_part(prim, operand, x, y)
            }
        })
    }

    fn each_part(&mut self, lanes: usize, width: usize, mut part: impl FnMut(&mut Self, usize) -> ir::Value) -> Vector {
        let parts = (0..part_count(lanes, width)).map(|k| part(self, k)).collect();
        Vector { parts, width, same: false }
    }

    fn each_lane(&mut self, prim: Prim, result: DType, operand: DType, lanes: usize, args: &[&Lanes]) -> Vector {
        let values: Vec<ir::Value> = (0..lanes)
            .map(|lane| {
                let scalars: SmallVec<[ir::Value; 3]> = args
                    .iter()
                    .map(|x| match (x.scalar, x.literal) {
                        (Some(scalar), _) => scalar,
                        (None, Some(literal)) => self.constant(literal),
                        (None, None) => self.lane(operand, &x.vector, lane),
                    })
                    .collect();
                self.scalar_prim(prim, result, operand, &scalars)
            })
            .collect();
        self.gather(result, &values)
    }

    fn vector_bool(&mut self, prim: Prim, lanes: usize, args: &[&Lanes]) -> Vector {
        let x = &args[0].vector;
        let width = match args.get(1) {
            Some(y) if x.same => y.vector.width,
            _ => x.width,
        };
        let x = self.mask(x, lanes, width);
        let y = args.get(1).map_or_else(|| x.clone(), |y| self.mask(&y.vector, lanes, width));
        self.each_part(lanes, width, |g, k| {
            let (x, y) = (x.part(k), y.part(k));
            match prim {
                Prim::And => g.b.ins().band(x, y),
                Prim::Or => g.b.ins().bor(x, y),
                Prim::Xor | Prim::Ne => g.b.ins().bxor(x, y),
                Prim::Not => g.b.ins().bnot(x),
                Prim::Eq => {
                    let differ = g.b.ins().bxor(x, y);
                    g.b.ins().bnot(differ)
                }
                _ => g.unsupported(format!("{} of bool", prim.name()), int_vector(width)),
            }
        })
    }

    fn float_part(&mut self, prim: Prim, dtype: DType, x: ir::Value, y: ir::Value, z: ir::Value) -> ir::Value {
        match prim {
            Prim::Neg => self.b.ins().fneg(x),
            Prim::Abs => self.b.ins().fabs(x),
            Prim::Add => self.b.ins().fadd(x, y),
            Prim::Sub => self.b.ins().fsub(x, y),
            Prim::Mul => self.b.ins().fmul(x, y),
            Prim::Div => self.b.ins().fdiv(x, y),
            Prim::Fma => self.b.ins().fma(x, y, z),
            Prim::Sqrt => self.b.ins().sqrt(x),
            Prim::Floor => self.b.ins().floor(x),
            Prim::Ceil => self.b.ins().ceil(x),
            Prim::Trunc => self.b.ins().trunc(x),
            Prim::RoundEven => self.b.ins().nearest(x),
            // The x64 back end makes one `minpd` or `maxpd` of these two; it looks for `LessThan` only.
            Prim::Min => {
                let first = self.b.ins().fcmp(float_cc(Prim::Lt), x, y);
                self.blend(first, x, y)
            }
            Prim::Max => {
                let first = self.b.ins().fcmp(float_cc(Prim::Lt), y, x);
                self.blend(first, x, y)
            }
            Prim::Eq | Prim::Ne | Prim::Lt | Prim::Le => self.b.ins().fcmp(float_cc(prim), x, y),
            _ => self.unsupported(format!("{} of {dtype}", prim.name()), vector_type(dtype)),
        }
    }

    fn int_part(&mut self, prim: Prim, dtype: DType, x: ir::Value, y: ir::Value) -> ir::Value {
        match prim {
            Prim::Neg => self.b.ins().ineg(x),
            Prim::Abs => self.b.ins().iabs(x),
            Prim::Add => self.b.ins().iadd(x, y),
            Prim::Sub => self.b.ins().isub(x, y),
            Prim::Mul if dtype.size() == 1 => {
                // There is no byte product: multiply as 16 bits and keep the low bytes.
                let (x_low, y_low) = (self.b.ins().uwiden_low(x), self.b.ins().uwiden_low(y));
                let (x_high, y_high) = (self.b.ins().uwiden_high(x), self.b.ins().uwiden_high(y));
                let (low, high) = (self.b.ins().imul(x_low, y_low), self.b.ins().imul(x_high, y_high));
                self.low_bytes(low, high)
            }
            Prim::Mul => self.b.ins().imul(x, y),
            Prim::Min | Prim::Max if dtype.size() == 8 => {
                let first = self.b.ins().icmp(int_cc(prim, dtype), x, y);
                self.blend(first, x, y)
            }
            Prim::Min if dtype.is_signed() => self.b.ins().smin(x, y),
            Prim::Min => self.b.ins().umin(x, y),
            Prim::Max if dtype.is_signed() => self.b.ins().smax(x, y),
            Prim::Max => self.b.ins().umax(x, y),
            Prim::And => self.b.ins().band(x, y),
            Prim::Or => self.b.ins().bor(x, y),
            Prim::Xor => self.b.ins().bxor(x, y),
            Prim::Not => self.b.ins().bnot(x),
            Prim::Eq | Prim::Ne | Prim::Lt | Prim::Le => self.b.ins().icmp(int_cc(prim, dtype), x, y),
            _ => self.unsupported(format!("{} of {dtype}", prim.name()), vector_type(dtype)),
        }
    }

    /// The low bytes of the 16-bit lanes of `x`, then of `y`.
    pub(super) fn low_bytes(&mut self, x: ir::Value, y: ir::Value) -> ir::Value {
        let low = self.vector_constant(types::I16X8, std::array::from_fn(|i| if i % 2 == 0 { 0xff } else { 0 }));
        let (x, y) = (self.b.ins().band(x, low), self.b.ins().band(y, low));
        self.b.ins().unarrow(x, y)
    }

    /// A shift by the same count in all lanes.
    fn vector_shift(&mut self, prim: Prim, dtype: DType, lanes: usize, args: &[&Lanes]) -> Vector {
        let x = &args[0].vector;
        let width = u64::from(dtype.bits());
        let signed = prim == Prim::Shr && dtype.is_signed();
        let ty = scalar_type(dtype);
        let (count, fits) = match (args[1].literal, args[1].scalar) {
            (Some(literal), _) if literal.bits() >= width && !signed => {
                return self.splat_constant(Literal::from_bits(dtype, 0));
            }
            (Some(literal), _) => (self.int(types::I32, literal.bits().min(width - 1) as i64), None),
            (None, Some(count)) => {
                let limit = self.int(ty, width as i64);
                let fits = self.b.ins().icmp(IntCC::UnsignedLessThan, count, limit);
                let most = self.int(ty, width as i64 - 1);
                let count = self.b.ins().select(fits, count, most);
                let fits = if signed {
                    None
                } else {
                    let all = self.splat(DType::Bool, fits).parts[0];
                    Some(self.reinterpret(vector_type(dtype), all))
                };
                (count, fits)
            }
            (None, None) => unreachable!("shifts by several counts are scalarised"),
        };
        self.each_part(lanes, dtype.size(), |g, k| {
            let shifted = match prim {
                Prim::Shl => g.b.ins().ishl(x.part(k), count),
                _ if signed => g.b.ins().sshr(x.part(k), count),
                _ => g.b.ins().ushr(x.part(k), count),
            };
            match fits {
                Some(fits) => g.b.ins().band(shifted, fits),
                None => shifted,
            }
        })
    }
}
