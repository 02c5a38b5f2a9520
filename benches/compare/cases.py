"""The expressions that are compared: one entry each, textbook formulas of array computing.

A case says its text for numfuse, its NumPy reference (which JAX and Dask run, too, with their module as `xp`), its text for
numexpr, the name of its loop in `loops.py` for Numba, how its inputs are made, and the operations per element as written
(a function counts as one). Bytes moved are those of its inputs and its result, once.

To add a case: add an entry to CASES and a loop to `loops.py`. Nothing here imports anything but the standard library, so that the
list can be tested without the peers.
"""

from dataclasses import dataclass
from math import isqrt
from typing import Callable, Optional, Union

SIZES = (10, 1_000, 10_000, 100_000, 1_000_000, 10_000_000)
FLOATS = ("float64", "float32")


@dataclass(frozen=True)
class Case:
    """One expression. `inputs(rng, n, dtype)` makes named arrays; `reference(xp, **inputs)` is the formula."""

    name: str
    text: str
    inputs: Callable
    reference: Callable
    operations: int
    title: str = ""
    # For numexpr, where it needs another text, or a function of (evaluate, np, **inputs) since one text cannot say it.
    numexpr: Union[str, Callable, None] = None
    # Where NumPy's users write something else than the formula.
    numpy: Optional[Callable] = None
    sizes: tuple = SIZES
    dtypes: tuple = FLOATS
    # The result is one number: there is no output to reuse, and rounding errors add up.
    scalar: bool = False
    # Whether Dask and Blosc2 are asked; Blosc2 has neither `where` nor `maximum` of plain arrays.
    dask: bool = True
    blosc2: bool = True
    quick: bool = False

    def label(self):
        """What a table shows."""
        return self.title or f"`{self.text}`"


def uniform(*names, low=0.0, high=1.0):
    """Inputs of n numbers each, spread evenly."""

    def make(rng, n, dtype):
        return {name: (low + (high - low) * rng.random(n, dtype)).astype(dtype) for name in names}

    return make


def normal(*names, scale=1.0):
    """Inputs of n numbers each, normally distributed."""

    def make(rng, n, dtype):
        return {name: (scale * rng.standard_normal(n, dtype)).astype(dtype) for name in names}

    return make


def rows_and_columns(n):
    """The shape of a matrix of n elements: rows of up to 1,000."""
    columns = 10 if n <= 10 else 100 if n <= 10_000 else 1_000
    return n // columns, columns


def matrix(rng, n, dtype):
    """One matrix of n elements."""
    return {"x": rng.standard_normal(rows_and_columns(n), dtype)}


def samples(rng, n, dtype):
    """Counts of a detector: 16 bits, mostly noise."""
    return {"x": (rng.standard_normal(n, "float32") * 60).astype("int16")}


def polar_points(rng, n, dtype):
    """Radii and angles of points in two sectors: no two of them are close, where float32 would cancel."""
    radii = uniform("r", "s", low=0.5, high=3.0)(rng, n, dtype)
    return radii | uniform("t")(rng, n, dtype) | uniform("u", low=2.0, high=3.0)(rng, n, dtype)


CHANNELS = {8_000: (8, 1_000), 80_000_000: (800, 100_000)}


def channels(rng, n, dtype):
    """A gain and an offset for each channel, a source and a glitch for each moment."""
    count, moments = CHANNELS[n]
    return {
        "gain": 1 + rng.random((count, 1), dtype),
        "source": rng.standard_normal(moments, dtype),
        "glitch": rng.standard_normal(moments, dtype),
        "offset": rng.random((count, 1), dtype),
    }


def points(dimensions):
    """Two sets of isqrt(n) points: n distances."""

    def make(rng, n, dtype):
        shape = (isqrt(n), dimensions)
        return {"x": rng.random(shape, dtype), "y": rng.random(shape, dtype)}

    return make


def distances(xp, x, y):
    return xp.sqrt(xp.sum((x[:, None] - y[None]) ** 2, axis=-1))


