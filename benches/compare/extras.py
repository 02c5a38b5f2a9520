"""What whole cells do not show: the price of a call, of a new expression, of a new process, and of memory.

    python extras.py memory PEER      prints by how many MiB a fused expression of 10,000,000 elements makes the process grow
"""

import functools
import importlib
import math
import os
import pathlib
import random
import re
import statistics
import subprocess
import sys
import time

import numpy as np

import cases
import measure
import peers


def overhead(names, effort):
    """Seconds of one call of `2*a + 3*b**2` on 10 elements, in each of the ways that a peer offers."""
    case = cases.case("axpb2")
    inputs = case.inputs(np.random.default_rng(1), 10, "float64")
    like = inputs["a"] * 0
    forms = {}
    for name in names:
        peer = peers.PEERS[name](1)
        if name == "numfuse":
            forms["numfuse, `evaluate`"] = functools.partial(peer.numfuse.evaluate, case.text, inputs, threads=1)
        if name == "numexpr":
            evaluate = functools.partial(peer.numexpr.evaluate, case.text, inputs)
            forms["numexpr, `evaluate`"] = evaluate
            evaluate()
            # It repeats the last `evaluate` of the thread: here always that one.
            forms["numexpr, `re_evaluate`"] = functools.partial(peer.numexpr.re_evaluate, inputs)
        form = {"numfuse": "compiled", "numexpr": "`NumExpr` object", "jax": "`jit`", "numba": "`njit`"}.get(name, "")
        for mode, reuse in (("", False), ("`out` given", True)):
            function = peer.prepare(case, inputs, like, reuse)
            if function is not None:
                forms[", ".join(part for part in (name, form, mode) if part)] = function
    for function in forms.values():
        function()
    timings = measure.interleaved(forms, effort)
    return [{"form": form, "seconds": timing.median} for form, timing in timings.items()]


def new_expression(seed):
    """An expression of ten operations that nobody has seen before, in words that all peers know."""
    rng = random.Random(seed)
    text = "a"
    for i in range(10):
        leaf = rng.choice(("a", "b", f"{rng.randint(1, 999) / 64}"))
        text = rng.choice(
            (f"({text} + {leaf})", f"({text} * {leaf})", f"({leaf} - {text})", f"sin({text})", f"exp(-abs({text}))")
        )
    return f"{text} + {seed} * b"


def first_results(names, effort):
    """Seconds from a text to its first result on 1,000 elements, in a process that has done other texts before."""
    rng = np.random.default_rng(1)
    values = {"a": rng.random(1000), "b": rng.random(1000)}

    def with_numpy(text):
        return eval(text, {"sin": np.sin, "exp": np.exp, "abs": np.abs, **values})

    def with_numba(text):
        import numba

        scope = {"sin": math.sin, "exp": math.exp, "abs": abs}
        element = re.sub(r"\b([ab])\b", r"\1[i]", text)
        exec(f"def loop(a, b, out):\n    for i in range(out.shape[0]):\n        out[i] = {element}\n", scope)
        out = np.empty(1000)
        numba.njit(scope["loop"], error_model="numpy")(values["a"], values["b"], out)
        return out

    def with_jax(text):
        import jax

        scope = {"sin": jax.numpy.sin, "exp": jax.numpy.exp, "abs": jax.numpy.abs}
        return jax.jit(eval(f"lambda a, b: {text}", scope))(values["a"], values["b"]).block_until_ready()

    ways = {"numpy": with_numpy, "numba": with_numba, "jax": with_jax}
    for name in ("numfuse", "numexpr", "blosc2"):
        if name in names:
            module = importlib.import_module(name)
            ways[name] = lambda text, module=module: module.evaluate(text, dict(values))
    results = []
    for name in names:
        if name not in ways:
            continue
        times = []
        start = time.perf_counter()
        for seed in range(1, 32):
            text = new_expression(seed)
            before = time.perf_counter()
            found = ways[name](text)
            # The first expression pays for what the peer loads lazily.
            if seed > 1:
                times.append(time.perf_counter() - before)
            assert np.allclose(np.asarray(found), with_numpy(text)), (name, text)
            if seed > 5 and time.perf_counter() - start > 100 * effort.enough:
                break
        results.append({"peer": name, "seconds": statistics.median(times), "expressions": len(times)})
    return results


# A whole program each: two arrays, one expression, one result.
PROGRAMS = {
    "numpy": "print((2*a + 3*b**2)[-1])",
    "numfuse": "import numfuse; print(numfuse.evaluate('2*a + 3*b**2')[-1])",
    "numexpr": "import numexpr; print(numexpr.evaluate('2*a + 3*b**2')[-1])",
    "numba": """
import numba
@numba.njit
def f(a, b, out):
    for i in range(out.shape[0]):
        out[i] = 2.0*a[i] + 3.0*(b[i]*b[i])
o = np.empty_like(a)
f(a, b, o)
print(o[-1])""",
    "jax": "import jax; jax.config.update('jax_enable_x64', True); print(jax.jit(lambda a, b: 2*a + 3*b**2)(a, b)[-1])",
    "dask": "import dask.array as da; a, b = da.from_array(a), da.from_array(b); print((2*a + 3*b**2).compute()[-1])",
    "blosc2": "import blosc2; print(blosc2.evaluate('2*a + 3*b**2')[-1])",
}


def programs(names, rounds):
    """Seconds from the start of the interpreter to its end, for a program that prints one result."""
    times = {name: [] for name in PROGRAMS if name in names}
    for _ in range(rounds):
        for name in times:
            text = f"import numpy as np; a = np.arange(1000.0); b = a/7\n{PROGRAMS[name]}"
            start = time.perf_counter()
            subprocess.run([sys.executable, "-c", text], check=True, stdout=subprocess.DEVNULL)
            times[name].append(time.perf_counter() - start)
    return [{"peer": name, "seconds": statistics.median(taken)} for name, taken in times.items()]


def memory(names, environment):
    """MiB by which each peer's process grows at most during one call; the result itself has 76."""
    results = []
    for name in names:
        if name in ("scipy", "numba-parallel"):
            continue
        command = [sys.executable, __file__, "memory", name]
        run = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
        results.append({"peer": name, "mib": float(run.stdout)})
    return results


def growth(name):
    """Of this process, in one call."""
    peer = peers.PEERS[name](len(os.sched_getaffinity(0)))
    case = cases.case("damped")
    rng = np.random.default_rng(1)
    # What is compiled and loaded once is not what is asked for here.
    small = case.inputs(rng, 1_000_000, "float64")
    function = peer.prepare(case, small, small["a"], False)
    function()
    inputs = case.inputs(rng, 10_000_000, "float64")
    function = peer.prepare(case, inputs, inputs["a"], False)
    if name == "jax":
        # It compiles for each shape anew.
        values = [peer.jax.device_put(value) for value in inputs.values()]
        compiled = peer.jax.jit(lambda a, b: case.reference(peer.jax.numpy, a, b)).lower(*values).compile()
        function = lambda: compiled(*values).block_until_ready()
    status = pathlib.Path("/proc/self/status")
    # Writing 5 there makes the peak start anew.
    pathlib.Path("/proc/self/clear_refs").write_text("5")
    before = status.read_text().split("VmRSS:")[1].split()[0]
    result = function()
    peak = status.read_text().split("VmHWM:")[1].split()[0]
    del result
    return (int(peak) - int(before)) / 1024


if __name__ == "__main__":
    if sys.argv[1:2] == ["memory"]:
        print(growth(sys.argv[2]))
    else:
        raise SystemExit(__doc__)
