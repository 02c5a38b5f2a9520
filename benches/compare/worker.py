"""One process's share of a comparison: every cell with so many threads. `run.py` starts it with affinity and environment set.

    python worker.py TASK.json RESULT.json

A cell is a case, a size and a dtype. Before anything is timed, every competitor's result is held against the formula in float64; who is
further off than TOLERANCE is named and left out of that cell.
"""

import json
import os
import sys
import warnings
from dataclasses import asdict

import numpy as np

import cases
import extras
import machine
import measure
import peers

# The largest error, relative to the element and to the mean of all, that still is the same result. Sums in float32 are allowed what
# adding one by one loses (numexpr does).
TOLERANCE = {
    ("float64", False): 1e-12,
    ("float64", True): 1e-9,
    ("float32", False): 2e-5,
    ("float32", True): 2e-3,
    ("int16", False): 0.0,
}


def main(task_path, result_path):
    with open(task_path) as file:
        task = json.load(file)
    warnings.simplefilter("ignore")
    np.seterr(all="ignore")
    threads = task["threads"]
    # What spins on the only core is the one whose turn it is. On several, libgomp's threads spin for 4 to 8 ms:
    # no rest is longer than this.
    effort = measure.Effort(**task["effort"], rest=0.012 if threads > 1 else 0.0)
    competitors = {name: peers.PEERS[name](threads) for name in task["peers"]}
    plan = [
        (each, n, dtype)
        for each in map(cases.case, task["cases"])
        for dtype in each.dtypes
        if dtype in task["dtypes"] or dtype not in cases.FLOATS
        for n in each.sizes
        if n in task["sizes"] or each.sizes != cases.SIZES and n <= task["largest"]
    ]
    progress = measure.Progress(
        f"{threads} thread{'s' if threads > 1 else ''}", sum(cost(n) for _, n, _ in plan) + 1e-9
    )
    result = {"threads": threads, "stream": machine.stream(threads), "cells": []}
    for each, n, dtype in plan:
        progress.step(0, f"{each.name} {n:.0e} {dtype}")
        result["cells"].append(cell(each, n, dtype, competitors, effort, progress))
        progress.step(cost(n), "")
    if threads == 1:
        result["overhead"] = extras.overhead(task["peers"], effort)
        result["first"] = extras.first_results(task["peers"], effort)
    with open(result_path, "w") as file:
        json.dump(result, file)


def cost(n):
    """How long a cell of that size takes, in the progress bar's own unit."""
    return 1.0 + n / 1e6


def cell(case, n, dtype, competitors, effort, progress):
    """Checks and times one cell."""
    record = {"case": case.name, "n": n, "dtype": dtype, "operations": case.operations, "results": {}}
    needed = n * np.dtype(dtype).itemsize * 16
    if needed > machine.memory_available():
        progress.say(f"left out: {case.name} {n:.0e} {dtype} needs {needed >> 20} MiB of memory")
        return record | {"bytes": None}
    inputs = case.inputs(np.random.default_rng(20261122), n, dtype)
    like = np.asarray(peers.formula(case)(**inputs))
    record["bytes"] = sum(value.nbytes for value in inputs.values()) + like.nbytes
    wide = {name: value.astype(np.float64) if dtype in cases.FLOATS else value for name, value in inputs.items()}
    truth = np.asarray(peers.formula(case)(**wide))
    del wide
    modes = {}
    for name, peer in competitors.items():
        for mode, reuse in (("fresh", False), ("reused", True)):
            key = f"{name}/{mode}"
            try:
                function = peer.prepare(case, inputs, like, reuse)
                if function is None:
                    continue
                error = distance(np.asarray(function()), truth)
            except Exception as failure:
                note = f"failed: {type(failure).__name__}: {failure}".splitlines()[0][:200]
                record["results"][key] = {"note": note}
                progress.say(f"LEFT OUT: {key} in {case.name} {n:.0e} {dtype} {note}")
                continue
            if not error <= TOLERANCE[dtype, case.scalar]:
                note = f"disagrees with the formula in float64: relative error {error:.1e}"
                record["results"][key] = {"note": note}
                progress.say(f"LEFT OUT: {key} in {case.name} {n:.0e} {dtype} {note}")
                continue
            modes[key] = function
    del truth
    for key, timing in measure.interleaved(modes, effort).items():
        if isinstance(timing, measure.TooSlow):
            record["results"][key] = {"note": f"not timed: one call takes {measure.duration(timing.args[0])}"}
        else:
            record["results"][key] = asdict(timing)
    return record


def distance(found, truth):
    """The largest error, relative to the element and to the mean of all; infinite if shapes or NaNs differ."""
    if found.shape != truth.shape:
        return float("inf")
    scale = float(np.mean(np.abs(truth), dtype=np.float64))
    worst = 0.0
    step = 1 << 20
    found, truth = found.reshape(-1), truth.reshape(-1)
    for i in range(0, truth.size, step):
        got, want = found[i : i + step].astype(np.float64), truth[i : i + step]
        if not np.array_equal(np.isnan(got), np.isnan(want)):
            return float("inf")
        error = np.abs(got - want) / (np.abs(want) + scale + 1e-300)
        worst = max(worst, float(np.nanmax(error, initial=0.0)))
    return worst


if __name__ == "__main__":
    main(*sys.argv[1:])
    # JAX and Dask have threads that wait for nothing.
    sys.stdout.flush()
    os._exit(0)
