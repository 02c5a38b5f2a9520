"""The machine: what it is, and what it can do at most (STREAM's loops, and a chain of products and sums in registers)."""

import os
import pathlib
import platform
import subprocess

import numpy as np

import measure


def hardware():
    """CPU, caches, memory, system."""
    info = {"system": platform.platform(), "python": platform.python_version(), "cpus": len(os.sched_getaffinity(0))}
    for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines():
        key, _, value = line.partition(":")
        if key.strip() == "model name":
            info["cpu"] = value.strip()
        elif key.strip() == "flags":
            info["flags"] = value.strip()
    caches = []
    for index in sorted(pathlib.Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")):
        level, kind, size = ((index / name).read_text().strip() for name in ("level", "type", "size"))
        if kind != "Instruction":
            caches.append(f"L{level} {size}")
    info["caches"] = caches
    total = pathlib.Path("/proc/meminfo").read_text().split("MemTotal:")[1].split()[0]
    info["memory_gib"] = round(int(total) / (1 << 20), 1)
    return info


def memory_available():
    """Bytes that programs can still have."""
    return int(pathlib.Path("/proc/meminfo").read_text().split("MemAvailable:")[1].split()[0]) * 1024


def commit(root):
    """The commit, with a `+` if files differ from it."""
    git = ["git", "-C", str(root)]
    try:
        name = subprocess.run([*git, "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True, check=True)
        changed = subprocess.run([*git, "status", "--porcelain", "-uno"], capture_output=True, text=True, check=True)
        return name.stdout.strip() + ("+" if changed.stdout.strip() else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def stream(threads):
    """Bytes per second of copy, triad and read on arrays of 256 MiB, and operations per second on numbers in registers."""
    import numba
    from numba import prange

    options = {"parallel": threads > 1, "error_model": "numpy"}

    def copy(a, b):
        for i in prange(a.shape[0]):
            b[i] = a[i]

    def triad(a, b, c):
        for i in prange(a.shape[0]):
            c[i] = a[i] + 3.0 * b[i]

    # Of integers, since a sum of floats has one order, which keeps it from being vectorised.
    def read(a):
        total = 0
        for i in prange(a.shape[0]):
            total += a[i]
        return total

    # Short chains, of many elements at a time: each product and sum waits for the one before.
    def arithmetic(a, repeats):
        for part in prange(a.shape[0]):
            for _ in range(repeats):
                for i in range(a.shape[1]):
                    v = a[part, i]
                    v = v * 0.999 + 0.001
                    v = v * 0.999 + 0.001
                    v = v * 0.999 + 0.001
                    a[part, i] = v * 0.999 + 0.001

    n = 1 << 25
    a, b, c = (np.full(n, value) for value in (1.0, 2.0, 0.0))
    block, repeats = np.ones((threads, 1024)), 5000
    compiled = {f.__name__: numba.njit(f, **options) for f in (copy, triad, read, arithmetic)}
    runs = {
        "copy": lambda: compiled["copy"](a, c),
        "triad": lambda: compiled["triad"](a, b, c),
        "read": lambda: compiled["read"](a.view(np.int64)),
        "arithmetic": lambda: compiled["arithmetic"](block, repeats),
    }
    for run in runs.values():
        run()
    work = {"copy": 2 * a.nbytes, "triad": 3 * a.nbytes, "read": a.nbytes, "arithmetic": 8 * block.size * repeats}
    timings = measure.interleaved(runs, measure.Effort(rounds=7, enough=0.2))
    return {name: work[name] / timing.best for name, timing in timings.items()}
