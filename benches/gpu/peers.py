"""The cases of `cases.py` in other libraries on the same device: one library for each process.

    python3 peers.py cupy --json FILE [--bytes N] [--only a,b] [--seconds S]

A line of JSON for each number, as `crates/cuda/examples/device_bench.rs` writes them. First the library's result on few elements is held
against NumPy's (bounds.py); one that disagrees is not timed. A library that is not there says so, which is no error. `numpy` is no peer:
it tries this program out where no GPU is.
"""

import argparse
import importlib
import json
import os
import statistics
import sys
import time

import numpy as np

import bounds
import cases

# Elements that results are compared on: not a power of two, so that no block is full.
COMPARED = 300_007
DTYPES = {"f32": np.float32, "f64": np.float64, "i8": np.int8}
WARM_UP = 3
REPS = 15
CALLS = 200


class Peer:
    """What a library has to offer. `modes` are ways of using it that are timed apart; each is a library of the tables."""

    modes = ()

    def put(self, array):
        """An array on the device."""
        raise NotImplementedError

    def get(self, result):
        """A result as NumPy's."""
        raise NotImplementedError

    def function(self, mode, case):
        """What computes a case; None if this is not for it."""
        raise NotImplementedError

    def synchronize(self):
        """Waits for the device."""
        raise NotImplementedError

    def keep(self, result):
        """What has to be held on to until the next result is there."""
        return result

    def times(self, call):
        """The device's milliseconds of some calls."""
        raise NotImplementedError

    def version(self):
        raise NotImplementedError


def formula(case, library, module, xp):
    own = case.own.get(library)
    if own:
        return lambda *inputs: own(module, *inputs)
    return lambda *inputs: case.formula(xp, *inputs)


class NumPy(Peer):
    """No peer."""

    modes = ("numpy",)

    def put(self, array):
        return array

    def get(self, result):
        return np.asarray(result)

    def function(self, mode, case):
        return formula(case, "numpy", np, np)

    def synchronize(self):
        pass

    def times(self, call):
        found = []
        for _ in range(REPS):
            start = time.perf_counter()
            call()
            found.append((time.perf_counter() - start) * 1e3)
        return found

    def version(self):
        return np.__version__


class CuPy(Peer):
    modes = ("cupy", "cupy-fuse")

    def __init__(self):
        self.cupy = importlib.import_module("cupy")

    def put(self, array):
        return self.cupy.asarray(array)

    def get(self, result):
        return self.cupy.asnumpy(result)

    def function(self, mode, case):
        plain = formula(case, "cupy", self.cupy, self.cupy)
        if mode == "cupy":
            return plain
        if not case.fuses:
            return None
        # The name becomes one of CUDA C, which that of a lambda cannot.
        return self.cupy.fuse(kernel_name="fused")(plain)

    def synchronize(self):
        self.cupy.cuda.get_current_stream().synchronize()

    def times(self, call):
        cuda, found = self.cupy.cuda, []
        for _ in range(REPS):
            start, end = cuda.Event(), cuda.Event()
            start.record()
            call()
            end.record()
            end.synchronize()
            found.append(cuda.get_elapsed_time(start, end))
        return found

    def version(self):
        return self.cupy.__version__


