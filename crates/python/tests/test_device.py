"""Arrays and work on a GPU, as a stand-in of the driver has it: `wheel.rs` runs this file under one. On a machine with a
GPU, `NUMFUSE_TEST_DEVICE=real` has it run there."""

import gc
import os
import pathlib
import pickle
import subprocess
import sys
import threading
import weakref

import numpy as np
import pytest

import numfuse

WHICH = os.environ.get("NUMFUSE_TEST_DEVICE")
if not WHICH:
    pytest.skip("SKIPPED: no stand-in of the CUDA driver here, nor NUMFUSE_TEST_DEVICE=real", allow_module_level=True)
is_stand_in = pytest.mark.skipif(WHICH == "real", reason="SKIPPED: for the stand-in of the driver only")

DTYPES = ["?", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f4", "f8"]
GPU = numfuse.Device("cuda:0")


class Interface:
    """An array of another library that has `__cuda_array_interface__` alone: memory of ours, seen in another way."""

    def __init__(self, array, **changes):
        self.memory = array if isinstance(array, numfuse.DeviceArray) else numfuse.to_device(array)
        self.interface = {**self.memory.__cuda_array_interface__, **changes}

    @property
    def __cuda_array_interface__(self):
        return self.interface


class DLPack:
    """One that has DLPack alone."""

    def __init__(self, array):
        self.memory = array if isinstance(array, numfuse.DeviceArray) else numfuse.to_device(array)
        self.streams = []

    def __dlpack_device__(self):
        return self.memory.__dlpack_device__()

    def __dlpack__(self, *, stream=None, max_version=None):
        self.streams.append(stream)
        return self.memory.__dlpack__(stream=stream, max_version=max_version)


class OldDLPack(DLPack):
    """One that knows nothing of versions."""

    def __dlpack__(self, stream=None):
        self.streams.append(stream)
        return self.memory.__dlpack__(stream=stream)


def values(dtype, shape=(3, 5)):
    return (np.arange(np.prod(shape)) % 7).astype(dtype).reshape(shape)


def used():
    gc.collect()
    # Whoever waits lets go of what was kept for work that is done.
    GPU.synchronize()
    return GPU.memory_stats()["used"]


def same(result, want):
    assert isinstance(result, numfuse.DeviceArray)
    host = result.to_host()
    assert (host.dtype, host.shape) == (want.dtype, want.shape) == (result.dtype, result.shape)
    np.testing.assert_array_equal(host, want)


# ---- devices ----


def test_devices():
    assert numfuse.devices()[:2] == [numfuse.Device("cpu"), GPU]
    assert numfuse.Device("auto") == numfuse.Device("cuda") == GPU != numfuse.Device("cpu")
    assert (str(GPU), repr(GPU), GPU.name) == ("cuda:0", "numfuse.Device('cuda:0')", "cuda:0")
    assert len({GPU, numfuse.Device("cuda"), numfuse.Device("cpu")}) == 2
    assert pickle.loads(pickle.dumps(GPU)) == GPU
    for wrong in ["gpu", "cuda:x", ""]:
        with pytest.raises(numfuse.DeviceError, match="is no device"):
            numfuse.Device(wrong)
    with pytest.raises(numfuse.DeviceError, match="there is no device cuda:99"):
        numfuse.evaluate("1", device="cuda:99")
    with pytest.raises(TypeError, match="`device` is a"):
        numfuse.evaluate("1", device=0)


def test_memory_is_counted():
    before = used()
    a = numfuse.to_device(np.zeros(1000))
    stats = GPU.memory_stats()
    assert stats["used"] >= before + 8000 and stats["peak"] >= stats["used"]
    assert stats["free"] <= stats["total"]
    del a
    assert used() == before
    assert numfuse.Device("cpu").memory_stats()["used"] == 0


# ---- arrays ----


@pytest.mark.parametrize("dtype", DTYPES)
def test_arrays_go_there_and_back(dtype):
    for host in [values(dtype), values(dtype).T, values(dtype)[::-1, ::2], values(dtype, (0, 3)), values(dtype, ())]:
        there = numfuse.to_device(host)
        assert there.device == GPU
        assert (there.ndim, there.size, there.nbytes) == (host.ndim, host.size, host.nbytes)
        assert there.strides == np.ascontiguousarray(host).reshape(host.shape).strides or host.size == 0
        same(there, host)
        np.testing.assert_array_equal(np.asarray(there), host)
        same(numfuse.to_device(there, GPU), host)


def test_what_arrays_say():
    a = numfuse.to_device(np.ones((2, 3), np.float32))
    assert repr(a) == "<numfuse.DeviceArray f32[2, 3] on cuda:0>"
    assert len(a) == 2
    with pytest.raises(TypeError):
        len(numfuse.to_device(1.0))
    assert numfuse.to_device(2.5).item() == 2.5
    assert np.asarray(a, dtype="i4").dtype == np.int32
    with pytest.raises(ValueError, match="without a copy"):
        np.asarray(a, copy=False)
    host = numfuse.to_device(a, "cpu")
    assert isinstance(host, np.ndarray) and host.sum() == 6
    with pytest.raises(TypeError):
        numfuse.DeviceArray()


# ---- work ----


def test_work_is_done_where_the_arrays_are():
    a, b = np.linspace(-1, 1, 3000).reshape(3, 1000), np.linspace(2, 3, 1000)
    there = {"a": numfuse.to_device(a), "b": numfuse.to_device(b), "k": 1.5}
    host = {"a": a, "b": b, "k": 1.5}
    for text in ["2*a + b*k", "sum(a*b, axis=1)", "exp(-a*a) > k"]:
        for _ in range(2):
            same(numfuse.evaluate(text, there), numfuse.evaluate(text, host))
    total, shifted = numfuse.evaluate("sum(a), a - k", there)
    same(total, numfuse.evaluate("sum(a)", host))
    same(shifted, a - 1.5)
    # Scalars of NumPy go with anything, and the variables of the caller are looked at.
    x, k = there["b"], np.float32(2)
    same(numfuse.evaluate("x * k"), b * 2)
    same(numfuse.evaluate("1 + 2", device="cuda"), np.array(3))


def test_functions():
    f = numfuse.compile("2*a + 1")
    a = np.linspace(0, 1, 100)
    there = numfuse.to_device(a)
    for _ in range(3):
        same(f(there), 2 * a + 1)
        np.testing.assert_array_equal(f(a), 2 * a + 1)
    on_gpu = numfuse.compile("2*a + 1", device="cuda", threads=1)
    for f in [on_gpu, pickle.loads(pickle.dumps(on_gpu))]:
        same(f(a=there), 2 * a + 1)
        found = f(a)
        assert isinstance(found, np.ndarray)
        np.testing.assert_array_equal(found, 2 * a + 1)
    on_cpu = numfuse.compile("2*a + 1", device="cpu")
    with pytest.raises(numfuse.DeviceError, match="input `a` is on cuda:0, not on cpu"):
        on_cpu(there)


def test_arrays_of_the_host_go_through_the_device():
    a = np.linspace(0, 1, 3000).reshape(3, 1000)
    for host in [a, a[:, ::-1], a.T, a.astype("f4")]:
        want = numfuse.evaluate("2*host + 1", device="cpu")
        found = numfuse.evaluate("2*host + 1", device="cuda")
        assert isinstance(found, np.ndarray) and found.dtype == want.dtype
        np.testing.assert_array_equal(found, want)
    first, second = numfuse.evaluate("sum(a), a > 0.5", device=GPU)
    assert first == numfuse.evaluate("sum(a)")
    np.testing.assert_array_equal(second, a > 0.5)
    out = np.zeros((3, 1000))
    assert numfuse.evaluate("2*a + 1", device="cuda", out=out) is out
    np.testing.assert_array_equal(out, 2 * a + 1)


def test_fields_of_structured_arrays_go_through_the_device():
    records = np.zeros(500, dtype=[("kind", "u1"), ("x", "f8"), ("y", "f4")])
    records["x"], records["y"] = np.linspace(-1, 1, 500), np.linspace(0, 3, 500)
    x, y = records["x"], records["y"]
    assert x.ctypes.data % 8 and x.strides == (13,)
    found = numfuse.evaluate("2*x + y, sum(x)", device="cuda")
    for one, want in zip(found, numfuse.evaluate("2*x + y, sum(x)")):
        np.testing.assert_array_equal(one, want)


def test_nothing_is_moved_unasked():
    a, b = numfuse.to_device(np.ones(3)), np.ones(3)
    with pytest.raises(numfuse.DeviceError, match="input `b` is on cpu, other arrays are on cuda:0") as error:
        numfuse.evaluate("a + b")
    assert error.value.code == "E0603"
    with pytest.raises(numfuse.DeviceError, match="input `a` is on cuda:0, not on cpu"):
        numfuse.evaluate("a + 1", device="cpu")
    with pytest.raises(numfuse.DeviceError, match="the output is on cpu"):
        numfuse.evaluate("a + 1", out=np.zeros(3))
    with pytest.raises(numfuse.DeviceError, match="is on cpu"):
        numfuse.evaluate("b + 1", out=a)
    with pytest.raises(numfuse.ShapeError):
        numfuse.evaluate("a + x", {"a": a, "x": numfuse.to_device(np.ones(4))})
    with pytest.raises(numfuse.UnknownNameError):
        numfuse.evaluate("a + nothing")


def test_outputs():
    a = np.linspace(0, 1, 1000)
    x, out = numfuse.to_device(a), numfuse.to_device(np.zeros(1000))
    assert numfuse.evaluate("2*x + 1", out=out) is out
    same(out, 2 * a + 1)
    assert numfuse.compile("2*x + 1")(x, out=out) is out
    # In place, and where the output is read in another order.
    numfuse.evaluate("2*x + 1", out=x)
    same(x, 2 * a + 1)
    first, second = numfuse.to_device(np.zeros(1000)), numfuse.to_device(np.zeros(1000))
    numfuse.evaluate("out*2, out - 1", out=(first, second))
    same(first, 2 * (2 * a + 1))
    same(second, 2 * a + 1 - 1)
    # An output alone says where work is done.
    numfuse.evaluate("0.25", out=numfuse.to_device(0.0))
    for wrong in [numfuse.to_device(np.zeros(7)), numfuse.to_device(np.zeros(1000, "f4")), (first, second), 7, "x"]:
        with pytest.raises(numfuse.OutputError):
            numfuse.evaluate("x + 1", out=wrong)


def test_threads():
    a = np.linspace(0, 1, 1000)
    f, failures = numfuse.compile("2*a + 1"), []

    def work(n):
        try:
            there = numfuse.to_device(a + n)
            for _ in range(5):
                same(f(there), 2 * (a + n) + 1)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


# ---- arrays of other libraries ----


@pytest.mark.parametrize("dtype", DTYPES)
def test_arrays_of_other_libraries_are_read_where_they_are(dtype):
    a = values(dtype)
    for foreign in [Interface(a), DLPack(a), OldDLPack(a)]:
        same(numfuse.to_device(foreign), a)


def test_their_strides():
    memory = np.arange(24.0)
    there = numfuse.to_device(memory)
    address = there.__cuda_array_interface__["data"][0]
    for view in [memory.reshape(4, 6).T, memory[::-1], memory.reshape(4, 6)[::-2, 1::2], np.broadcast_to(memory[:3], (2, 3))]:
        offset = view.__array_interface__["data"][0] - memory.__array_interface__["data"][0]
        x = Interface(there, shape=view.shape, strides=view.strides, data=(address + offset, False))
        same(numfuse.evaluate("2*x + 1"), 2 * view + 1)


def test_their_streams():
    a = np.linspace(0, 1, 1000)
    ours = numfuse.to_device(a).__cuda_array_interface__["stream"]
    assert ours > 2
    for changes in [{}, {"stream": 1}, {"stream": 2}, {"stream": None}, {"version": 2, "stream": None}]:
        x = Interface(a, **changes)
        result = numfuse.evaluate("2*x + 1")
        # Memory is kept until it was read.
        del x
        gc.collect()
        same(result, 2 * a + 1)
    with pytest.raises(TypeError, match="no `stream`"):
        numfuse.evaluate("x", {"x": Interface(a, stream=0)})
    x = DLPack(a)
    result = numfuse.evaluate("2*x + 1")
    assert x.streams == [ours]
    del x
    same(result, 2 * a + 1)


@pytest.mark.parametrize("make", [lambda a: Interface(a, stream=None), DLPack, OldDLPack])
def test_they_are_kept_until_they_were_read(make):
    a = np.linspace(0, 1, 1000)
    x = make(a)
    kept = weakref.ref(x) if isinstance(x, Interface) else None
    before = GPU.memory_stats()["used"]
    result = numfuse.evaluate("2*x + 1")
    del x
    gc.collect()
    if WHICH != "real":
        # The stand-in does nothing before somebody waits.
        assert kept is None or kept() is not None
        assert GPU.memory_stats()["used"] == before + 8000
    same(result, 2 * a + 1)
    GPU.synchronize()
    gc.collect()
    assert kept is None or kept() is None
    assert GPU.memory_stats()["used"] == before


def test_they_are_let_go_of():
    before = used()
    a = np.linspace(0, 1, 1000)
    for make in [Interface, DLPack, OldDLPack]:
        x = make(a)
        for _ in range(3):
            result = numfuse.evaluate("2*x + 1")
        numfuse.evaluate("2*x + 1", out=x)
        with pytest.raises(numfuse.ShapeError):
            numfuse.evaluate("x + y", {"x": x, "y": make(np.ones(7))})
        del x, result
        assert used() == before
    # Capsules that nobody uses.
    for options in [{}, {"max_version": (1, 0)}, {"copy": True}]:
        y = numfuse.to_device(a)
        capsule = y.__dlpack__(**options)
        del y
        assert GPU.memory_stats()["used"] > before
        del capsule
        assert used() == before


def test_they_are_outputs():
    a = np.linspace(0, 1, 1000)
    x = numfuse.to_device(a)
    for make in [Interface, DLPack, OldDLPack]:
        out = make(np.zeros(1000))
        assert numfuse.evaluate("2*x + 1", out=out) is out
        same(out.memory, 2 * a + 1)
        # The same memory, twice.
        numfuse.evaluate("out[::-1] - out", out=out)
        want = 2 * a + 1
        same(out.memory, want[::-1] - want)
    read_only = Interface(x, data=(x.__cuda_array_interface__["data"][0], True))
    with pytest.raises(numfuse.OutputError, match="read-only"):
        numfuse.evaluate("2*x + 1", out=read_only)
    same(numfuse.evaluate("2*read_only + 1"), 2 * a + 1)


@pytest.mark.parametrize("typestr", ["<f2", "<c8", ">f4", "<M8", "|V4", "", "é", "<"])
def test_other_types_are_refused(typestr):
    with pytest.raises(numfuse.ArgumentError, match="input `x` is an array of .* on a device"):
        numfuse.evaluate("x", {"x": Interface(np.zeros(4), typestr=typestr)})


def test_broken_interfaces():
    for part in ["data", "shape", "typestr"]:
        with pytest.raises(TypeError, match=f"has no `{part}`"):
            numfuse.evaluate("x", {"x": Interface(np.zeros(4), **{part: None})})
    for changes in [{"shape": (-1,)}, {"strides": (8, 8)}, {"data": 5}, {"shape": (2**62, 4), "strides": None}]:
        with pytest.raises((numfuse.Error, TypeError, OverflowError, ValueError)):
            numfuse.evaluate("x", {"x": Interface(np.zeros(4), **changes)})
    with pytest.raises(numfuse.ArgumentError, match="masked"):
        numfuse.evaluate("x", {"x": Interface(np.zeros(4), mask=Interface(np.zeros(4, "?")))})

    class Wrong(DLPack):
        def __dlpack__(self, **_):
            return self.capsule

    x = Wrong(np.zeros(4))
    for x.capsule in [None, 1, object()]:
        with pytest.raises(BufferError, match="no capsule"):
            numfuse.evaluate("x")
    # One that was used up.
    x.capsule = x.memory.__dlpack__()
    numfuse.evaluate("x")
    with pytest.raises(BufferError, match="no capsule"):
        numfuse.evaluate("x")

    class Failing(DLPack):
        def __dlpack__(self, **_):
            raise RuntimeError("requires grad")

    with pytest.raises(RuntimeError, match="requires grad"):
        numfuse.evaluate("x", {"x": Failing(np.zeros(4))})


def test_what_others_are_told():
    a = np.zeros((2, 3), np.float32)
    there = numfuse.to_device(a)
    interface = there.__cuda_array_interface__
    assert interface["version"] == 3 and interface["strides"] is None
    assert (interface["shape"], interface["typestr"], interface["data"][1]) == ((2, 3), "<f4", False)
    assert there.__dlpack_device__() == (2, 0)
    for stream in [None, -1, 1, 2]:
        assert '"dltensor"' in repr(there.__dlpack__(stream=stream))
        assert '"dltensor_versioned"' in repr(there.__dlpack__(stream=stream, max_version=(1, 1), dl_device=(2, 0)))
    with pytest.raises(ValueError, match="no stream"):
        there.__dlpack__(stream=0)
    with pytest.raises(BufferError, match="not moved"):
        there.__dlpack__(dl_device=(1, 0))
    # NumPy has no arrays of devices, and says so.
    with pytest.raises((RuntimeError, BufferError)):
        np.from_dlpack(there)


def test_the_example_in_the_manual():
    manual = pathlib.Path(__file__).parents[3] / "docs" / "gpu.md"
    block = manual.read_text().split("```python\n")[1].split("```")[0]
    names = {}
    exec(block, names)
    same(names["y"], 2 * np.asarray(names["a"]) + 1)


def child(code, **variables):
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, **variables})
    assert run.returncode == 0, run.stdout + run.stderr
    return run.stdout


