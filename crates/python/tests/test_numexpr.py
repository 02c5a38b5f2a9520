"""Where numexpr is right, `evaluate` is a drop-in: the same values for the same call."""

import numexpr
import numpy as np
import pytest

import numfuse

RNG = np.random.default_rng(0)
NAMES = {
    "a": RNG.random((50, 60)),
    "b": RNG.random((50, 60)) + 0.5,
    "c": RNG.random(60),
    "i": RNG.integers(1, 100, (50, 60)),
    "k": RNG.integers(-100, 100, (50, 60)),
    "f": RNG.random((50, 60)).astype(np.float32),
    "m": RNG.random((50, 60)) < 0.5,
    "x": 2.5,
}
EXPRESSIONS = """
2*a + 3*b**2
a*b - c
(a + b) / (a - b - 3)
where(a > 0.5, a, b)
where(m, 1.5, 2.5)
(a < b) & (b < 1) | ~m
a % b
k % i
k // i
k << 2
k >> 1
-k
abs(a - 0.5)
a**3
a**0.5
sqrt(a) + sin(b)*cos(a) - tan(a)
arcsin(a) + arccos(a) + arctan(a) + arctan2(a, b)
sinh(a) + cosh(a) + tanh(a)
arcsinh(a) + arccosh(b + 1) + arctanh(a)
log(a) + log10(b) + log1p(a) + exp(a) + expm1(b)
floor(10*a) + ceil(10*b)
f*f + f
sin(f)
a == b
x*a
1.5
sum(a)
sum(a, axis=1)
prod(b, axis=0)
min(a)
max(a, axis=0)
""".strip().splitlines()


@pytest.mark.parametrize("text", EXPRESSIONS)
def test_agrees(text):
    ours = numfuse.evaluate(text, NAMES)
    theirs = numexpr.evaluate(text, NAMES)
    assert type(ours) is type(theirs)
    assert (ours.shape, ours.dtype) == (theirs.shape, theirs.dtype)
    tolerance = 1e-5 if ours.dtype == np.float32 else 1e-12
    if ours.dtype.kind == "f":
        np.testing.assert_allclose(ours, theirs, rtol=tolerance)
    else:
        np.testing.assert_array_equal(ours, theirs)


def test_the_same_frames():
    a, b = np.arange(3.0), np.arange(3.0)

    def inner():
        b = 10.0
        return [evaluate("a + b", {"a": 1.0}, {"b": b}).item() for evaluate in (numfuse.evaluate, numexpr.evaluate)]

    assert inner() == [11.0, 11.0]
    np.testing.assert_array_equal(numfuse.evaluate("a + b"), numexpr.evaluate("a + b"))
    for evaluate in (numfuse.evaluate, numexpr.evaluate):
        with pytest.raises(KeyError):
            evaluate("a + nothing")
        with pytest.raises(SyntaxError):
            evaluate("a +")
        with pytest.raises(ValueError):
            evaluate("a.b")
        with pytest.raises(TypeError):
            evaluate("foo(a)")


def test_where_numexpr_is_wrong_numpy_decides():
    x = np.arange(1000.0)
    memory = x.copy()
    numfuse.evaluate("2*a", {"a": memory[:-1]}, out=memory[1:])
    np.testing.assert_array_equal(memory[1:], 2 * x[:-1])
    i = np.full(3, 2**31 - 1, np.int32)
    assert numfuse.evaluate("sum(i)") == 3 * (2**31 - 1)
    u = np.array([2**64 - 1], np.uint64)
    assert numfuse.evaluate("u") == u
    assert np.isnan(numfuse.evaluate("max(y)", {"y": np.array([1.0, np.nan])}))
    assert numfuse.evaluate(" + ".join(["1"] * 3000)) == 3000
    many = {f"x{n}": n for n in range(300)}
    assert numfuse.evaluate(" + ".join(many), many) == sum(many.values())
