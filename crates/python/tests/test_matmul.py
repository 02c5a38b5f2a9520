"""Matrix products, held against NumPy: exactly where there is one answer, else within the error of a sum."""

import numpy as np
import pytest

import numfuse

SHAPES = [
    ((3,), (3,)),
    ((2, 3), (3,)),
    ((3,), (3, 4)),
    ((2, 3), (3, 4)),
    ((5, 2, 3), (3, 4)),
    ((5, 1, 2, 3), (7, 3, 4)),
    ((5, 2, 3), (3,)),
    ((3,), (5, 3, 4)),
    ((200, 300), (300, 150)),
    ((1, 1000), (1000, 1)),
    ((2, 0), (0, 3)),
    ((0, 3), (3, 2)),
    ((70, 65, 20), (20, 33)),
]


def sample(rng, dtype, shape):
    dtype = np.dtype(dtype)
    if dtype.kind == "f":
        return rng.standard_normal(shape).astype(dtype)
    if dtype.kind == "b":
        return rng.random(shape) < 0.3
    info = np.iinfo(dtype)
    return rng.integers(info.min, info.max, shape, dtype=dtype, endpoint=True)


def near(got, a, b):
    want = a @ b
    assert (got.dtype, got.shape) == (np.asarray(want).dtype, np.shape(want))
    if got.dtype.kind != "f":
        np.testing.assert_array_equal(got, want)
        return
    terms = a.shape[-1]
    bound = 2 * terms * np.finfo(got.dtype).eps * (np.abs(a) @ np.abs(b))
    assert (np.abs(got - want) <= bound).all()


@pytest.mark.parametrize("left, right", SHAPES)
@pytest.mark.parametrize("dtype", ["f8", "f4", "i8", "i1", "u2", "bool"])
def test_products_are_numpys(left, right, dtype):
    rng = np.random.default_rng(1)
    a, b = sample(rng, dtype, left), sample(rng, dtype, right)
    near(numfuse.evaluate("a @ b"), a, b)


@pytest.mark.parametrize("left, right", [("i4", "f4"), ("f4", "f8"), ("bool", "i2"), ("u1", "i1"), ("i8", "f8")])
def test_operands_promote(left, right):
    rng = np.random.default_rng(2)
    a, b = sample(rng, left, (4, 5)), sample(rng, right, (5, 3))
    if a.dtype.kind == "i" and b.dtype.kind == "f":
        a = (a % 1000).astype(left)
    near(numfuse.evaluate("matmul(a, b)"), a, b)


def test_strides_of_any_kind():
    rng = np.random.default_rng(3)
    x = rng.standard_normal((40, 60))
    for a in (x, x.T, x[::-1, ::2].T, np.asfortranarray(x), x[:, None, :3], np.broadcast_to(x[0], (5, 60))):
        b = rng.standard_normal((a.shape[-1], 7))[:, ::-2]
        near(numfuse.evaluate("a @ b"), a, b)
    # Elements at odd addresses, as in a record.
    record = np.zeros((6, 5), dtype=[("tag", "i1"), ("value", "f8")])
    record["value"] = rng.standard_normal((6, 5))
    a, b = record["value"], record["value"].T
    near(numfuse.evaluate("a @ b"), a, b)
    out = np.zeros((6, 6), dtype=[("tag", "i1"), ("value", "f8")])
    numfuse.evaluate("a @ b", out=out["value"])
    near(out["value"], a, b)
    assert (out["tag"] == 0).all()


def test_outputs_may_be_operands():
    rng = np.random.default_rng(4)
    a, b = rng.standard_normal((30, 30)), rng.standard_normal((30, 30))
    for out in (a, a.T, a[::-1]):
        x = a.copy()
        numfuse.evaluate("a @ b", out=out)
        near(out, x, b)


def test_what_is_around_a_product():
    rng = np.random.default_rng(5)
    x, w, b = rng.standard_normal((50, 20)), rng.standard_normal((20, 10)), rng.standard_normal(10)
    f = numfuse.compile("tanh((x - 1) @ w + b)")
    np.testing.assert_allclose(f(x=x, w=w, b=b), np.tanh((x - 1) @ w + b), rtol=1e-12)
    np.testing.assert_allclose(numfuse.evaluate("sum((x @ w)**2, axis=0)"), ((x @ w) ** 2).sum(axis=0), rtol=1e-12)
    np.testing.assert_allclose(numfuse.evaluate("(x.T @ x)[0] @ w"), (x.T @ x)[0] @ w, rtol=1e-12)
    np.testing.assert_allclose(numfuse.evaluate("x.dot(w).dot(b)"), x.dot(w).dot(b), rtol=1e-12)


def test_threads_change_nothing():
    rng = np.random.default_rng(6)
    a, b = rng.standard_normal((600, 500)), rng.standard_normal((500, 700))
    want = numfuse.evaluate("a @ b", threads=1)
    for threads in (2, 3, 8):
        np.testing.assert_array_equal(numfuse.evaluate("a @ b", threads=threads), want)


def test_sizes_are_checked_at_each_call():
    a, b = np.ones((2, 3)), np.ones((3, 4))
    f = numfuse.compile("a @ b")
    f(a=a, b=b)
    assert f(a=np.ones((5, 6)), b=np.ones((6, 7))).shape == (5, 7)
    for c in (np.ones((4, 3)), np.ones((1, 3))):
        with pytest.raises(ValueError, match="no matrix product"):
            f(a=a, b=c)
    with pytest.raises(ValueError, match="no matrix product"):
        numfuse.evaluate("b @ a")
