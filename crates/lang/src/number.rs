//! Numbers: Python's spelling, and what each of them is worth.
//!
//! Integers are weak `i64`; those that only `u64` holds are strong `u64`; larger ones are weak `f64`, rounded once.

use crate::limits::shown;
use logos::{Lexer, Logos};
use numfuse_core::diagnostic::{Code, Diagnostic, Span};
use numfuse_core::literal::Literal;

/// A number and whether its dtype is weak, or what is wrong with it.
pub(crate) type Number = Result<(Literal, bool), Fault>;

/// What is wrong with a number.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Fault {
    /// A digit that the base does not have, or none.
    Digits(u32),
    /// An underscore that is not between two digits.
    Underscore,
    /// `012`
    LeadingZero,
    /// `1e+`
    Exponent,
    /// `1.2.3`
    SecondPoint,
    /// `1j`
    Imaginary,
    /// `1.0f`, `10L`
    Suffix,
    /// `2x`; the number is this long.
    Product(u32),
}

impl Fault {
    /// The message for a number written like this.
    pub fn explain(self, text: &str, span: Span) -> Diagnostic {
        let number = shown(text);
        let bad = |title: String| Diagnostic::new(Code::BadNumber, title).at(span, "this number");
        match self {
            Fault::Digits(base) => bad(format!("`{number}` is no number in base {base}")).hint(match base {
                2 => "binary digits are 0 and 1: `0b1011`",
                8 => "octal digits are 0 to 7: `0o755`",
                _ => "hexadecimal digits are 0 to 9 and a to f: `0xff`",
            }),
            Fault::Underscore => bad(format!("a misplaced underscore in `{number}`"))
                .hint("an underscore may stand between two digits: `1_000_000`"),
            Fault::LeadingZero => bad(format!("`{number}` starts with a zero"))
                .why("in some languages that means octal, in others not")
                .hint(format!(
                    "write `{}`, or `0o{}` for octal",
                    text.trim_start_matches(['0', '_']),
                    text.trim_start_matches(['0', '_'])
                )),
            Fault::Exponent => bad(format!("the exponent of `{number}` has no digits")).hint("write `1e-6`"),
            Fault::SecondPoint => bad(format!("`{number}` has two decimal points")),
            Fault::Imaginary => bad(format!("complex numbers are not supported yet: `{number}`"))
                .hint("keep real and imaginary parts apart"),
            Fault::Suffix => bad(format!("`{number}` has a suffix"))
                .why("numbers take the dtype of the array that they meet")
                .hint("to fix the dtype, call it: `f32(1.5)`, `u8(7)`"),
            Fault::Product(length) => {
                let (number, name) = text.split_at(length as usize);
                bad(format!("a number directly before a name: `{}`", shown(text)))
                    .why("a product is always written out")
                    .hint(format!("write `{} * {}`", shown(number), shown(name)))
            }
        }
    }
}

/// Reads the rest of a number of which the lexer has seen the first digit, and the letters that stick to it.
pub(crate) fn scan<'a, T: Logos<'a, Source = str>>(lexer: &mut Lexer<'a, T>) -> Number {
    let seen = lexer.slice().len();
    let text = &lexer.source()[lexer.span().start..];
    let (length, number) = read(text);
    let (length, number) = match fault_after(text, length) {
        Some((length, fault)) => (length, Err(number.err().unwrap_or(fault))),
        None => (length, number),
    };
    lexer.bump(length - seen);
    number
}

/// The number at the start of a text, and its length.
fn read(text: &str) -> (usize, Number) {
    let bytes = text.as_bytes();
    let bits = match bytes.get(1) {
        Some(b'x' | b'X') if bytes[0] == b'0' => 4,
        Some(b'o' | b'O') if bytes[0] == b'0' => 3,
        Some(b'b' | b'B') if bytes[0] == b'0' => 1,
        _ => return decimal(text),
    };
    let base = 1 << bits;
    let length = 2 + bytes[2..].iter().take_while(|b| b.is_ascii_alphanumeric() || **b == b'_').count();
    let digits = &text[2..length];
    let number = if digits.ends_with('_') || digits.contains("__") {
        Err(Fault::Underscore)
    } else if digits.is_empty() || !digits.chars().all(|c| c == '_' || c.is_digit(base)) {
        Err(Fault::Digits(base))
    } else {
        Ok(power_of_two_base(digits, bits))
    };
    (length, number)
}

