"""The cases as Numba's users write them: explicit loops, one function a case, named as in `cases.py`.

`peers.py` compiles each of them twice, serial and with `parallel=True` (where `prange` runs on all threads): two competitors. There is no
`fastmath`, since that changes results. Constants take the dtype of the arrays (`out.dtype.type(2)`): a bare `2.0` would make the arithmetic of float32
arrays float64. Sums are kept in float64, as `s = 0.0` makes them.
"""

import math

from numba import prange


def axpb2(a, b, out):
    t = out.dtype.type
    two, three = t(2), t(3)
    for i in prange(out.shape[0]):
        out[i] = two * a[i] + three * (b[i] * b[i])


def bilinear(x, y, out):
    t = out.dtype.type
    one, two, three = t(1), t(2), t(3)
    for i in prange(out.shape[0]):
        out[i] = two * x[i] * y[i] + three * y[i] + one


def polynomial(x, out):
    t = out.dtype.type
    for i in prange(out.shape[0]):
        v = x[i]
        y = t(2.7557e-7) * v + t(2.7557e-6)
        y = y * v + t(2.4802e-5)
        y = y * v + t(1.9841e-4)
        y = y * v + t(1.3889e-3)
        y = y * v + t(8.3333e-3)
        y = y * v + t(4.1667e-2)
        y = y * v + t(0.16667)
        y = y * v + t(0.5)
        y = y * v + t(1.0)
        out[i] = y * v + t(1.0)


def mix(a, b, out):
    t = out.dtype.type
    for i in prange(out.shape[0]):
        x, y = a[i], b[i]
        u = abs(math.sqrt(x + t(0.125)) * y - x) * t(1.0625)
        u = abs(math.sqrt(u + t(0.25)) * y - x) * t(1.125)
        u = abs(math.sqrt(u + t(0.375)) * y - x) * t(1.1875)
        u = abs(math.sqrt(u + t(0.5)) * y - x) * t(1.25)
        u = abs(math.sqrt(u + t(0.625)) * y - x) * t(1.3125)
        u = abs(math.sqrt(u + t(0.75)) * y - x) * t(1.375)
        u = abs(math.sqrt(u + t(0.875)) * y - x) * t(1.4375)
        u = abs(math.sqrt(u + t(1.0)) * y - x) * t(1.5)
        u = abs(math.sqrt(u + t(1.125)) * y - x) * t(1.5625)
        out[i] = abs(math.sqrt(u + t(1.25)) * y - x) * t(1.625)


def where(a, b, out):
    for i in prange(out.shape[0]):
        out[i] = a[i] if a[i] > b[i] else b[i]


def relu(x, out):
    zero = out.dtype.type(0)
    for i in prange(out.shape[0]):
        out[i] = x[i] if x[i] > zero else zero


def suppress(x, out):
    for i in prange(out.shape[0]):
        out[i] = 0 if abs(x[i]) < 50 else x[i]


def average(x, out):
    three = out.dtype.type(3)
    for i in prange(out.shape[0]):
        out[i] = (x[i] + x[i + 1] + x[i + 2]) / three


def hypot(a, b, out):
    for i in prange(out.shape[0]):
        out[i] = math.hypot(a[i], b[i])


def root(a, b, out):
    for i in prange(out.shape[0]):
        out[i] = math.sqrt(a[i] * a[i] + b[i] * b[i])


def polar(r, s, t, u, out):
    two = out.dtype.type(2)
    for i in prange(out.shape[0]):
        out[i] = math.sqrt(r[i] * r[i] + s[i] * s[i] - two * r[i] * s[i] * math.cos(t[i] - u[i]))


def exp(x, out):
    for i in prange(out.shape[0]):
        out[i] = math.exp(x[i])


def log(x, out):
    for i in prange(out.shape[0]):
        out[i] = math.log(x[i])


