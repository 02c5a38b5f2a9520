"""What `evaluate` returns, held against NumPy: the same bits where NumPy's are specified, the same dtypes and shapes."""

import collections

import numpy as np
import pytest

import numfuse

DTYPES = ["bool", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f4", "f8"]


def sample(dtype, n=1000, seed=0):
    rng = np.random.default_rng(seed)
    dtype = np.dtype(dtype)
    if dtype.kind == "b":
        return rng.random(n) < 0.5
    if dtype.kind == "f":
        values = rng.standard_normal(n).astype(dtype)
        values[:5] = [0.0, -0.0, np.inf, -np.inf, np.nan]
        return values
    info = np.iinfo(dtype)
    return rng.integers(info.min, info.max, n, dtype=dtype, endpoint=True)


def same(got, want):
    want = np.asarray(want)
    assert isinstance(got, np.ndarray)
    assert (got.dtype, got.shape) == (want.dtype, want.shape)
    np.testing.assert_array_equal(got, want)
    if want.dtype.kind == "f":
        is_number = ~np.isnan(want)
        np.testing.assert_array_equal(np.signbit(got[is_number]), np.signbit(want[is_number]))


@pytest.mark.parametrize("left", DTYPES)
@pytest.mark.parametrize("right", DTYPES)
def test_arithmetic_is_numpys(left, right):
    a, b = sample(left), sample(right, seed=1)
    with np.errstate(all="ignore"):
        for text in ["a + b", "a * b", "a - b", "a / b", "a < b", "a == b"]:
            if text == "a - b" and (left, right) == ("bool", "bool"):
                continue  # An error in both.
            if text == "a / b" and np.true_divide(a[:1], b[:1]).dtype.itemsize < 8 and "f4" not in (left, right):
                continue  # NumPy divides small integers in half or single precision, numfuse in double.
            same(numfuse.evaluate(text), eval(text))


@pytest.mark.parametrize("dtype", DTYPES)
def test_python_numbers_give_way(dtype):
    a = sample(dtype)
    with np.errstate(all="ignore"):
        same(numfuse.evaluate("a + x", {"a": a, "x": True}), a + True)
        same(numfuse.evaluate("a + x", {"a": a, "x": 3}), a + 3)
        same(numfuse.evaluate("a * 3", {"a": a}), a * 3)
        if np.dtype(dtype).kind == "f" or np.dtype(dtype).itemsize > 4:
            same(numfuse.evaluate("a + x", {"a": a, "x": 0.1}), a + 0.1)


def test_numpy_scalars_do_not():
    a = np.float32([1, 2])
    for x in [np.float64(0.1), np.array(0.1), np.int64(3), np.float32(2)]:
        same(numfuse.evaluate("a + x"), a + x)


def test_numbers_that_do_not_fit():
    a = np.uint8([1])
    for x in [300, -1, 2**64, 2**70]:
        with pytest.raises(OverflowError):
            numfuse.evaluate("a + x")
    # Above the largest int64 they are of uint64, not of any dtype.
    x = 2**64 - 1
    same(numfuse.evaluate("x + u", {"x": x, "u": np.uint64([0])}), np.uint64([x]))


def test_results_without_dimensions():
    a = np.arange(10.0)
    same(numfuse.evaluate("sum(a)"), np.array(45.0))
    same(numfuse.evaluate("1 + 2"), np.array(3))
    x = 2
    assert numfuse.evaluate("x ** 2").item() == 4


def test_several_results():
    a = np.arange(6.0).reshape(2, 3)
    total, double, again = numfuse.evaluate("sum(a, axis=1), 2*a, 2*a")
    same(total, a.sum(axis=1))
    same(double, 2 * a)
    same(again, 2 * a)
    assert not np.shares_memory(double, again)


LAYOUTS = {
    "row-major": lambda a: a,
    "column-major": np.asfortranarray,
    "reversed": lambda a: a[::-1, :, ::-1],
    "every other": lambda a: np.repeat(a, 2, axis=2)[:, :, ::2],
    "transposed": lambda a: a.transpose(2, 0, 1).copy().transpose(1, 2, 0),
    "broadcast": lambda a: np.broadcast_to(a[:, :1], a.shape),
    "unaligned": lambda a: unaligned(a),
    "field": lambda a: field(a),
    "read-only": lambda a: readonly(a),
    "empty": lambda a: a[:, :0],
}


def unaligned(a):
    memory = np.empty(a.nbytes + 1, np.uint8)[1:].view(a.dtype).reshape(a.shape)
    memory[...] = a
    assert not memory.flags.aligned or a.itemsize == 1
    return memory


def field(a):
    records = np.zeros(a.shape, [("pad", "u1"), ("x", a.dtype)])
    records["x"] = a
    return records["x"]


def readonly(a):
    a = a.copy()
    a.flags.writeable = False
    return a


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", ["f8", "f4", "i2", "u1"])
def test_layouts(layout, dtype):
    base = sample(dtype, 4 * 5 * 6).reshape(4, 5, 6)
    a = LAYOUTS[layout](base)
    b = np.ascontiguousarray(a[:, ::-1])
    same(numfuse.evaluate("a + b"), a + b)
    same(numfuse.evaluate("a * b[0]"), a * b[0])
    out = LAYOUTS["transposed"](np.empty_like(a)) if a.size else np.empty_like(a)
    assert numfuse.evaluate("a + b", out=out) is out
    same(out, a + b)


def test_results_lie_as_the_inputs_do():
    for order in [(0, 1, 2), (2, 1, 0), (1, 2, 0), (2, 0, 1)]:
        a = np.empty((3, 4, 5))[...].transpose(order)
        a[...] = np.arange(60.0).reshape(a.shape)
        result = numfuse.evaluate("a + 1")
        same(result, a + 1)
        assert result.strides == (a + 1).strides
    c, f = np.ones((3, 4)), np.asfortranarray(np.ones((3, 4)))
    assert numfuse.evaluate("c + f").flags.c_contiguous
    assert numfuse.evaluate("f + f[0]").flags.f_contiguous


def test_bools_of_other_bytes():
    a = np.array([0, 1, 2, 255], np.uint8).view(bool)
    same(numfuse.evaluate("~a"), np.array([True, False, False, False]))
    assert numfuse.evaluate("sum(a)") == 3


def test_what_asarray_takes():
    class Own:
        def __array__(self, dtype=None, copy=None):
            return np.float32([1, 2])

    same(numfuse.evaluate("x * 2", {"x": [1, 2]}), np.array([2, 4]))
    same(numfuse.evaluate("x * 2", {"x": Own()}), np.float32([2, 4]))
    same(numfuse.evaluate("x * 2", {"x": range(3)}), np.array([0, 2, 4]))
    same(numfuse.evaluate("x * 2", {"x": memoryview(b"\1\2")}), np.array([2, 4], "u1"))


def test_names_are_looked_up_as_python_would(tmp_path):
    a = 1
    assert numfuse.evaluate("a") == 1
    assert numfuse.evaluate("a + MODULE_LEVEL") == 8
    assert numfuse.evaluate("a", {"a": 2}) == 2
    assert numfuse.evaluate("a + b", {"a": 2}, {"b": 3}) == 5
    # As in numexpr, the caller's globals are there if no others are given.
    assert numfuse.evaluate("a + MODULE_LEVEL", {"a": 2}) == 9
    assert numfuse.evaluate("MODULE_LEVEL", global_dict={"MODULE_LEVEL": 2}) == 2
    assert numfuse.evaluate("a", collections.ChainMap({}, {"a": 5})) == 5
    assert [numfuse.evaluate("a + i", {"i": i}, {"a": 1}) for i in range(3)] == [1, 2, 3]
    assert (lambda q: numfuse.evaluate("q * 2"))(21) == 42

    def inner():
        return numfuse.evaluate("a + 1", {"a": a})

    assert inner() == 2

    class Body:
        x = 3
        y = numfuse.evaluate("x * 2")

    assert Body.y == 6 and Body.x == 3
    namespace = {"numfuse": numfuse, "x": 4}
    exec("y = numfuse.evaluate('x + 1')", {"numfuse": numfuse}, namespace)
    assert namespace["y"] == 5 and namespace["x"] == 4
    exec("y = numfuse.evaluate('x + 2')", namespace)
    assert namespace["y"] == 6


MODULE_LEVEL = 7


def test_a_variable_of_the_caller_hides_a_constant():
    assert numfuse.evaluate("cos(pi)") == -1.0
    assert numfuse.evaluate("e") == np.e
    pi = 0
    assert numfuse.evaluate("cos(pi)") == 1.0


def test_locals_stay_as_they_are():
    a = np.ones(3)
    seen = locals()
    numfuse.evaluate("a + 1")
    assert seen["a"] is a


def test_only_the_names_that_are_used_are_looked_at():
    class Trap(dict):
        def __missing__(self, key):
            raise AssertionError(key)

    assert numfuse.evaluate("a + 1", Trap(a=1, b=object())) == 2


def test_errors_of_mappings_come_through():
    class Broken:
        def __getitem__(self, key):
            raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        numfuse.evaluate("a", Broken())


def test_many_sizes_and_texts():
    for n in list(range(70)) + [1000, 4097, 100_000]:
        a, b = np.arange(float(n)), np.arange(float(n))[::-1]
        same(numfuse.evaluate("2*a + b"), 2 * a + b)
    for i in range(1000):
        assert numfuse.evaluate(f"x + {i}", {"x": 1}) == 1 + i


def test_threads_do_not_change_results():
    a = sample("f8", 1_000_000)[5:]
    one, many = numfuse.evaluate("sum(sin(a)*a)", threads=1), numfuse.evaluate("sum(sin(a)*a)", threads=4)
    assert one.tobytes() == many.tobytes()
    before = numfuse.set_num_threads(1)
    try:
        assert numfuse.get_num_threads() == 1
        assert numfuse.evaluate("sum(sin(a)*a)").tobytes() == one.tobytes()
    finally:
        assert numfuse.set_num_threads(before) == 1
    for wrong in [0, -1]:
        with pytest.raises(ValueError):
            numfuse.set_num_threads(wrong)
        with pytest.raises(ValueError):
            numfuse.evaluate("a", threads=wrong)


@pytest.mark.parametrize("length", [1, 2, 3, 5, 16, 32, 33, 50, 64, 65])
def test_short_rows_are_numpys(length):
    """Many rows of few elements have code for their length."""
    rng = np.random.default_rng(length)
    a, y, n = rng.standard_normal((300, length)), rng.standard_normal((40, length)), rng.integers(-99, 99, (300, length))
    for x in (a, a[::-1, ::-1], np.asfortranarray(a), np.repeat(a, 2, axis=0)[::2]):
        same(numfuse.evaluate("max(x, axis=-1)"), x.max(axis=-1))
        np.testing.assert_allclose(numfuse.evaluate("sum(x**2, axis=-1)"), (x**2).sum(axis=-1), rtol=1e-13)
        unit = numfuse.evaluate("x / sqrt(sum(x**2, axis=-1, keepdims=True))")
        np.testing.assert_allclose(unit, x / np.sqrt((x**2).sum(axis=-1, keepdims=True)), rtol=1e-13)
        np.testing.assert_allclose(numfuse.evaluate("var(x, axis=-1)"), x.var(axis=-1), rtol=1e-12, atol=1e-30)
        pairs = numfuse.evaluate("sqrt(sum((x[:, None] - y[None])**2, axis=-1))")
        np.testing.assert_allclose(pairs, np.sqrt(((x[:, None] - y[None]) ** 2).sum(axis=-1)), rtol=1e-13)
    same(numfuse.evaluate("sum(n, axis=-1)"), n.sum(axis=-1))
    same(numfuse.evaluate("any(n > 90, axis=-1)"), (n > 90).any(axis=-1))
