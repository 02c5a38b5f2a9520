"""The competitors: one class each, which knows how its own users would run a case.

`prepare(case, inputs, like, reuse)` gives a function without arguments that computes the case and returns the result, or None where the
peer cannot say it. Whatever can be done before the call is done here: parsing, tracing, compiling, moving inputs to where the peer wants
them. With `reuse` the result goes to an array that was there before; without, each call makes a new one. `like` is an array (or number)
of the result's shape and dtype. `threads` is how many threads the process may use; its affinity and environment say the same.

To add a peer: add a class and its row in PEERS.
"""

import functools
import importlib
import importlib.metadata
import pathlib
import re
import types

import numpy as np

import tape


class NumPy:
    """The formula as it stands; with reuse, all of its temporaries in arrays that were there before (see `tape.py`)."""

    def __init__(self, threads):
        pass

    def prepare(self, case, inputs, like, reuse):
        function = formula(case)
        if reuse:
            return None if case.numpy or case.scalar else tape.record(function, inputs)
        return functools.partial(function, **inputs)


class Numfuse:
    """A compiled expression."""

    def __init__(self, threads):
        self.numfuse = importlib.import_module("numfuse")
        self.threads = threads

    def prepare(self, case, inputs, like, reuse):
        kernel = self.numfuse.compile(case.text, threads=self.threads)
        if reuse:
            return None if case.scalar else functools.partial(kernel, **inputs, out=np.empty_like(like))
        return functools.partial(kernel, **inputs)


class NumExpr:
    """A NumExpr object where one text says the case: quicker than `evaluate`, which looks it up at each call."""

    # As numexpr names the dtypes of a signature: `float` is its word for float32.
    KINDS = {"float64": np.float64, "float32": float, "int16": np.int32}

    def __init__(self, threads):
        self.numexpr = importlib.import_module("numexpr")
        self.numexpr.set_num_threads(threads)

    def prepare(self, case, inputs, like, reuse):
        form = case.numexpr or case.text
        if callable(form):
            return None if reuse else functools.partial(form, self.numexpr.evaluate, np, **inputs)
        dtype = next(iter(inputs.values())).dtype
        text, constants = form, {}
        if dtype == np.float32:
            text, constants = self.single(form)
        values = {**inputs, **constants}
        names = self.names(text, values)
        signature = [(name, self.KINDS[values[name].dtype.name]) for name in names]
        function = functools.partial(
            self.numexpr.NumExpr(text, signature=signature), *(values[name] for name in names), ex_uses_vml=False
        )
        if reuse:
            return None if case.scalar else functools.partial(function, out=np.empty_like(function()))
        return function

    def names(self, text, values):
        """The inputs that the text mentions."""
        words = set(re.findall(r"[A-Za-z_]\w*", text))
        return [name for name in values if name in words]

    @staticmethod
    def single(text):
        """Floats in the text become float32 numbers with names: as literals they would make everything float64."""
        constants = {}

        def name(match):
            constants[f"c{len(constants)}"] = np.float32(match.group())
            return f"c{len(constants) - 1}"

        return re.sub(r"(?<![\w.])(\d+\.\d*(?:[eE][-+]?\d+)?|\d+[eE][-+]?\d+)", name, text), constants


class Numba:
    """The loop in `loops.py`."""

    parallel = False

    def __init__(self, threads):
        self.numba = importlib.import_module("numba")
        self.numba.set_num_threads(threads)
        self.loops = importlib.import_module("loops")

    def prepare(self, case, inputs, like, reuse):
        kernel = self.kernel(case.name)
        if case.scalar:
            return None if reuse else functools.partial(kernel, *inputs.values())
        if reuse:
            out = np.empty_like(like)

            def call():
                kernel(*inputs.values(), out)
                return out

        else:

            def call():
                out = np.empty(like.shape, like.dtype)
                kernel(*inputs.values(), out)
                return out

        return call

    @functools.lru_cache(maxsize=None)
    def kernel(self, name):
        """The compiled loop. Division is IEEE's, as in NumPy: Python's raises errors, which keeps loops from being vectorised."""
        loop = getattr(self.loops, name)
        loop = types.FunctionType(loop.__code__, loop.__globals__, loop.__name__)
        # Numba's cache on disk goes by this name: without it the parallel loop would be the serial one, found there.
        loop.__qualname__ += "_parallel" if self.parallel else "_serial"
        return self.numba.njit(loop, parallel=self.parallel, cache=True, error_model="numpy")