def distances_in_blocks(np, x, y):
    """As NumPy's users write it once the array of differences no longer fits: some rows at a time."""
    out = np.empty((len(x), len(y)), x.dtype)
    rows = max(1, 4_000_000 // y.size)
    for i in range(0, len(x), rows):
        out[i : i + rows] = np.sqrt(np.sum((x[i : i + rows, None] - y[None]) ** 2, axis=-1))
    return out


def distances_numexpr(evaluate, np, x, y):
    squares = evaluate("sum((x - y)**2, axis=2)", {"x": x[:, None], "y": y[None]})
    return np.sqrt(squares, out=squares)


def normalise(xp, x):
    return x / xp.sqrt(xp.sum(x**2, axis=1, keepdims=True))


def normalise_numexpr(evaluate, np, x):
    s = evaluate("sum(x**2, axis=1)", {"x": x})[:, None]
    return evaluate("x / sqrt(s)", {"x": x, "s": s})


def z_score(xp, x):
    return (x - xp.mean(x, axis=1, keepdims=True)) / xp.std(x, axis=1, keepdims=True)


def z_score_numexpr(evaluate, np, x):
    values = {"x": x, "m": x.mean(axis=1, keepdims=True), "s": x.std(axis=1, keepdims=True)}
    return evaluate("(x - m) / s", values)


def softmax(xp, x):
    e = xp.exp(x - xp.max(x, axis=1, keepdims=True))
    return e / xp.sum(e, axis=1, keepdims=True)


def softmax_numexpr(evaluate, np, x):
    e = evaluate("exp(x - m)", {"x": x, "m": x.max(axis=1, keepdims=True)})
    return evaluate("e / s", {"e": e, "s": e.sum(axis=1, keepdims=True)}, out=e)


def softplus(xp, x):
    return xp.where(x > 20, x, xp.where(x < -20, xp.exp(x), xp.log1p(xp.exp(x))))


def gaussian(xp, x):
    return xp.exp(-0.5 * ((x - 0.25) / 1.75) ** 2) / (1.75 * 2.5066282746310002)


def hidden_layer(xp, r, g, b):
    v = 0.299 * r + 0.587 * g + 0.114 * b
    return (xp.exp(v) - xp.exp(-v)) / (xp.exp(v) + xp.exp(-v))


GREY = "(0.299*r + 0.587*g + 0.114*b)"

# The Taylor coefficients of exp, from the tenth to the zeroth.
TAYLOR = (2.7557e-7, 2.7557e-6, 2.4802e-5, 1.9841e-4, 1.3889e-3, 8.3333e-3, 4.1667e-2, 0.16667, 0.5, 1.0, 1.0)


def polynomial_text():
    """Horner's scheme: ten products, ten sums."""
    text = str(TAYLOR[0])
    for c in TAYLOR[1:]:
        text = f"({text}*x + {c})"
    return text[1:-1]


def polynomial(xp, x):
    y = TAYLOR[0]
    for c in TAYLOR[1:]:
        y = y * x + c
    return y


MIX = tuple((0.125 * i, 1 + 0.0625 * i) for i in range(1, 11))


def mix_text():
    """Ten times six operations."""
    text = "a"
    for c, k in MIX:
        text = f"abs(sqrt({text} + {c})*b - a)*{k}"
    return text


def mix(xp, a, b):
    u = a
    for c, k in MIX:
        u = xp.abs(xp.sqrt(u + c) * b - a) * k
    return u


CASES = (
    Case("axpb2", "2*a + 3*b**2", uniform("a", "b"), lambda xp, a, b: 2 * a + 3 * b**2, 4, quick=True),
    Case("bilinear", "2*x*y + 3*y + 1", uniform("x", "y"), lambda xp, x, y: 2 * x * y + 3 * y + 1, 5),
    Case("polynomial", polynomial_text(), uniform("x"), polynomial, 20, title="polynomial, 20 operations", quick=True),
    Case("mix", mix_text(), uniform("a", "b"), mix, 60, title="`abs(sqrt(u + c)*b - a)*k`, 10 times: 60 operations"),
    Case("where", "where(a > b, a, b)", uniform("a", "b"), lambda xp, a, b: xp.where(a > b, a, b), 2, blosc2=False),
    Case(
        "relu", "maximum(x, 0)", normal("x"), lambda xp, x: xp.maximum(x, 0), 1, numexpr="where(x > 0, x, 0)", blosc2=False
    ),
    Case(
        "suppress",
        "where(abs(x) < 50, 0, x)",
        samples,
        lambda xp, x: xp.where(xp.abs(x) < 50, 0, x),
        3,
        title="zero suppression, `where(abs(x) < 50, 0, x)`",
        dtypes=("int16",),
    ),
    Case(
        "average",
        "(x[:-2] + x[1:-1] + x[2:])/3",
        uniform("x"),
        lambda xp, x: (x[:-2] + x[1:-1] + x[2:]) / 3,
        3,
        title="moving average, `(x[:-2] + x[1:-1] + x[2:])/3`",
        numexpr=lambda evaluate, np, x: evaluate("(p + q + r)/3", {"p": x[:-2], "q": x[1:-1], "r": x[2:]}),
        blosc2=False,
    ),
    Case("hypot", "hypot(a, b)", normal("a", "b"), lambda xp, a, b: xp.hypot(a, b), 1),
    Case("root", "sqrt(a**2 + b**2)", normal("a", "b"), lambda xp, a, b: xp.sqrt(a**2 + b**2), 4),
    Case(
        "polar",
        "sqrt(r**2 + s**2 - 2*r*s*cos(t - u))",
        polar_points,
        lambda xp, r, s, t, u: xp.sqrt(r**2 + s**2 - 2 * r * s * xp.cos(t - u)),
        10,
        title="polar distance, `sqrt(r**2 + s**2 - 2*r*s*cos(t - u))`",
    ),
    Case("exp", "exp(x)", normal("x"), lambda xp, x: xp.exp(x), 1, quick=True),
    Case("log", "log(x)", uniform("x", low=0.01, high=10), lambda xp, x: xp.log(x), 1),
    Case("sin", "sin(x)", normal("x", scale=3), lambda xp, x: xp.sin(x), 1, quick=True),
    Case("tanh", "tanh(x)", normal("x"), lambda xp, x: xp.tanh(x), 1),
    Case("sin2", "sin(a)*sin(a)", normal("a"), lambda xp, a: xp.sin(a) * xp.sin(a), 3),
    Case(
        "damped",
        "exp(-a*a)*sin(b) + 1",
        normal("a", "b"),
        lambda xp, a, b: xp.exp(-a * a) * xp.sin(b) + 1,
        6,
        quick=True,
    ),
    Case(
        "gaussian",
        "exp(-0.5*((x - 0.25)/1.75)**2)/(1.75*2.5066282746310002)",
        normal("x"),
        gaussian,
        7,
        title="gaussian, `exp(-0.5*((x - mu)/sigma)**2)/(sigma*sqrt(2*pi))`",
        quick=True,
    ),
    Case(
        "softplus",
        "where(x > 20, x, where(x < -20, exp(x), log1p(exp(x))))",
        normal("x", scale=10),
        softplus,
        6,
        title="softplus with thresholds",
        blosc2=False,
    ),
    Case(
        "hidden",
        "v = 0.299*r + 0.587*g + 0.114*b; (exp(v) - exp(-v))/(exp(v) + exp(-v))",
        uniform("r", "g", "b", low=0.1),
        hidden_layer,
        14,
        title="weighted greys, `(exp(v) - exp(-v))/(exp(v) + exp(-v))`",
        numexpr=f"(exp({GREY}) - exp(-{GREY}))/(exp({GREY}) + exp(-{GREY}))",
    ),
    Case("sum", "sum(x)", uniform("x"), lambda xp, x: xp.sum(x), 1, scalar=True, quick=True),
    Case("squares", "sum(a**2)", uniform("a"), lambda xp, a: xp.sum(a**2), 2, scalar=True),
    Case("dot", "sum(a*b)", uniform("a", "b"), lambda xp, a, b: xp.sum(a * b), 2, scalar=True, quick=True),
    Case(
        "hottest", "max(c*9/5 + 32)", normal("c", scale=15), lambda xp, c: xp.max(c * 9 / 5 + 32), 4, scalar=True
    ),
    Case(
        "normalise",
        "x/sqrt(sum(x**2, axis=1, keepdims=True))",
        matrix,
        normalise,
        3,
        title="rows of length 1, `x/sqrt(sum(x**2, axis=1, keepdims=True))`",
        numexpr=normalise_numexpr,
        blosc2=False,
    ),
    Case(
        "z_score",
        "(x - mean(x, axis=1, keepdims=True))/std(x, axis=1, keepdims=True)",
        matrix,
        z_score,
        6,
        title="z-score of rows",
        numexpr=z_score_numexpr,
        blosc2=False,
    ),
    Case(
        "softmax",
        "e = exp(x - max(x, axis=1, keepdims=True)); e/sum(e, axis=1, keepdims=True)",
        matrix,
        softmax,
        5,
        title="softmax of rows",
        numexpr=softmax_numexpr,
        blosc2=False,
        quick=True,
    ),
    Case(
        "channels",
        "gain*(source + glitch) + offset",
        channels,
        lambda xp, gain, source, glitch, offset: gain * (source + glitch) + offset,
        3,
        title="`gain*(source + glitch) + offset`, gain and offset in a column, source and glitch in a row",
        sizes=tuple(CHANNELS),
        blosc2=False,
    ),
) + tuple(
    Case(
        f"pairwise{dimensions}",
        "sqrt(sum((x[:, None] - y[None])**2, axis=-1))",
        points(dimensions),
        distances,
        3 * dimensions + 1,
        title=f"distances of all pairs of points in {dimensions} dimensions",
        numexpr=distances_numexpr,
        numpy=distances_in_blocks,
        sizes=(10_000, 1_000_000, 25_000_000),
        dask=False,
        blosc2=False,
    )
    for dimensions in (3, 50)
)


def case(name):
    """The case of that name."""
    for each in CASES:
        if each.name == name:
            return each
    raise SystemExit(f"there is no case `{name}`; there are {', '.join(c.name for c in CASES)}")