def sin(x, out):
    for i in prange(out.shape[0]):
        out[i] = math.sin(x[i])


def tanh(x, out):
    for i in prange(out.shape[0]):
        out[i] = math.tanh(x[i])


def sin2(a, out):
    for i in prange(out.shape[0]):
        s = math.sin(a[i])
        out[i] = s * s


def damped(a, b, out):
    one = out.dtype.type(1)
    for i in prange(out.shape[0]):
        out[i] = math.exp(-a[i] * a[i]) * math.sin(b[i]) + one


def gaussian(x, out):
    t = out.dtype.type
    half, mu, sigma, scale = t(-0.5), t(0.25), t(1.75), t(1.75 * 2.5066282746310002)
    for i in prange(out.shape[0]):
        z = (x[i] - mu) / sigma
        out[i] = math.exp(half * (z * z)) / scale


def softplus(x, out):
    t = out.dtype.type
    low, high = t(-20), t(20)
    for i in prange(out.shape[0]):
        v = x[i]
        if v > high:
            out[i] = v
        elif v < low:
            out[i] = math.exp(v)
        else:
            out[i] = math.log1p(math.exp(v))


def hidden(r, g, b, out):
    t = out.dtype.type
    wr, wg, wb = t(0.299), t(0.587), t(0.114)
    for i in prange(out.shape[0]):
        v = wr * r[i] + wg * g[i] + wb * b[i]
        p, q = math.exp(v), math.exp(-v)
        out[i] = (p - q) / (p + q)


def sum(x):
    s = 0.0
    for i in prange(x.shape[0]):
        s += x[i]
    return s


def squares(a):
    s = 0.0
    for i in prange(a.shape[0]):
        s += a[i] * a[i]
    return s


def dot(a, b):
    s = 0.0
    for i in prange(a.shape[0]):
        s += a[i] * b[i]
    return s


def hottest(c):
    t = c.dtype.type
    nine, five, freezing = t(9), t(5), t(32)
    m = t(-math.inf)
    for i in prange(c.shape[0]):
        m = max(m, c[i] * nine / five + freezing)
    return m


def normalise(x, out):
    t = out.dtype.type
    for i in prange(x.shape[0]):
        s = 0.0
        for j in range(x.shape[1]):
            s += x[i, j] * x[i, j]
        length = t(math.sqrt(s))
        for j in range(x.shape[1]):
            out[i, j] = x[i, j] / length


def z_score(x, out):
    t = out.dtype.type
    for i in prange(x.shape[0]):
        s = 0.0
        for j in range(x.shape[1]):
            s += x[i, j]
        mean = s / x.shape[1]
        v = 0.0
        for j in range(x.shape[1]):
            v += (x[i, j] - mean) ** 2
        m, deviation = t(mean), t(math.sqrt(v / x.shape[1]))
        for j in range(x.shape[1]):
            out[i, j] = (x[i, j] - m) / deviation


def softmax(x, out):
    t = out.dtype.type
    for i in prange(x.shape[0]):
        m = x[i, 0]
        for j in range(1, x.shape[1]):
            m = max(m, x[i, j])
        s = 0.0
        for j in range(x.shape[1]):
            v = math.exp(x[i, j] - m)
            out[i, j] = v
            s += v
        total = t(s)
        for j in range(x.shape[1]):
            out[i, j] /= total


def channels(gain, source, glitch, offset, out):
    for i in prange(out.shape[0]):
        g, o = gain[i, 0], offset[i, 0]
        for j in range(out.shape[1]):
            out[i, j] = g * (source[j] + glitch[j]) + o


def pairwise(x, y, out):
    for i in prange(out.shape[0]):
        for j in range(out.shape[1]):
            s = x[i, 0] - x[i, 0]
            for k in range(x.shape[1]):
                d = x[i, k] - y[j, k]
                s += d * d
            out[i, j] = math.sqrt(s)


pairwise3 = pairwise50 = pairwise
