//! Conversions of vectors, as [`Literal::cast`] defines them: integers wrap, floats saturate, everything rounds to
//! nearest even, and bools are `!= 0`.
//!
//! The conversions of 64-bit integers that no host has as vectors are not here: `vector.rs` does them lane by lane.

use super::Gen;
use super::vector::{Parts, Vector, int_vector, part_count, vector_type};
use cranelift_codegen::ir::condcodes::{FloatCC, IntCC};
use cranelift_codegen::ir::{self, InstBuilder, types};
use numfuse_core::dtype::{DType, Kind};
use numfuse_core::literal::Literal;

impl Gen<'_> {
    /// `x` converted from one dtype to another.
    pub(super) fn vector_cast(&mut self, from: DType, to: DType, lanes: usize, x: &Vector) -> Vector {
        match (from.kind(), to.kind()) {
            (Kind::Bool, Kind::Bool) => x.clone(),
            (Kind::Float, Kind::Bool) => {
                let zero = self.zeros(vector_type(from));
                self.map_parts(x, |g, part| g.b.ins().fcmp(FloatCC::NotEqual, part, zero))
            }
            (_, Kind::Bool) => {
                let zero = self.zeros(vector_type(from));
                self.map_parts(x, |g, part| g.b.ins().icmp(IntCC::NotEqual, part, zero))
            }
            (Kind::Bool, _) => {
                // The bits of one where the mask is set: both zero and one are exact in every dtype.
                let mask = self.mask(x, lanes, to.size());
                let ones = self.splat_constant(Literal::from_i64(to, 1)).parts[0];
                let ones = self.reinterpret(int_vector(to.size()), ones);
                let bits = self.map_parts(&mask, |g, part| g.b.ins().band(part, ones));
                self.map_parts(&bits, |g, part| g.reinterpret(vector_type(to), part))
            }
            (Kind::Float, Kind::Float) if to == DType::F64 => self.promote(x, lanes),
            (Kind::Float, Kind::Float) => self.demote(x),
            (Kind::Float, _) => self.float_to_int(from, to, lanes, x),
            (_, Kind::Float) => self.int_to_float(from, to, lanes, x),
            _ => self.int_to_int(from, to, lanes, x),
        }
    }

    fn map_parts(&mut self, x: &Vector, mut f: impl FnMut(&mut Self, ir::Value) -> ir::Value) -> Vector {
        let parts = x.parts.iter().map(|part| f(self, *part)).collect();
        Vector { parts, ..x.clone() }
    }

    /// Integers of another width: extended, or cut to the low bits.
    fn int_to_int(&mut self, from: DType, to: DType, lanes: usize, x: &Vector) -> Vector {
        let mut x = x.clone();
        while x.width < to.size() {
            x = self.widen(&x, lanes, from.is_signed());
        }
        while x.width > to.size() {
            let narrow = x.width / 2;
            let parts = pairs(&x, lanes).map(|(a, b)| self.cut_pair(narrow, a, b)).collect();
            x = Vector { parts, width: narrow, same: false };
        }
        x
    }

    /// The low halves of the lanes of two parts.
    fn cut_pair(&mut self, narrow: usize, x: ir::Value, y: ir::Value) -> ir::Value {
        match narrow {
            4 => self.even_words(x, y),
            2 => {
                let pick = std::array::from_fn(|i| (i / 2 * 4 + i % 2) as u8);
                self.shuffle(types::I16X8, x, y, pick)
            }
            _ => self.low_bytes(x, y),
        }
    }

    fn promote(&mut self, x: &Vector, lanes: usize) -> Vector {
        let mut parts = Parts::new();
        for k in 0..part_count(lanes, 8) {
            let half = self.half(types::F32X4, x.part(k / 2), k % 2);
            parts.push(self.b.ins().fvpromote_low(half));
        }
        Vector { parts, width: 8, same: false }
    }

    fn demote(&mut self, x: &Vector) -> Vector {
        let halves: Parts = x.parts.iter().map(|part| self.b.ins().fvdemote(*part)).collect();
        let parts = halves.chunks(2).map(|pair| self.join_low(types::F32X4, pair)).collect();
        Vector { parts, width: 4, same: x.same }
    }

    /// The low halves of one or two parts, next to each other; of one part, twice.
    fn join_low(&mut self, ty: ir::Type, pair: &[ir::Value]) -> ir::Value {
        let (x, y) = (pair[0], pair[pair.len() - 1]);
        self.shuffle(ty, x, y, std::array::from_fn(|i| if i < 8 { i as u8 } else { i as u8 + 8 }))
    }

    /// The low (0) or high (1) half of a part as the low half of a part.
    fn half(&mut self, ty: ir::Type, x: ir::Value, half: usize) -> ir::Value {
        if half == 0 { x } else { self.shift_down(ty, x, 8) }
    }

    fn int_to_float(&mut self, from: DType, to: DType, lanes: usize, x: &Vector) -> Vector {
        let ty = vector_type(to);
        if from.size() == 8 {
            // To f64 only: f32 would be rounded twice.
            return self.map_parts(x, |g, part| {
                if from.is_signed() { g.b.ins().fcvt_from_sint(ty, part) } else { g.b.ins().fcvt_from_uint(ty, part) }
            });
        }
        // Narrow integers first become 32-bit ones, which hold them all as signed.
        let signed = from.is_signed() || from.size() < 4;
        let words = self.int_to_int(from, if from.is_signed() { DType::I32 } else { DType::U32 }, lanes, x);
        if to == DType::F32 {
            return self.map_parts(&words, |g, part| {
                if signed { g.b.ins().fcvt_from_sint(ty, part) } else { g.b.ins().fcvt_from_uint(ty, part) }
            });
        }
        let mut parts = Parts::new();
        for k in 0..part_count(lanes, 8) {
            // The x64 back end makes one instruction of a conversion of widened low halves.
            let half = self.half(types::I32X4, words.part(k / 2), k % 2);
            parts.push(if signed {
                let wide = self.b.ins().swiden_low(half);
                self.b.ins().fcvt_from_sint(ty, wide)
            } else {
                let wide = self.b.ins().uwiden_low(half);
                self.b.ins().fcvt_from_uint(ty, wide)
            });
        }
        Vector { parts, width: 8, same: false }
    }

    fn float_to_int(&mut self, from: DType, to: DType, lanes: usize, x: &Vector) -> Vector {
        let unsigned_words = to == DType::U32;
        let words = if from == DType::F32 {
            self.map_parts(x, |g, part| {
                if unsigned_words {
                    g.b.ins().fcvt_to_uint_sat(types::I32X4, part)
                } else {
                    g.b.ins().fcvt_to_sint_sat(types::I32X4, part)
                }
            })
        } else {
            // The x64 back end knows the conversion of two lanes only in this form, with zeros as the other half.
            let halves: Parts = x
                .parts
                .iter()
                .map(|part| {
                    let zero = self.zeros(types::I64X2);
                    if unsigned_words {
                        let wide = self.b.ins().fcvt_to_uint_sat(types::I64X2, *part);
                        self.b.ins().uunarrow(wide, zero)
                    } else {
                        let wide = self.b.ins().fcvt_to_sint_sat(types::I64X2, *part);
                        self.b.ins().snarrow(wide, zero)
                    }
                })
                .collect();
            let parts = halves.chunks(2).map(|pair| self.join_low(types::I32X4, pair)).collect();
            Vector { parts, width: 4, same: x.same }
        };
        if to.size() == 4 {
            return words;
        }
        // 32 bits hold every value of the narrow dtypes, so saturating once more is exact.
        let unsigned_halves = to == DType::U16;
        let parts = pairs(&words, lanes)
            .map(|(a, b)| if unsigned_halves { self.b.ins().unarrow(a, b) } else { self.b.ins().snarrow(a, b) })
            .collect();
        let halves = Vector { parts, width: 2, same: false };
        if to.size() == 2 {
            return halves;
        }
        let parts = pairs(&halves, lanes)
            .map(|(a, b)| if to == DType::U8 { self.b.ins().unarrow(a, b) } else { self.b.ins().snarrow(a, b) })
            .collect();
        Vector { parts, width: 1, same: false }
    }
}

/// The parts of a vector two by two, for narrowing; an odd last one is paired with itself.
fn pairs(x: &Vector, lanes: usize) -> impl Iterator<Item = (ir::Value, ir::Value)> {
    let count = part_count(lanes, x.width);
    (0..count).step_by(2).map(move |k| (x.part(k), x.part((k + 1).min(count - 1))))
}
