"""Mistakes: the builtin exception that people expect, and a message with the place and a way out."""

import traceback

import numpy as np
import pytest

import numfuse

A = np.arange(3.0)


@pytest.mark.parametrize(
    "text, kinds, parts",
    [
        ("a +", (numfuse.ParseError, SyntaxError, ValueError), ["[E0103]", "a value is missing after `+`", "expression:1:3"]),
        ("a.__class__", (SyntaxError, ValueError), ["[E0106]"]),
        ("__import__('os')", (numfuse.Error,), ["[E01"]),
        ("aa + zz", (numfuse.UnknownNameError, NameError, KeyError), ["[E0201]", "`zz`", "1 │ aa + zz"]),
        ("sqtr(a)", (numfuse.UnknownFunctionError, NameError, TypeError), ["[E0202]", "sqrt"]),
        ("a + b", (numfuse.ShapeError, ValueError), ["[E0401]", "sizes 3 and 4 do not broadcast"]),
        ("sum(a, axis=3)", (numfuse.ShapeError, ValueError), ["[E0402]"]),
        ("max(a[:0])", (numfuse.ShapeError, ValueError), ["[E0404]"]),
        ("c - c", (numfuse.ArgumentError, TypeError), ["[E0301]", "^"]),
        ("u + 300", (numfuse.RangeError, OverflowError, ValueError), ["[E0302]", "300"]),
        ("i ** n", (numfuse.RangeError, ValueError), ["[E0303]"]),
    ],
)
def test_of_expressions(text, kinds, parts):
    names = {"a": A, "aa": A, "b": np.arange(4.0), "c": A > 1, "u": np.uint8([1]), "i": np.array([2]), "n": np.array([-1])}
    with pytest.raises(numfuse.Error) as error:
        numfuse.evaluate(text, names)
    assert all(isinstance(error.value, kind) for kind in kinds)
    message = str(error.value)
    for part in parts:
        assert part in message, message
    assert error.value.code in message
    assert "\x1b" not in message
    shown = "".join(traceback.format_exception(error.value))
    assert parts[-1] in shown and type(error.value).__name__ in shown


def test_a_misspelt_variable_of_the_caller():
    temperature = A
    with pytest.raises(NameError, match="did you mean `temperature`|`temperature`"):
        numfuse.evaluate("temprature + 1")
    assert temperature is A


@pytest.mark.parametrize(
    "value, part",
    [
        (np.float16([1]), "astype(numpy.float32)"),
        (np.longdouble([1]), "astype(numpy.float64)"),
        (np.array([1j]), "`x.real` and `x.imag`"),
        (np.array([1], ">f8"), "newbyteorder"),
        (np.array([1], ">i4"), "newbyteorder"),
        (np.array(["a"]), "dtype <U1"),
        (np.array([b"a"]), "dtype |S1"),
        (np.array(["2020-01-01"], "M8[D]"), "view(numpy.int64)"),
        (np.array([None]), "dtype=float"),
        (np.zeros(1, [("a", "f8")]), 'x["field"]'),
        (np.ma.array([1, 2], mask=[0, 1]), "x.filled"),
        (1j, "`x.real`"),
        ("text", "is a `str`"),
        (None, "is a `NoneType`"),
        (np, "is a `module`"),
        (np.float16(1), "is a `float16`"),
    ],
)
def test_of_inputs(value, part):
    for call in [lambda: numfuse.evaluate("x + 1", {"x": value}), lambda: numfuse.compile("x + 1")(x=value)]:
        with pytest.raises(TypeError) as error:
            call()
        assert isinstance(error.value, numfuse.ArgumentError)
        assert "input `x`" in str(error.value) and part in str(error.value)


def test_too_many_dimensions():
    x = np.zeros((1,) * 33)
    with pytest.raises(numfuse.ShapeError, match="33 dimensions"):
        numfuse.evaluate("x + 1")


def test_too_large():
    a, b, c = np.zeros((1 << 20, 1, 1)), np.zeros((1, 1 << 20, 1)), np.zeros(1 << 20)
    for text in ["a + b", "a + b + c"]:
        with pytest.raises((MemoryError, numfuse.LimitError)):
            numfuse.evaluate(text)


def test_exceptions_that_asarray_raises():
    class Broken:
        def __array__(self, dtype=None, copy=None):
            raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        numfuse.evaluate("x", {"x": Broken()})
    with pytest.raises(ValueError, match="inhomogeneous"):
        numfuse.evaluate("x", {"x": [[1], [1, 2]]})


def test_surrogates_and_control_characters():
    for text in ["a\0b", "\ud800", "a \x1b[31m", "", " ", "a\n+ 1 +", "(" * 100_000, "-" * 100_000 + "1", "a" * 100_000]:
        with pytest.raises((numfuse.Error, UnicodeEncodeError)):
            numfuse.evaluate(text, {"a": A}, {})