/// The value of digits of 1, 3 or 4 bits.
fn power_of_two_base(digits: &str, bits: u32) -> (Literal, bool) {
    // The leading 64 bits, how many follow, and whether any of those is set: enough to round to `f64` once.
    let (mut top, mut dropped, mut sticky) = (0u64, 0i32, false);
    for digit in digits.chars().filter_map(|c| c.to_digit(1 << bits)) {
        for bit in (0..bits).rev().map(|i| digit >> i & 1 != 0) {
            if top >> 63 == 0 {
                top = top << 1 | u64::from(bit);
            } else {
                dropped = dropped.saturating_add(1);
                sticky |= bit;
            }
        }
    }
    if dropped == 0 {
        integer(top)
    } else {
        (Literal::f64((top | u64::from(sticky)) as f64 * 2f64.powi(dropped)), true)
    }
}

fn integer(value: u64) -> (Literal, bool) {
    match i64::try_from(value) {
        Ok(value) => (Literal::i64(value), true),
        Err(_) => (Literal::u64(value), false),
    }
}

fn decimal(text: &str) -> (usize, Number) {
    let bytes = text.as_bytes();
    let digits = |from: usize| from + bytes[from..].iter().take_while(|b| b.is_ascii_digit() || **b == b'_').count();
    let whole = digits(0);
    let mut end = whole;
    let mut is_float = false;
    // `1...` is a number before an ellipsis, as in `x[1...]`.
    if bytes.get(end) == Some(&b'.') && !bytes[end..].starts_with(b"..") {
        is_float = true;
        // `1._5` is a number before a name.
        end += 1;
        if bytes.get(end).is_some_and(u8::is_ascii_digit) {
            end = digits(end);
        }
    }
    let mut fault = None;
    if let Some(b'e' | b'E') = bytes.get(end) {
        let sign = usize::from(matches!(bytes.get(end + 1), Some(b'+' | b'-')));
        if bytes.get(end + 1 + sign).is_some_and(u8::is_ascii_digit) {
            is_float = true;
            end = digits(end + 1 + sign);
        } else if sign == 1 {
            end += 2;
            fault = Some(Fault::Exponent);
        } else if !bytes.get(end + 1).is_some_and(|b| b.is_ascii_alphanumeric() || *b == b'_' || *b >= 0x80) {
            end += 1;
            fault = Some(Fault::Exponent);
        }
    }
    let number = &text[..end];
    let misplaced = |i: usize| {
        !number[..i].ends_with(|c: char| c.is_ascii_digit())
            || !number[i + 1..].starts_with(|c: char| c.is_ascii_digit())
    };
    let value = if let Some(fault) = fault {
        Err(fault)
    } else if number.match_indices('_').any(|(i, _)| misplaced(i)) {
        Err(Fault::Underscore)
    } else if !is_float && number.starts_with('0') && number.bytes().any(|b| !matches!(b, b'0' | b'_')) {
        Err(Fault::LeadingZero)
    } else {
        Ok(decimal_value(number, is_float))
    };
    (end, value)
}

fn decimal_value(number: &str, is_float: bool) -> (Literal, bool) {
    let plain;
    let number = if number.contains('_') {
        plain = number.replace('_', "");
        &plain
    } else {
        number
    };
    match number.parse::<u64>() {
        Ok(value) if !is_float => integer(value),
        // The grammar above admits only what `f64` reads; too large is infinite, too small is 0.
        _ => (Literal::f64(number.parse().unwrap_or(f64::NAN)), true),
    }
}

/// What is wrong with what follows a number of this length without a space, and where that ends.
fn fault_after(text: &str, length: usize) -> Option<(usize, Fault)> {
    let rest = &text[length..];
    let letters = rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_').map(char::len_utf8).sum::<usize>();
    if letters == 0 {
        let bytes = rest.as_bytes();
        let digits = bytes.iter().skip(1).take_while(|b| b.is_ascii_digit() || **b == b'.').count();
        let second = bytes.first() == Some(&b'.') && bytes.get(1).is_some_and(u8::is_ascii_digit);
        return second.then_some((length + 1 + digits, Fault::SecondPoint));
    }
    let fault = match &rest[..letters] {
        "j" | "J" => Fault::Imaginary,
        "f" | "F" | "L" | "l" | "u" | "U" | "UL" | "ul" | "f32" | "f64" | "i8" | "i16" | "i32" | "i64" | "u8"
        | "u16" | "u32" | "u64" => Fault::Suffix,
        _ => Fault::Product(length as u32),
    };
    Some((length + letters, fault))
}
