#!/usr/bin/env python3
"""Writes crates/core/src/math/coefficients.rs: the minimax polynomials of the function bodies.

    python3 scripts/coefficients.py

Each table is found by the Remez exchange in 300-bit arithmetic (mpmath) and rounded to binary64, or to binary32 if its
name ends in _F32. A row below is the name, what the polynomial approximates, its interval, the weight that turns its
error into a relative error of the function, and the number of coefficients. Errors are printed in the doc comments,
with the rounding of the coefficients. The file appears complete or not at all.
"""

import os
import struct
import subprocess
import sys

from mpmath import asin, atan, atanh, cos, erf, erfc, exp, fabs, log, lu_solve, matrix, mp, mpf, pi, sin, sinh, sqrt, tanh

mp.prec = 300
ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
TARGET = os.path.join(ROOT, "crates", "core", "src", "math", "coefficients.rs")
TINY = mpf(10) ** -18


def remez(f, weight, a, b, n, exact, to_format, rounds=30):
    """The polynomial of n coefficients, lowest first, that minimises max |weight * (f - p)| on [a, b].

    The first coefficient is rounded unless it is to be exact: the sum of two numbers."""
    a, b = mpf(a), mpf(b)
    nodes = [(a + b) / 2 - (b - a) / 2 * mp.cos(pi * i / n) for i in range(n + 1)]
    grid = [a + (b - a) * (1 - mp.cos(pi * i / (24 * n))) / 2 for i in range(24 * n + 1)]
    samples = [(x, f(x), weight(x)) for x in grid]
    for _ in range(rounds):
        system, right = matrix(n + 1, n + 1), matrix(n + 1, 1)
        for i, x in enumerate(nodes):
            for j in range(n):
                system[i, j] = x**j
            system[i, n] = (-1) ** i / weight(x)
            right[i] = f(x)
        solution = lu_solve(system, right)
        p = [solution[j] for j in range(n)]
        errors = [(x, w * (y - mp.polyval(p[::-1], x))) for x, y, w in samples]
        worst = max(fabs(e) for _, e in errors)
        peaks = alternating(errors, n + 1)
        if len(peaks) < n + 1:
            break
        nodes = [x for x, _ in peaks]
        least = min(fabs(e) for _, e in peaks)
        if worst - least < worst / 1000:
            break
    return rounded(p, samples, exact, to_format)


def alternating(errors, count):
    """The largest errors of alternating signs, of which there are `count` or fewer."""
    peaks = []
    for x, e in errors:
        if peaks and peaks[-1][1] * e > 0:
            if fabs(e) > fabs(peaks[-1][1]):
                peaks[-1] = (x, e)
        else:
            peaks.append((x, e))
    while len(peaks) > count:
        peaks.pop(0 if fabs(peaks[0][1]) < fabs(peaks[-1][1]) else -1)
    return peaks


def rounded(p, samples, exact, to_format):
    """p with coefficients of the format. Each is rounded in turn, and the later ones are fitted anew to make up for it."""
    n = len(p)
    p = list(p)
    for k in range(n):
        if k > 0 or not exact:
            p[k] = mpf(to_format(p[k]))
        free = n - k - 1
        if free == 0:
            break
        normal, right = matrix(free, free), matrix(free, 1)
        for x, y, w in samples:
            row = [w * x**j for j in range(k + 1, n)]
            rest = w * (y - mp.polyval(p[k::-1], x))
            for i in range(free):
                right[i] += row[i] * rest
                for j in range(free):
                    normal[i, j] += row[i] * row[j]
        solution = lu_solve(normal, right)
        for j in range(free):
            p[k + 1 + j] = solution[j]
    return p, max(fabs(w * (y - mp.polyval(p[::-1], x))) for x, y, w in samples)


