"""`compile`: how its functions are called, and that they agree with `evaluate`."""

import copy
import inspect
import pickle
import sys

import numpy as np
import pytest

import numfuse

A, B = np.arange(4.0), np.array([4.0, 3.0, 2.0, 1.0])


def test_arguments_by_name_and_in_order():
    f = numfuse.compile("b - a*pi")
    assert f.names == ("b", "a")
    assert f.expr == "b - a*pi"
    assert repr(f) == "numfuse.compile('b - a*pi')"
    want = B - A * np.pi
    for got in [f(B, A), f(B, a=A), f(a=A, b=B), f(**{"a": A, "b": B})]:
        np.testing.assert_array_equal(got, want)
    # A constant can be bound, but only by name.
    np.testing.assert_array_equal(f(B, A, pi=2), B - A * 2)


def test_every_way_to_call():
    f = numfuse.compile("b - a")
    # Names that are made when the code runs are other objects than those in the code.
    made = {"".join(["", "a"]): A, "".join(["o", "ut"]): np.empty(4)}
    for got in [f(B, **made), f.__call__(B, A), f.__call__(B, a=A), type(f).__call__(f, B, a=A), f(*[B, A], **{})]:
        np.testing.assert_array_equal(got, B - A)
    assert f(B, **made) is made["out"]
    for wrong in [lambda: f.__call__(), lambda: f.__call__(B, A, A), lambda: f(B, **{"".join(["c", "c"]): A})]:
        with pytest.raises(numfuse.ArgumentError):
            wrong()
    with pytest.raises(TypeError):
        f.__call__(**{1: A})


def test_signature():
    assert str(inspect.signature(numfuse.compile("b - a"))) == "(b, a, *, out=None)"
    signature = inspect.signature(numfuse.compile("a*pi + out"))
    assert list(signature.parameters) == ["a", "out", "pi"]
    assert signature.parameters["pi"].kind is inspect.Parameter.KEYWORD_ONLY


def test_nothing_is_leaked():
    a, out = A.copy(), np.empty(4)
    objects = (a, out, numfuse.Function)
    before = [sys.getrefcount(o) for o in objects]
    for _ in range(100):
        f = numfuse.compile("a + 1")
        f(a), f(a=a, out=out), f.__call__(a, out=out)
        for wrong in [lambda: f(a, a=a), lambda: f(a, out=3), lambda: f(b=a)]:
            with pytest.raises(numfuse.Error):
                wrong()
    del f, wrong
    assert [sys.getrefcount(o) for o in objects] == before


def test_names_that_are_made_at_run_time():
    f = numfuse.compile("alpha + beta")
    names = {"".join(["al", "pha"]): A, "".join(["be", "ta"]): B, "".join(["o", "ut"]): np.empty_like(A)}
    for _ in range(3):
        assert f(**names) is names["out"]
        assert (names["out"] == A + B).all()
        names["out"].fill(0)
    with pytest.raises(numfuse.Error, match="given twice"):
        f(A, B, **{"".join(["al", "pha"]): A})


def test_wrong_arguments():
    f = numfuse.compile("alpha + beta")
    for call, part in [
        (lambda: f(), "argument `alpha` is missing"),
        (lambda: f(A), "argument `beta` is missing"),
        (lambda: f(A, B, A), "3 arguments"),
        (lambda: f(A, B, beta=A), "`beta` is given twice"),
        (lambda: f(A, bta=A), "did you mean `beta`?"),
        (lambda: f(A, beta=None), "input `beta` is a `NoneType`"),
    ]:
        with pytest.raises(TypeError) as error:
            call()
        assert part in str(error.value)
        assert isinstance(error.value, numfuse.Error)


def test_no_names():
    f = numfuse.compile("1 + 1")
    assert f.names == () and f() == 2
    with pytest.raises(TypeError):
        f(1)


def test_a_name_called_out():
    f = numfuse.compile("out + 1")
    assert f(out=2) == 3