class Torch(Peer):
    modes = ("torch",)

    def __init__(self):
        self.torch = importlib.import_module("torch")
        if not self.torch.cuda.is_available():
            raise ImportError("torch sees no GPU")

    def put(self, array):
        return self.torch.from_numpy(array).cuda()

    def get(self, result):
        return result.cpu().numpy()

    def function(self, mode, case):
        return formula(case, "torch", self.torch, TorchNames(self.torch))

    def synchronize(self):
        self.torch.cuda.synchronize()

    def times(self, call):
        found = []
        for _ in range(REPS):
            start, end = (self.torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            call()
            end.record()
            end.synchronize()
            found.append(start.elapsed_time(end))
        return found

    def version(self):
        return self.torch.__version__


class TorchNames:
    """NumPy's spelling of what the cases use, on torch."""

    def __init__(self, torch):
        for name in ("exp", "sqrt", "abs", "sin", "where"):
            setattr(self, name, getattr(torch, name))
        # Torch's own takes no number.
        self.maximum = lambda x, number: torch.clamp(x, min=number)
        self.sum = lambda x, axis=None, keepdims=False: x.sum() if axis is None else x.sum(axis, keepdim=keepdims)


class TorchCompile(Torch):
    modes = ("torch.compile",)

    def function(self, mode, case):
        # A compiler of its own for each case, as the sizes are its own.
        self.torch._dynamo.reset()
        return self.torch.compile(super().function(mode, case), dynamic=False)


class Jax(Peer):
    modes = ("jax",)

    def __init__(self):
        os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
        self.jax = importlib.import_module("jax")
        self.jax.config.update("jax_enable_x64", True)
        # By itself it shortens the operands of products to TF32, which no other library here does unasked.
        self.jax.config.update("jax_default_matmul_precision", "highest")
        if self.jax.default_backend() != "gpu":
            raise ImportError(f"jax runs on {self.jax.default_backend()}")
        self.last = None

    def put(self, array):
        return self.jax.device_put(array)

    def get(self, result):
        return np.asarray(result)

    def function(self, mode, case):
        return self.jax.jit(formula(case, "jax", self.jax, self.jax.numpy))

    def synchronize(self):
        self.jax.block_until_ready(self.last)

    def keep(self, result):
        self.last = result
        return result

    def times(self, call):
        # JAX hands out no events: four calls at a time, so that the host's part is hidden behind the device's.
        found = []
        for _ in range(REPS):
            start = time.perf_counter()
            for _ in range(4):
                call()
            self.synchronize()
            found.append((time.perf_counter() - start) / 4 * 1e3)
        return found

    def version(self):
        return self.jax.__version__


class Numba(Peer):
    """Kernels written by hand, a thread for each element; `reduce` for sums. Other reductions have no form in Numba that is not a program."""

    modes = ("numba",)
    BODIES = {
        "copy": "out[i] = -x[i]",
        "fma": "out[i] = x[i] * y[i] + z[i]",
        "fma-f64": "out[i] = x[i] * y[i] + z[i]",
        "chain": "out[i] = math.exp(x[i]) * f32(2) if x[i] * y[i] + z[i] > f32(0) else math.sqrt(abs(z[i]))",
        "gauss": "out[i] = math.exp(-x[i] * x[i]) * math.sin(y[i]) + f32(1)",
        "int8": "out[i] = x[i] + f32(0.5) * f32(a[i])",
    }

    def __init__(self):
        self.numba = importlib.import_module("numba")
        self.cuda = importlib.import_module("numba.cuda")
        if not self.cuda.is_available():
            raise ImportError("numba sees no GPU")
        self.outputs = {}

    def put(self, array):
        return self.cuda.to_device(array)

    def get(self, result):
        return result.copy_to_host() if hasattr(result, "copy_to_host") else np.asarray(result)

    def function(self, mode, case):
        if case.text == "sum(x)":
            add = self.cuda.reduce(lambda a, b: a + b)
            result = self.cuda.device_array(1, dtype=DTYPES[case.inputs["x"][0]])

            def reduce(x):
                add(x, res=result, init=x.dtype.type(0))
                return result
            return reduce
        body = self.BODIES.get(case.name)
        if body is None:
            return None
        import math
        names = ", ".join(case.inputs)
        scope = {"math": math, "cuda": self.cuda, "f32": self.numba.float32}
        exec(f"def kernel({names}, out):\n    i = cuda.grid(1)\n    if i < out.size:\n        {body}\n", scope)
        kernel = self.cuda.jit(scope["kernel"])

        def call(*inputs):
            first = inputs[0]
            key = case.name, first.shape, first.dtype
            if key not in self.outputs:
                self.outputs = {key: self.cuda.device_array(first.shape, dtype=first.dtype)}
            out = self.outputs[key]
            kernel[(first.size + 255) // 256, 256](*inputs, out)
            return out
        return call

    def synchronize(self):
        self.cuda.synchronize()

    def times(self, call):
        found = []
        for _ in range(REPS):
            start, end = (self.cuda.event() for _ in range(2))
            start.record()
            call()
            end.record()
            end.synchronize()
            found.append(start.elapsed_time(end))
        return found

    def version(self):
        return self.numba.__version__


PEERS = {"cupy": CuPy, "jax": Jax, "torch": Torch, "torch.compile": TorchCompile, "numba": Numba, "numpy": NumPy}


class Inputs:
    """Random numbers from -1 to 1, as `device_bench` has them: a tile of 64 MiB again and again, so that they are made in no time."""

    def __init__(self):
        self.flat = {}

    def arrays(self, case, sizes):
        """The inputs of a case, on the host."""
        each = enumerate(case.inputs.values())
        return [self.array(n, dtype, case.shape(dims, sizes)) for n, (dtype, dims) in each]

    def array(self, n, dtype, shape):
        count = int(np.prod(shape, dtype=np.int64))
        flat = self.flat.get((n, dtype))
        if flat is None or flat.size < count:
            rng = np.random.default_rng(n)
            tile = min(count, (64 << 20) // DTYPES[dtype]().itemsize)
            made = rng.integers(-100, 100, tile, np.int8) if dtype == "i8" else rng.uniform(-1, 1, tile).astype(DTYPES[dtype])
            flat = self.flat[n, dtype] = np.resize(made, count)
        return flat[:count].reshape(shape)


INPUTS = Inputs()


def disagreement(peer, function, case):
    """What is wrong with a library's results on few elements; an empty text if nothing is."""
    inputs = INPUTS.arrays(case, cases.bind(case.sizes, COMPARED))
    got = function(*map(peer.put, inputs))
    peer.keep(got)
    return bounds.disagreement(case, inputs, [peer.get(r) for r in (got if isinstance(got, (tuple, list)) else (got,))])


def measure(peer, only, nbytes, small_sizes, end, write):
    for mode in peer.modes:
        for case in cases.CASES + cases.PRODUCTS:
            if only and case.name not in only:
                continue
            about = {"case": case.name, "lib": mode}
            if time.monotonic() > end:
                write({"kind": "skipped", "what": f"{mode}, {case.name}", "why": "out of time"})
                continue
            try:
                function = peer.function(mode, case)
                if function is None:
                    continue
                wrong = disagreement(peer, function, case)
                if wrong:
                    write({"kind": "left out", **about, "why": wrong})
                    continue
                large(peer, case, function, nbytes, about, write)
                if case.name in cases.SMALL_CASES:
                    for n in small_sizes:
                        small(peer, case, function, n, about, write)
            except Exception as error:  # whatever a library raises is what it has to say
                write({"kind": "left out", **about, "why": f"{type(error).__name__}: {str(error)[:200]}"})


def large(peer, case, function, nbytes, about, write):
    elements = nbytes // case.widest()
    sizes = cases.bind(case.sizes, elements)
    inputs = [peer.put(x) for x in INPUTS.arrays(case, sizes)]
    for _ in range(WARM_UP):
        peer.keep(function(*inputs))
    peer.synchronize()
    times = sorted(peer.times(lambda: peer.keep(function(*inputs))))
    ms, traffic = statistics.median(times), case.traffic(sizes)
    write({"kind": "large", **about, "bytes": traffic, "elements": elements, "ms": ms, "least_ms": times[0], "gbs": traffic / ms / 1e6})


def small(peer, case, function, elements, about, write):
    inputs = [peer.put(x) for x in INPUTS.arrays(case, cases.bind(case.sizes, elements))]
    for _ in range(WARM_UP):
        peer.keep(function(*inputs))
    peer.synchronize()
    host, whole = [], []
    for _ in range(REPS):
        start = time.perf_counter()
        for _ in range(CALLS):
            peer.keep(function(*inputs))
        host.append((time.perf_counter() - start) * 1e6 / CALLS)
        peer.synchronize()
        whole.append((time.perf_counter() - start) * 1e6 / CALLS)
    write({"kind": "small", **about, "elements": elements, "host_us": statistics.median(host), "call_us": statistics.median(whole)})


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("peer", choices=PEERS)
    parser.add_argument("--json", required=True)
    parser.add_argument("--bytes", type=int, default=1 << 30, help="bytes of the widest operand of a large case")
    parser.add_argument("--only", default="", help="names of cases, with commas")
    parser.add_argument("--sizes", default=",".join(map(str, cases.SMALL_SIZES)), help="elements of small cases")
    parser.add_argument("--seconds", type=float, default=1e6)
    options = parser.parse_args()
    end = time.monotonic() + options.seconds

    def write(record):
        line = json.dumps(record)
        print(line, flush=True)
        with open(options.json, "a") as file:
            file.write(line + "\n")

    try:
        peer = PEERS[options.peer]()
    except Exception as error:  # a library that is broken is as good as none
        write({"kind": "peer", "peer": options.peer, "missing": f"{type(error).__name__}: {str(error)[:200]}"})
        return 0
    write({"kind": "peer", "peer": options.peer, "version": peer.version()})
    only = [name for name in options.only.split(",") if name]
    small_sizes = [int(n) for n in options.sizes.split(",") if n]
    measure(peer, only, options.bytes, small_sizes, end, write)
    return 0


if __name__ == "__main__":
    sys.exit(main())