def denominator(f, weight, a, b, n, m, scale, to_format, rounds=30):
    """The m coefficients of Q, lowest first, for the P/Q with n of P that minimises max |weight * (f - P/Q)| on [a, b].

    Q is `scale` at 0, and rounded to the format: a P that is fitted to f Q afterwards makes up for that."""
    a, b = mpf(a), mpf(b)
    size = n + m
    nodes = [(a + b) / 2 - (b - a) / 2 * mp.cos(pi * i / (size - 1)) for i in range(size)]
    grid = [a + (b - a) * (1 - mp.cos(pi * i / (24 * size))) / 2 for i in range(24 * size + 1)]
    p, q = [], [mpf(1)]
    for _ in range(rounds):
        # Linear once Q is known on the right; the last one is near enough.
        for _ in range(4):
            system, right = matrix(size, size), matrix(size, 1)
            for i, x in enumerate(nodes):
                y = f(x)
                for j in range(n):
                    system[i, j] = x**j
                for j in range(1, m):
                    system[i, n + j - 1] = -y * x**j
                system[i, size - 1] = (-1) ** i * mp.polyval(q[::-1], x) / weight(x)
                right[i] = y
            solution = lu_solve(system, right)
            p, q = [solution[j] for j in range(n)], [mpf(1)] + [solution[n + j] for j in range(m - 1)]
        errors = [(x, weight(x) * (f(x) - mp.polyval(p[::-1], x) / mp.polyval(q[::-1], x))) for x in grid]
        peaks = alternating(errors, size)
        if len(peaks) < size:
            break
        nodes = [x for x, _ in peaks]
    return [mpf(to_format(mpf(scale) * c)) for c in q]


def binary32(x):
    """x rounded to binary32."""
    return struct.unpack("f", struct.pack("f", float(x)))[0]


def double(x):
    """A binary64 literal of x."""
    return repr(float(x))


def single(x):
    """The shortest binary32 literal of x."""
    for digits in range(1, 10):
        text = f"{float(x):.{digits}g}"
        if binary32(text) == binary32(x):
            return text if "." in text or "e" in text else text + ".0"


def table(name, kind, literal, coefficients):
    """The lines of a constant."""
    return [f"pub const {name}: [{kind}; {len(coefficients)}] = ["] + [f"    {literal(c)}," for c in coefficients] + ["];"]


def main():
    out = ["//! Minimax polynomials, lowest coefficient first. Written by `scripts/coefficients.py`; do not edit.",
           "//!",
           "//! Names ending in `_F32` are for arithmetic in `f32`, those in `_SINGLE` for results in `f32` computed in `f64`.",
           ""]
    for name, what, f, weight, a, b, n in TABLES:
        kind, literal, to_format = ("f32", single, binary32) if name.endswith("_F32") else ("f64", double, float)
        p, error = remez(f, weight, a, b, n, name in SPLIT, to_format)
        print(f"{name}: 2^{float(mp.log(error, 2)):.1f}", file=sys.stderr)
        out.append(f"/// {what}; relative error of the function 2^{float(mp.log(error, 2)):.1f}.")
        out += table(name, kind, literal, p)
        if name in DENOMINATORS:
            name_of_q, q = DENOMINATORS[name]
            out.append(f"/// `Q` for `{name}`.")
            out += table(name_of_q, kind, literal, q)
        if name in SPLIT:
            out.append(f"/// The exact first coefficient of `{name}`, less that in the table.")
            out.append(f"pub const {name}_LOW: f64 = {double(p[0] - mpf(float(p[0])))};")
        out.append("")
    part = TARGET + ".part"
    with open(part, "w") as file:
        file.write("\n".join(out).rstrip() + "\n")
    config = os.path.join(ROOT, "rustfmt.toml")
    subprocess.run(["rustfmt", "--edition", "2024", "--config-path", config, part], check=True)
    os.replace(part, TARGET)


def guarded(f, series):
    """f away from zero, its Taylor polynomial near zero, where f cancels."""
    return lambda x: f(x) if fabs(x) > mpf(2) ** -40 else mp.polyval(series[::-1], x)


def atan_series(z):
    t = sqrt(z)
    return (atan(t) / t - 1) / z if z > mpf(2) ** -60 else mpf(-1) / 3 + z / 5


