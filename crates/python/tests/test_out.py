"""`out=`: into any memory, also that of the inputs; what does not fit is refused and left alone."""

import numpy as np
import pytest

import numfuse


def test_in_place_and_overlapping():
    for n in [10, 1000, 100_000]:
        base = np.random.default_rng(0).random(n + 3)
        for out, a, b in [
            (slice(0, n), slice(0, n), slice(0, n)),
            (slice(1, n + 1), slice(0, n), slice(2, n + 2)),
            (slice(0, n), slice(1, n + 1), slice(3, n + 3)),
        ]:
            memory = base.copy()
            want = 2 * base[a] + base[b]
            numfuse.evaluate("2*a + b", {"a": memory[a], "b": memory[b]}, out=memory[out])
            np.testing.assert_array_equal(memory[out], want)
        memory = base.copy()
        numfuse.evaluate("a + a[::-1]", {"a": memory}, out=memory)
        np.testing.assert_array_equal(memory, base + base[::-1])
        memory = base.copy()
        numfuse.evaluate("a - 1", {"a": memory}, out=memory[::-1])
        np.testing.assert_array_equal(memory[::-1], base - 1)


def test_transposed_in_place():
    base = np.random.default_rng(0).random((300, 300))
    memory = base.copy()
    numfuse.evaluate("a * 2", {"a": memory}, out=memory.T)
    np.testing.assert_array_equal(memory.T, base * 2)


def test_memory_around_is_left_alone():
    memory = np.full((20, 20), -1.0)
    numfuse.evaluate("a + 1", {"a": np.zeros((5, 5))}, out=memory[2:17:3, 3:18:3])
    assert (memory == 1).sum() == 25 and (memory == -1).sum() == 375


def test_memory_maps(tmp_path):
    out = np.memmap(tmp_path / "out", np.float64, "w+", shape=(100,))
    assert numfuse.evaluate("a + 1", {"a": np.zeros(100)}, out=out) is out
    assert (out == 1).all()


@pytest.mark.parametrize(
    "out, part",
    [
        (np.zeros(4, "f4"), "the output is of f32, the result is of f64"),
        (np.zeros(5), "the output has shape [5], the result has [4]"),
        (np.zeros((1, 4)), "the output has shape [1, 4]"),
        (np.zeros(4, ">f8"), "`out` has dtype >f8"),
        (np.zeros(4, "c16"), "`out` has dtype complex128"),
        (np.broadcast_to(np.zeros(1), 4), "`out` is read-only"),
        (np.lib.stride_tricks.as_strided(np.zeros(4), (4,), (4,)), "elements of the output share memory"),
        ((np.zeros(4), np.zeros(4)), "2 outputs for 1 results"),
        ((), "0 outputs for 1 results"),
        ([0.0] * 4, "`out` is a"),
        (3, "`out` is a"),
    ],
)
def test_what_does_not_fit(out, part):
    a = np.ones(4)
    for is_an_error in (ValueError, TypeError, numfuse.OutputError):
        with pytest.raises(is_an_error) as error:
            numfuse.evaluate("a + 1", out=out)
        assert part in str(error.value)
    if isinstance(out, np.ndarray):
        assert not out.any()


def test_two_outputs_of_one_memory():
    a, out = np.ones(4), np.zeros(4)
    with pytest.raises(ValueError, match="two outputs share memory"):
        numfuse.evaluate("a + 1, a + 2", out=(out, out))
    assert not out.any()