def test_new_types_and_shapes():
    f = numfuse.compile("a + b", threads=2)
    for dtype in ["f4", "f8", "i4", "u1"]:
        for shape in [(), (3,), (2, 3), (0,), (2, 1, 4)]:
            a, b = np.ones(shape, dtype), np.ones(shape[-1:], dtype)
            got = f(a, b)
            np.testing.assert_array_equal(got, a + b)
            assert got.dtype == np.dtype(dtype)


def test_mistakes_are_found_at_once():
    with pytest.raises(SyntaxError):
        numfuse.compile("a +")
    with pytest.raises(TypeError):
        numfuse.compile(b"a")
    with pytest.raises(TypeError):
        numfuse.Function()


def test_into_memory_of_the_caller():
    f = numfuse.compile("a*2, sum(a)")
    first, second = np.empty(8)[::-2], np.empty(())
    got = f(A, out=(first, second))
    assert got[0] is first and got[1] is second
    np.testing.assert_array_equal(first, A * 2)
    assert second == 6
    assert f(A, out=None)[1] == 6


def test_copies():
    for f in [numfuse.compile("a - b"), numfuse.compile("a - b", threads=1)]:
        for again in [pickle.loads(pickle.dumps(f)), copy.copy(f), copy.deepcopy(f)]:
            assert again.expr == f.expr and repr(again) == repr(f)
            np.testing.assert_array_equal(again(A, B), A - B)


def test_calls_like_an_earlier_one_give_what_that_gave():
    f = numfuse.compile("2*a - b, sum(a)")
    g = numfuse.compile("a - b")
    a, b = np.arange(12.0).reshape(3, 4), np.ones((3, 4))
    for _ in range(3):
        twice, total = f(a, b)
        assert np.array_equal(twice, 2 * a - b) and total.shape == () and total == a.sum()
        assert np.array_equal(g(a, b), a - b) and np.array_equal(g(b=b, a=a), a - b)
        assert np.array_equal(g(a, b=b), a - b)
        columns = g(np.asfortranarray(a), np.asfortranarray(b))
        assert np.array_equal(columns, a - b) and columns.flags.f_contiguous
        assert np.array_equal(g(a.T, b.T), (a - b).T)
        assert np.array_equal(g(a, 1), a - 1) and np.array_equal(g(a, np.float64(1)), a - 1)
        assert np.array_equal(g(a, b[0]), a - b[0]) and np.array_equal(g(a[:0], b[:0]), a[:0])


def test_later_calls_look_at_their_outputs():
    f = numfuse.compile("a - b")
    flat = np.arange(10.0)
    a, b = flat[2:6].copy(), np.ones(4)
    out, narrow, locked = np.empty(4), np.empty(4, "float32"), np.empty(4)
    locked.flags.writeable = False
    for _ in range(3):
        assert f(a, b, out=out) is out and np.array_equal(out, a - b)
        assert f(a, b, out=None) is not out
        strided = np.zeros((4, 2))
        assert np.array_equal(f(a, b, out=strided[:, 1]), a - b) and not strided[:, 0].any()
        overlapping = flat.copy()
        f(overlapping[2:6], overlapping[1:5], out=overlapping[3:7])
        assert np.array_equal(overlapping[3:7], flat[2:6] - flat[1:5])
        in_place = a.copy()
        assert f(in_place, b, out=in_place) is in_place and np.array_equal(in_place, a - b)
        for wrong in (narrow, locked, np.empty(5), 3):
            with pytest.raises(numfuse.OutputError):
                f(a, b, out=wrong)
        for arguments in ((a,), (a, b, a)):
            with pytest.raises(numfuse.ArgumentError):
                f(*arguments)
        with pytest.raises(numfuse.ArgumentError):
            f(a, b, a=a)


def test_an_array_may_change_its_shape_between_calls():
    f = numfuse.compile("a + 1")
    a = np.arange(6.0)
    for shape in ((6,), (2, 3), (3, 2), (6, 1), (6,)) * 2:
        a.shape = shape
        assert f(a).shape == shape