def asin_series(z):
    t = sqrt(z)
    return (asin(t) / t - 1) / z if z > mpf(2) ** -60 else mpf(1) / 6 + 3 * z / 40


def sin_series(z):
    t = sqrt(z)
    return (sin(t) / t - 1) / z if z > mpf(2) ** -60 else mpf(-1) / 6 + z / 120


def cos_series(z):
    return (cos(sqrt(z)) - 1 + z / 2) / z**2 if z > mpf(2) ** -40 else mpf(1) / 24 - z / 720


def log_series(z):
    """R / z where log((1+s)/(1-s)) = 2s + s R, z = s^2."""
    s = sqrt(z)
    return 2 * (atanh(s) / s - 1) / z if z > mpf(2) ** -60 else mpf(2) / 3 + 2 * z / 5


def log_tail(z):
    """(atanh(s)/s - 1 - z/3) / z^2 times 2 / ln 2, z = s^2."""
    s = sqrt(z)
    tail = (atanh(s) / s - 1 - z / 3) / z**2 if z > mpf(2) ** -36 else mpf(1) / 5 + z / 7 + z**2 / 9
    return tail * 2 / log(2)


def atan_centered(u):
    """atan(t) / t, where u is t^2 less 7/16."""
    t = sqrt(u + mpf(7) / 16)
    return atan(t) / t if t > TINY else mpf(1)


def erf_excess(z):
    """erf(t) / t - 1, z = t^2."""
    t = sqrt(z)
    return (erf(t) / t if t > TINY else 2 / sqrt(pi)) - 1


def erf_excess_weight(z):
    t = sqrt(z)
    return t / erf(t) if t > TINY else sqrt(pi) / 2


def tanh_series(z):
    """(tanh(t)/t - 1) / z, z = t^2."""
    t = sqrt(z)
    return (tanh(t) / t - 1) / z if z > mpf(2) ** -40 else mpf(-1) / 3 + 2 * z / 15


def sinh_series(z):
    """(sinh(t)/t - 1) / z, z = t^2."""
    t = sqrt(z)
    return (sinh(t) / t - 1) / z if z > mpf(2) ** -40 else mpf(1) / 6 + z / 120


def sinh_weight(z):
    t = sqrt(z)
    return z * t / sinh(t) if z > 0 else TINY


def tanh_weight(z):
    t = sqrt(z)
    return z * t / tanh(t) if z > 0 else TINY


def tanh_tail_weight(r):
    """For EXP_TWICE_TAIL in (1 - e) / (1 + e) with e = 2^k e^2r: k is 0 or less, so -1 or less where r is positive."""
    s = mpf(1) if r <= 0 else mpf(1) / 2
    e = s * exp(2 * r)
    return 4 * s * r * r / (1 - e * e) if fabs(r) > TINY else TINY


def tanh_denominator(z):
    return mp.polyval(TANH_DENOMINATOR[::-1], z)


def log_cubic(f):
    """(log(1 + f) - f + f^2/2) / f^3"""
    return (log(1 + f) - f + f * f / 2) / f**3 if fabs(f) > mpf(2) ** -60 else mpf(1) / 3 - f / 4


def log_cubic_weight(f):
    return fabs(f**3 / log(1 + f)) + mpf(10) ** -22 if f != 0 else TINY


def log_square(scale):
    """(log(1 + f) - f) / f^2 times scale"""
    return lambda f: scale * (f * log_cubic(f) - mpf(1) / 2)


def log_square_weight(scale):
    return lambda f: fabs(f**2 / log(1 + f) / scale) + mpf(10) ** -22 if f != 0 else TINY


def erf_centered(u):
    """erf(t) / t, where u is t^2 less 3/4."""
    t = sqrt(u + mpf(3) / 4)
    return erf(t) / t if t > TINY else 2 / sqrt(pi)


# Binary64 factors, so chosen that the functions below are flat at x = 0, where t is least exact.
ERFC_SLOPE = mpf(float(2 / sqrt(pi)))
NORMAL_SLOPE = mpf(float(sqrt(2 / pi)))


