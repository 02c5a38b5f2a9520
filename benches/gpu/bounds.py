"""How far a result may be from NumPy's where bits are not promised: the bound of docs/semantics.md for products of matrices of floats, and
what becomes of it in work around them. Needs NumPy.

A `Bounded` array goes wherever an array of NumPy does, through operators and NumPy's functions:

    result = numpy.maximum(Bounded(a) @ Bounded(b) + c, 0)
    within(found, result.value, result.error)
"""

import numpy as np

# What a library's function may be off by, in units of the dtype's epsilon. NumPy's own is off by as much at most.
FUNCTION = 4
# What a result may differ from float64's by, relative to its norm: that no library computes in fewer bits than the dtype has.
TOLERANCE = {"f32": 1e-5, "f64": 1e-12}


def equal(found, want):
    """The same bits, but for NaNs."""
    if found.dtype != want.dtype or found.shape != want.shape:
        return False
    if found.dtype.kind != "f":
        return bool((found == want).all())
    same = (found == want) & (np.signbit(found) == np.signbit(want))
    return bool((same | np.isnan(found) & np.isnan(want)).all())


def within(found, want, error):
    """No further from it than that; NaNs and infinities are where they should be, and zeros have any sign."""
    if found.dtype != want.dtype or found.shape != want.shape:
        return False
    same = (found == want) | (found != found) & (want != want)
    finite = np.isfinite(want) & np.isfinite(found)
    near = np.abs(np.where(finite, found, 0).astype(np.float64) - np.where(finite, want, 0)) <= np.where(finite, error, 0)
    return bool((same | finite & near).all())


class Bounded(np.lib.mixins.NDArrayOperatorsMixin):
    """An array, and how far another computation may be from it: products of matrices of floats add up in any order, and functions
    are as exact as libraries have them. Other operations have the same bits for the same operands."""

    def __init__(self, value, error=None):
        self.value = np.asarray(value)
        self.error = np.zeros(self.value.shape) if error is None else error

    T = property(lambda self: Bounded(self.value.T, self.error.T))

    def __getitem__(self, index):
        return Bounded(self.value[index], self.error[index])

    def astype(self, dtype):
        value = self.value.astype(dtype)
        return Bounded(value, rounded(value, self.error))

    def __array_ufunc__(self, ufunc, method, *operands, **options):
        rule = RULES.get(ufunc)
        if rule is None or method != "__call__" or options:
            return NotImplemented
        # Plain numbers stay what they are: they are weak.
        value = ufunc(*(x.value if isinstance(x, Bounded) else x for x in operands))
        return Bounded(value, np.broadcast_to(rule(value, *map(lift, operands)), value.shape))


def lift(x):
    return x if isinstance(x, Bounded) else Bounded(x)


def size(x):
    return np.abs(x.value.astype(np.float64))


def epsilon(value):
    return float(np.finfo(value.dtype).eps) if value.dtype.kind == "f" else 0.0


def rounded(value, error):
    """Two operands that are so far apart, each rounded; equal ones stay equal."""
    with np.errstate(invalid="ignore"):
        return np.where(error > 0, error + epsilon(value) * (np.abs(value.astype(np.float64)) + error), error)


def matmul(value, x, y):
    error = x.error @ size(y) + size(x) @ y.error + x.error @ y.error
    if value.dtype.kind == "f" and min(x.value.ndim, y.value.ndim) > 1:
        error = error + x.value.shape[-1] * epsilon(value) * (size(x) @ size(y))
    return error


def compare(value, x, y):
    """Both answers are right where the operands may be in either order."""
    apart = x.error + y.error
    return np.where((apart > 0) & (np.abs(x.value.astype(np.float64) - y.value) <= apart), 1.0, 0.0)


RULES = {
    np.matmul: matmul,
    np.add: lambda value, x, y: rounded(value, x.error + y.error),
    np.subtract: lambda value, x, y: rounded(value, x.error + y.error),
    np.multiply: lambda value, x, y: rounded(value, size(x) * y.error + x.error * size(y) + x.error * y.error),
    np.negative: lambda value, x: x.error,
    np.maximum: lambda value, x, y: np.maximum(x.error, y.error),
    np.minimum: lambda value, x, y: np.maximum(x.error, y.error),
    np.exp: lambda value, x: np.abs(value.astype(np.float64)) * (np.expm1(x.error) + FUNCTION * epsilon(value)),
    **dict.fromkeys((np.less, np.less_equal, np.greater, np.greater_equal), compare),
}


def disagreement(case, inputs, results):
    """What is wrong with a library's results for a case of cases.py; an empty text if nothing is."""
    def each(result):
        return result if isinstance(result, (tuple, list)) else (result,)
    exact = each(case.formula(np, *(x.astype(np.float64) for x in inputs)))
    # Functions that have no rule have no bound.
    bounds = each(case.formula(np, *map(Bounded, inputs))) if case.multiplied else [None] * len(exact)
    worst = 0.0
    for want, bounded, got in zip(exact, bounds, each(results), strict=True):
        got = np.asarray(got)
        # Numba's sums are arrays of one element.
        got = got.reshape(np.shape(want)) if got.size == np.size(want) else got
        if np.shape(want) != got.shape:
            return f"has shape {got.shape}, not {np.shape(want)}"
        # A sum of numbers around zero is held against what it sums.
        norm = max(np.linalg.norm(want), np.sqrt(np.size(inputs[0])) if np.ndim(want) == 0 else 0.0)
        apart = float(np.linalg.norm(np.asarray(want) - got.astype(np.float64)) / norm)
        # A NaN is not near to anything.
        worst = apart if np.isnan(apart) else max(worst, apart)
        if bounded is not None and not within(got, bounded.value, bounded.error):
            return "is not within the bound of the product"
    allowed = TOLERANCE[next(iter(case.inputs.values()))[0]]
    return "" if worst <= allowed else f"differs from float64 by {worst:.1e}"
