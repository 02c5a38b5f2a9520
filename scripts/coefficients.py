#!/usr/bin/env python3
"""Writes crates/core/src/math/coefficients.rs: the minimax polynomials of the function bodies.

    python3 scripts/coefficients.py > crates/core/src/math/coefficients.rs

Each table is found by the Remez exchange in 200-bit arithmetic (mpmath) and rounded to binary64. A row below is the
name, what the polynomial approximates, its interval, the weight that turns its error into a relative error of the
function, and the number of coefficients. Errors are printed in the doc comments, with the rounding of the coefficients.
"""

import sys

from mpmath import asin, atan, atanh, cos, erf, erfc, exp, fabs, log, lu_solve, matrix, mp, mpf, pi, sin, sqrt

mp.prec = 300
TINY = mpf(10) ** -18


def remez(f, weight, a, b, n, exact, rounds=30):
    """The polynomial of n coefficients, lowest first, that minimises max |weight * (f - p)| on [a, b].

    The first coefficient is rounded unless it is to be exact: the sum of two binary64 numbers."""
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
        peaks = []
        for x, e in errors:
            if peaks and peaks[-1][1] * e > 0:
                if fabs(e) > fabs(peaks[-1][1]):
                    peaks[-1] = (x, e)
            else:
                peaks.append((x, e))
        if len(peaks) < n + 1:
            break
        while len(peaks) > n + 1:
            peaks.pop(0 if fabs(peaks[0][1]) < fabs(peaks[-1][1]) else -1)
        nodes = [x for x, _ in peaks]
        least = min(fabs(e) for _, e in peaks)
        if worst - least < worst / 1000:
            break
    return rounded(p, samples, exact)


def rounded(p, samples, exact):
    """p with binary64 coefficients. Each is rounded in turn, and the later ones are fitted anew to make up for it."""
    n = len(p)
    p = list(p)
    for k in range(n):
        if k > 0 or not exact:
            p[k] = mpf(float(p[k]))
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


def double(x):
    """A binary64 literal of x."""
    return repr(float(x))


def main():
    out = ["//! Minimax polynomials, lowest coefficient first. Written by `scripts/coefficients.py`; do not edit.",
           "//!", "//! Names ending in `_SINGLE` are for results in `f32`, computed in `f64`.", ""]
    for name, what, f, weight, a, b, n in TABLES:
        p, error = remez(f, weight, a, b, n, name in SPLIT)
        print(f"{name}: 2^{float(mp.log(error, 2)):.1f}", file=sys.stderr)
        out.append(f"/// {what}; relative error of the function 2^{float(mp.log(error, 2)):.1f}.")
        out.append(f"pub const {name}: [f64; {n}] = [")
        out += [f"    {double(c)}," for c in p]
        out.append("];")
        if name in SPLIT:
            out.append(f"/// The exact first coefficient of `{name}`, less that in the table.")
            out.append(f"pub const {name}_LOW: f64 = {double(p[0] - mpf(float(p[0])))};")
        out.append("")
    print("\n".join(out).rstrip())


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
    """(atanh(s)/s - 1 - z/3) / z^2, z = s^2."""
    s = sqrt(z)
    return (atanh(s) / s - 1 - z / 3) / z**2 if z > mpf(2) ** -36 else mpf(1) / 5 + z / 7 + z**2 / 9


def atan_centered(u):
    """atan(t) / t, where u is t^2 less 7/16."""
    t = sqrt(u + mpf(7) / 16)
    return atan(t) / t if t > TINY else mpf(1)


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
QUARTER = (pi / 4 * mpf("1.0005")) ** 2
S2 = ((sqrt(mpf(2)) - 1) / (sqrt(mpf(2)) + 1)) ** 2 * mpf("1.0005")