def scaled_erfc(t):
    """(1 + ERFC_SLOPE x) e^(x^2) erfc(x) with x = 4 (1+t)/(1-t)."""
    x = 4 * (1 + t) / (1 - t)
    return (1 + ERFC_SLOPE * x) * exp(x * x) * erfc(x)


def scaled_erfc_middle(t):
    """e^(x^2) erfc(x) with x = 3 (1+t)/(1-t)."""
    x = 3 * (1 + t) / (1 - t)
    return exp(x * x) * erfc(x)


def scaled_normal_tail(t):
    """(1 + NORMAL_SLOPE x) e^(x^2/2) erfc(x/sqrt 2) / 2 with x = 5 (1+t)/(1-t)."""
    x = 5 * (1 + t) / (1 - t)
    return (1 + NORMAL_SLOPE * x) * exp(x * x / 2) * erfc(x / sqrt(mpf(2))) / 2


def inverse(f):
    """The weight for a relative error."""
    return lambda x: 1 / f(x)


H = log(2) / 2 * mpf("1.0005")
EXP = guarded(lambda r: (exp(r) - 1 - r) / r**2, [mpf(1) / 2, mpf(1) / 6, mpf(1) / 24])
EXP_WEIGHT = lambda r: r * r / exp(r) + mpf(10) ** -22
EXP2 = guarded(lambda r: (mpf(2) ** r - 1) / r, [log(2), log(2) ** 2 / 2, log(2) ** 3 / 6])
EXP2_WEIGHT = lambda r: fabs(r) / mpf(2) ** r + mpf(10) ** -22
EXP_TWICE = guarded(lambda r: (exp(2 * r) - 1) / r, [mpf(2), mpf(2), mpf(4) / 3])
EXP_TWICE_WEIGHT = lambda r: fabs(r) / exp(2 * r) + mpf(10) ** -22
EXP_TWICE_TAIL = guarded(lambda r: (exp(2 * r) - 1 - 2 * r) / (2 * r * r), [mpf(1), mpf(2) / 3, mpf(1) / 3])
QUARTER = (pi / 4 * mpf("1.0005")) ** 2
S2 = ((sqrt(mpf(2)) - 1) / (sqrt(mpf(2)) + 1)) ** 2 * mpf("1.0005")

ROOT_HALF = sqrt(mpf(1) / 2)
LOG2_E, LOG10_E = 1 / log(mpf(2)), 1 / log(mpf(10))
# Where the polynomials of erf in f32 meet.
ERF_MIDDLE = mpf("0.85")

# Where the formulas of tanh in f32 meet. The denominator is nearly 2 there, so that it is rounded least where that counts.
TANH_MIDDLE = mpf("0.95")
TANH_DENOMINATOR = denominator(tanh_series, tanh_weight, 0, TANH_MIDDLE**2, 2, 3, "1.4", binary32)