@is_stand_in
def test_without_a_device():
    code = """if True:
        import numfuse, numpy as np
        a = np.ones(3)
        assert numfuse.devices() == [numfuse.Device("cpu")] == [numfuse.Device("auto")]
        assert (numfuse.evaluate("a + 1", device="auto") == 2).all()
        for call in [lambda: numfuse.to_device(a), lambda: numfuse.evaluate("a", device="cuda")]:
            try:
                call()
            except numfuse.DeviceError as error:
                print(error.code)
    """
    assert child(code, FAKE_CUDA_DEVICES="0").split() == ["E0601", "E0601"]


@is_stand_in
def test_two_devices():
    code = """if True:
        import numfuse, numpy as np
        a, b = numfuse.to_device(np.ones(3), "cuda:1"), numfuse.to_device(np.ones(3))
        assert a.device.name == "cuda:1" and a.__dlpack_device__() == (2, 1)
        assert numfuse.evaluate("a + 1").device.name == "cuda:1"
        class Foreign:
            __cuda_array_interface__ = a.__cuda_array_interface__
        x = Foreign()
        for text in ["a + b", "b + a", "x + 1"]:
            try:
                numfuse.evaluate(text)
            except numfuse.DeviceError as error:
                print(error)
        Foreign.__dlpack_device__ = lambda self: (2, 1)
        assert numfuse.evaluate("x + 1").device.name == "cuda:1"
        # Each is copied by way of the host.
        assert numfuse.to_device(a, "cuda:0").device == b.device
    """
    printed = child(code, FAKE_CUDA_DEVICES="2")
    assert "input `b` is on cuda:0, not on cuda:1" in printed
    assert "input `a` is on cuda:1, not on cuda:0" in printed
    assert "input `x` does not say which device it is on" in printed


@is_stand_in
def test_no_memory():
    code = """if True:
        import numfuse, numpy as np
        try:
            numfuse.to_device(np.zeros(1 << 20))
        except MemoryError as error:
            print(error)
    """
    assert "E0505" in child(code, FAKE_CUDA_MEMORY=str(1 << 20))