TABLES = [
    ("EXP", "`(e^r - 1 - r) / r^2` for `|r| <= ln 2 / 2`", EXP, EXP_WEIGHT, -H, H, 10),
    ("EXP_SINGLE", "`(e^r - 1 - r) / r^2` for `|r| <= ln 2 / 2`", EXP, EXP_WEIGHT, -H, H, 6),
    ("EXP_MINUS_ONE", "as `EXP`; the error is relative to `e^r - 1`", EXP, EXP_WEIGHT, -H, H, 11),
    ("LOG", "`(2 atanh(s)/s - 2) / z` with `z = s^2`, for `s = (m-1)/(m+1)` and `m` within a factor sqrt 2 of 1",
     log_series, lambda z: z / 2 + mpf(10) ** -22, 0, S2, 7),
    ("LOG_SINGLE", "as `LOG`", log_series, lambda z: z / 2 + mpf(10) ** -22, 0, S2, 4),
    ("LOG_TAIL", "`(atanh(s)/s - 1 - z/3) / z^2` with `z = s^2`, as `LOG`", log_tail,
     lambda z: z * z + mpf(10) ** -25, 0, S2, 9),
    ("SIN", "`(sin(t)/t - 1) / z` with `z = t^2`, for `|t| <= pi/4`", sin_series, lambda z: z + TINY, 0, QUARTER, 6),
    ("SIN_SINGLE", "as `SIN`", sin_series, lambda z: z + TINY, 0, QUARTER, 4),
    ("COS", "`(cos(t) - 1 + z/2) / z^2` with `z = t^2`, for `|t| <= pi/4`", cos_series,
     lambda z: z * z / cos(sqrt(z)) + TINY, 0, QUARTER, 6),
    ("COS_SINGLE", "as `COS`", cos_series, lambda z: z * z / cos(sqrt(z)) + TINY, 0, QUARTER, 4),
    ("ASIN", "`(asin(t)/t - 1) / z` with `z = t^2`, for `|t| <= 1/2`", asin_series, lambda z: z + TINY, 0, mpf(1) / 4,
     13),
    ("ASIN_SINGLE", "as `ASIN`", asin_series, lambda z: z + TINY, 0, mpf(1) / 4, 8),
    ("ATAN", "`atan(t)/t` in `t^2 - 7/16`, for `|t| <= 1`", atan_centered, inverse(atan_centered), mpf(-7) / 16,
     mpf(9) / 16, 22),
    ("ATAN_SINGLE", "as `ATAN`", atan_series, lambda z: z * sqrt(z) / atan(sqrt(z)) if z > 0 else TINY, 0, 1, 13),
    ("ERF", "`erf(t)/t` in `t^2 - 3/4`, for `|t| <= 5/4`", erf_centered, inverse(erf_centered), mpf(-3) / 4,
     mpf(13) / 16, 15),
    ("ERF_SINGLE", "as `ERF`", erf_centered, inverse(erf_centered), mpf(-3) / 4, mpf(13) / 16, 9),
    ("ERF_TAIL", "`e^(x^2) erfc(x)` with `x = 3 (1+t)/(1-t)`, for `5/4 <= x <= 6`", scaled_erfc_middle,
     inverse(scaled_erfc_middle), mpf("-1.75") / mpf("4.25"), mpf(3) / 9, 16),
    ("ERF_TAIL_SINGLE", "as `ERF_TAIL`", scaled_erfc_middle, inverse(scaled_erfc_middle), mpf("-1.75") / mpf("4.25"),
     mpf(3) / 9, 8),
    ("ERFC", "`(1 + 2x/sqrt(pi)) e^(x^2) erfc(x)` with `x = 4 (1+t)/(1-t)`, for `0 <= x <= 28`", scaled_erfc,
     inverse(scaled_erfc), -1, mpf(24) / 32, 24),
    ("ERFC_SINGLE", "as `ERFC`, for `x <= 11`", scaled_erfc, inverse(scaled_erfc), -1, mpf(7) / 15, 13),
    ("NORMAL_TAIL", "`(1 + sqrt(2/pi) x) e^(x^2/2) erfc(x/sqrt 2) / 2` with `x = 5 (1+t)/(1-t)`, for `0 <= x <= 39`",
     scaled_normal_tail, inverse(scaled_normal_tail), -1, mpf(34) / 44, 24),
    ("NORMAL_TAIL_SINGLE", "as `NORMAL_TAIL`, for `x <= 15`", scaled_normal_tail, inverse(scaled_normal_tail), -1,
     mpf(10) / 20, 13),
    ("INVERSE_CUBE_ROOT", "`m^(-1/3)` for `1/2 <= m <= 4`", lambda m: m ** (mpf(-1) / 3),
     lambda m: m ** (mpf(1) / 3), mpf("0.4999"), mpf("4.0001"), 6),
]

# Tables whose first coefficient is split into two numbers.
SPLIT = {"ATAN", "ERF", "ERFC", "NORMAL_TAIL"}

if __name__ == "__main__":
    main()