TABLES = [
    ("EXP", "`(e^r - 1 - r) / r^2` for `|r| <= ln 2 / 2`", EXP, EXP_WEIGHT, -H, H, 10),
    ("EXP_SINGLE", "`(e^r - 1 - r) / r^2` for `|r| <= ln 2 / 2`", EXP, EXP_WEIGHT, -H, H, 6),
    ("EXP_MINUS_ONE", "as `EXP`; the error is relative to `e^r - 1`", EXP, EXP_WEIGHT, -H, H, 11),
    ("LOG", "`(2 atanh(s)/s - 2) / z` with `z = s^2`, for `s = (m-1)/(m+1)` and `m` within a factor sqrt 2 of 1",
     log_series, lambda z: z / 2 + mpf(10) ** -22, 0, S2, 7),
    ("LOG_SINGLE", "as `LOG`", log_series, lambda z: z / 2 + mpf(10) ** -22, 0, S2, 4),
    ("LOG_TAIL", "`(atanh(s)/s - 1 - z/3) / z^2` times `2 / ln 2` with `z = s^2`, as `LOG`", log_tail,
     lambda z: z * z * log(2) / 2 + mpf(10) ** -25, 0, S2, 7),
    ("SIN", "`(sin(t)/t - 1) / z` with `z = t^2`, for `|t| <= pi/4`", sin_series, lambda z: z + TINY, 0, QUARTER, 6),
    ("SIN_SINGLE", "as `SIN`", sin_series, lambda z: z + TINY, 0, QUARTER, 4),
    ("COS", "`(cos(t) - 1 + z/2) / z^2` with `z = t^2`, for `|t| <= pi/4`", cos_series,
     lambda z: z * z / cos(sqrt(z)) + TINY, 0, QUARTER, 6),
    ("COS_SINGLE", "as `COS`", cos_series, lambda z: z * z / cos(sqrt(z)) + TINY, 0, QUARTER, 4),
    ("ASIN", "`(asin(t)/t - 1) / z` with `z = t^2`, for `|t| <= 1/2`", asin_series, lambda z: z + TINY, 0, mpf(1) / 4,
     13),
    ("ATAN", "`atan(t)/t` in `t^2 - 7/16`, for `|t| <= 1`", atan_centered, inverse(atan_centered), mpf(-7) / 16,
     mpf(9) / 16, 22),
    ("ATAN_SINGLE", "as `ATAN`", atan_series, lambda z: z * sqrt(z) / atan(sqrt(z)) if z > 0 else TINY, 0, 1, 13),
    ("ERF", "`erf(t)/t` in `t^2 - 3/4`, for `|t| <= 5/4`", erf_centered, inverse(erf_centered), mpf(-3) / 4,
     mpf(13) / 16, 15),
    ("ERF_TAIL", "`e^(x^2) erfc(x)` with `x = 3 (1+t)/(1-t)`, for `5/4 <= x <= 6`", scaled_erfc_middle,
     inverse(scaled_erfc_middle), mpf("-1.75") / mpf("4.25"), mpf(3) / 9, 16),
    ("ERFC", "`(1 + 2x/sqrt(pi)) e^(x^2) erfc(x)` with `x = 4 (1+t)/(1-t)`, for `0 <= x <= 28`", scaled_erfc,
     inverse(scaled_erfc), -1, mpf(24) / 32, 24),
    ("ERFC_SINGLE", "as `ERFC`, for `x <= 11`", scaled_erfc, inverse(scaled_erfc), -1, mpf(7) / 15, 13),
    ("NORMAL_TAIL", "`(1 + sqrt(2/pi) x) e^(x^2/2) erfc(x/sqrt 2) / 2` with `x = 5 (1+t)/(1-t)`, for `0 <= x <= 39`",
     scaled_normal_tail, inverse(scaled_normal_tail), -1, mpf(34) / 44, 24),
    ("NORMAL_TAIL_SINGLE", "as `NORMAL_TAIL`, for `x <= 15`", scaled_normal_tail, inverse(scaled_normal_tail), -1,
     mpf(10) / 20, 13),
    ("INVERSE_CUBE_ROOT", "`m^(-1/3)` for `1/2 <= m <= 4`", lambda m: m ** (mpf(-1) / 3),
     lambda m: m ** (mpf(1) / 3), mpf("0.4999"), mpf("4.0001"), 6),
    ("EXP2", "`(2^r - 1) / r` for `|r| <= 1/2`", EXP2, EXP2_WEIGHT, mpf("-0.5001"), mpf("0.5001"), 12),
    ("EXP2_SINGLE", "as `EXP2`", EXP2, EXP2_WEIGHT, mpf("-0.5001"), mpf("0.5001"), 7),
    ("EXP2_F32", "as `EXP2`", EXP2, EXP2_WEIGHT, mpf("-0.5001"), mpf("0.5001"), 6),
    ("TANH", "`(e^2r - 1 - 2r) / (2 r^2)` for `|r| <= ln 2 / 4`, as `tanh` needs it", EXP_TWICE_TAIL, tanh_tail_weight,
     -H / 2, H / 2, 10),
    ("TANH_F32", "`P` of `(tanh(t)/t - 1) / z = P/Q` with `z = t^2`, for `|t| <= 0.95`",
     lambda z: tanh_series(z) * tanh_denominator(z), lambda z: tanh_weight(z) / tanh_denominator(z), 0, TANH_MIDDLE**2,
     2),
    ("TANH_EXP_F32", "`7/8 (e^2r - 1) / r` for `|r| <= ln 2 / 4`", lambda r: mpf(7) / 8 * EXP_TWICE(r),
     lambda r: EXP_TWICE_WEIGHT(r) * 8 / 7, -H / 2, H / 2, 6),
    ("EXP_F32", "as `EXP`", EXP, EXP_WEIGHT, -H, H, 5),
    ("EXP_MINUS_ONE_F32", "as `EXP_MINUS_ONE`", EXP,
     lambda r: fabs(r * r / (exp(r) - 1)) if fabs(r) > TINY else TINY, -H, H, 6),
    ("LOG_F32", "`(log(1 + f) - f + f^2/2) / f^3` for `1 + f` within a factor sqrt 2 of 1", log_cubic, log_cubic_weight,
     ROOT_HALF - 1, 2 * ROOT_HALF - 1, 8),
    ("LOG_LONG_F32", "as `LOG_F32`", log_cubic, log_cubic_weight, ROOT_HALF - 1, 2 * ROOT_HALF - 1, 9),
    ("LOG_UPPER_F32", "as `LOG_F32`, for `-1/4 <= f <= 1/2`", log_cubic, log_cubic_weight, mpf(-1) / 4, mpf(1) / 2, 9),
    ("LOG2_F32", "`(log(1 + f) - f) / f^2` times `log2(e)`, as `LOG_F32`", log_square(LOG2_E), log_square_weight(LOG2_E),
     ROOT_HALF - 1, 2 * ROOT_HALF - 1, 10),
    ("LOG10_F32", "`(log(1 + f) - f) / f^2` times `log10(e)`, as `LOG_F32`", log_square(LOG10_E),
     log_square_weight(LOG10_E), ROOT_HALF - 1, 2 * ROOT_HALF - 1, 9),
    ("SINH", "`(sinh(t)/t - 1) / z` with `z = t^2`, for `|t| <= 1`", sinh_series, sinh_weight, 0, 1, 8),
    ("SINH_F32", "as `SINH`", sinh_series, sinh_weight, 0, 1, 4),
    ("ASIN_F32", "as `ASIN`", asin_series, lambda z: z + TINY, 0, mpf(1) / 4, 5),
    ("ATAN_F32", "as `ATAN_SINGLE`", atan_series, lambda z: z * sqrt(z) / atan(sqrt(z)) if z > 0 else TINY, 0, 1, 10),
    ("SIN_F32", "as `SIN`", sin_series, lambda z: z + TINY, 0, QUARTER, 3),
    ("COS_F32", "as `COS`", cos_series, lambda z: z * z / cos(sqrt(z)) + TINY, 0, QUARTER, 3),
    ("ERF_F32", "`erf(t)/t - 1` in `t^2`, for `|t| <= 0.85`", erf_excess, erf_excess_weight, 0, ERF_MIDDLE**2, 6),
    ("ERFC_LOG2_F32", "`-log2(erfc(t))/t - 5/2`, for `0.85 <= t <= 4`",
     lambda t: -log(erfc(t)) / log(2) / t - mpf(5) / 2, lambda t: t * log(2) * erfc(t) / erf(t),
     ERF_MIDDLE * mpf("0.999"), 4, 7),
]

# Tables whose first coefficient is split into two numbers.
SPLIT = {"ATAN", "ERF", "ERFC", "NORMAL_TAIL"}
# Tables that are numerators.
DENOMINATORS = {"TANH_F32": ("TANH_DENOMINATOR_F32", TANH_DENOMINATOR)}

if __name__ == "__main__":
    main()