class NumbaParallel(Numba):
    """The same loop on all threads. A competitor of its own, since it is slower for small arrays, and users have to choose."""

    parallel = True

    def __init__(self, threads):
        super().__init__(threads)
        self.threads = threads

    def prepare(self, case, inputs, like, reuse):
        return super().prepare(case, inputs, like, reuse) if self.threads > 1 else None


class Jax:
    """The formula under `jit`, on arrays that are on the device already. It has no outputs to reuse."""

    def __init__(self, threads):
        self.jax = importlib.import_module("jax")

    def prepare(self, case, inputs, like, reuse):
        if reuse:
            return None
        values = [self.jax.device_put(value) for value in inputs.values()]
        # Positional arguments are what its quick path takes.
        function = self.jax.jit(lambda *values: case.reference(self.jax.numpy, **dict(zip(inputs, values))))
        return lambda: function(*values).block_until_ready()


class Dask:
    """The formula on chunked arrays; the graph is made before. Only for large arrays: each task costs more than a small one takes."""

    def __init__(self, threads):
        self.array = importlib.import_module("dask.array")
        self.threads = threads

    def prepare(self, case, inputs, like, reuse):
        size = max(value.size for value in inputs.values())
        if reuse or not case.dask or max(size, like.size) < 1_000_000:
            return None
        arrays = {name: self.chunked(value) for name, value in inputs.items()}
        graph = case.reference(self.array, **arrays)
        if self.threads == 1:
            return functools.partial(graph.compute, scheduler="synchronous")
        return functools.partial(graph.compute, scheduler="threads", num_workers=self.threads)

    def chunked(self, value):
        """Some chunks for each thread, along the first axis, of a million elements at most."""
        pieces = max(4 * self.threads, value.size // 1_000_000)
        rows = max(1, -(-value.shape[0] // pieces)) if value.size >= 100_000 else value.shape[0]
        return self.array.from_array(value, chunks=(rows, *value.shape[1:]))


class Blosc2:
    """Its `evaluate`, on NumPy arrays that it does not compress. For large arrays: its overhead is that of dozens of passes."""

    def __init__(self, threads):
        self.blosc2 = importlib.import_module("blosc2")
        self.blosc2.set_nthreads(threads)

    def prepare(self, case, inputs, like, reuse):
        if not case.blosc2 or like.size < 100_000 and not case.scalar or next(iter(inputs.values())).size < 100_000:
            return None
        text = case.numexpr or case.text
        function = functools.partial(self.blosc2.evaluate, text, local_dict=dict(inputs))
        if case.scalar:
            return None if reuse else function
        return functools.partial(function, out=np.empty_like(like)) if reuse else function


class SciPy:
    """`cdist`, where distances are asked for."""

    def __init__(self, threads):
        self.distance = importlib.import_module("scipy.spatial.distance")

    def prepare(self, case, inputs, like, reuse):
        if not case.name.startswith("pairwise"):
            return None
        function = functools.partial(self.distance.cdist, inputs["x"], inputs["y"])
        return functools.partial(function, out=np.empty(like.shape)) if reuse else function


PEERS = {
    "numfuse": Numfuse,
    "numpy": NumPy,
    "numexpr": NumExpr,
    "numba": Numba,
    "numba-parallel": NumbaParallel,
    "jax": Jax,
    "dask": Dask,
    "blosc2": Blosc2,
    "scipy": SciPy,
}


def formula(case):
    """The case in NumPy."""
    return functools.partial(case.numpy or case.reference, np)


def versions(names):
    """What is installed of them."""
    found = {}
    for name in names:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = None
    return found


def environment(threads, cache):
    """The variables that a process with so many threads needs before it imports the peers."""
    count = str(threads)
    return {
        "OMP_NUM_THREADS": count,
        "NUMEXPR_MAX_THREADS": count,
        "NUMEXPR_NUM_THREADS": count,
        "NUMBA_NUM_THREADS": count,
        "NUMBA_CACHE_DIR": str(pathlib.Path(cache) / "numba"),
        "BLOSC_NTHREADS": count,
        "JAX_PLATFORMS": "cpu",
        "JAX_ENABLE_X64": "1",
    }
