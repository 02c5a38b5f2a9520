"""numfuse against NumPy, numexpr, Numba, JAX, Dask and Blosc2: one command.

    python3 benches/compare/run.py --quick            a few cases, some minutes
    python3 benches/compare/run.py --full --record    everything; results go to docs/benchmarks.md and docs/plots
    python3 benches/compare/run.py --case exp --case sin --peers numfuse,numpy --best

It starts with the standard library alone: it makes its own environment in target/compare, installs the peers of requirements.txt there,
builds numfuse's wheel, and runs itself in it. Each number of threads has a process of its own, with affinity and environment set before
any peer is imported. Results: target/compare/result.json, pictures next to it; `--report FILE` makes the tables of one again.
"""

import argparse
import datetime
import hashlib
import json
import os
import pathlib
import subprocess
import sys
import venv

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
WORK = ROOT / "target" / "compare"
PYTHON = WORK / "venv" / "bin" / "python"

FULL = {"rounds": 5, "enough": 0.05, "sample": 0.002, "limit": 8.0}
QUICK = {"rounds": 5, "enough": 0.02, "sample": 0.001, "limit": 1.0}
EVERYONE = ["numfuse", "numpy", "numexpr", "numba", "numba-parallel", "jax", "dask", "blosc2", "scipy"]


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--quick", action="store_true", help="some cases, three sizes, float64 (the default)")
    size.add_argument("--full", action="store_true", help="all cases, sizes and dtypes")
    parser.add_argument("--case", action="append", metavar="NAME", help="only this case; may be repeated")
    parser.add_argument("--size", action="append", type=float, metavar="N", help="only this size; may be repeated")
    parser.add_argument("--dtype", action="append", choices=["float64", "float32"], help="only this dtype")
    parser.add_argument("--threads", action="append", type=int, metavar="N", help="only so many threads; may be repeated")
    parser.add_argument("--peers", help="names with commas between; default: all")
    parser.add_argument("--wheel", type=pathlib.Path, help="measure this wheel of numfuse instead of building one")
    parser.add_argument("--record", action="store_true", help="write docs/benchmarks.md, docs/plots and result.json here")
    parser.add_argument("--report", type=pathlib.Path, metavar="FILE", help="measure nothing, show this result")
    parser.add_argument("--best", action="store_true", help="show the quickest rounds, not the medians: for busy machines")
    return parser.parse_args()


def main():
    options = arguments()
    options.peers = options.peers.split(",") if options.peers else list(EVERYONE)
    if options.record and not (options.full or options.report):
        raise SystemExit("--record goes with --full (or --report): the documents show all cases")
    if options.record and options.best:
        raise SystemExit("--record shows medians")
    unknown = set(options.peers) - set(EVERYONE)
    if unknown:
        raise SystemExit(f"unknown peers {', '.join(sorted(unknown))}; there are {', '.join(EVERYONE)}")
    if pathlib.Path(sys.prefix).resolve() != PYTHON.parent.parent.resolve():
        prepare(options)
        os.execv(PYTHON, [str(PYTHON), *sys.argv])
    if options.report:
        result = json.loads(options.report.read_text())
    else:
        result = measured(options)
        WORK.mkdir(parents=True, exist_ok=True)
        (WORK / "result.json").write_text(json.dumps(result, indent=1))
    if options.best:
        for cell in result["cells"]:
            for timing in cell["results"].values():
                if "best" in timing:
                    timing["median"] = timing["best"]
    show(result, options.record)


def prepare(options):
    """The environment: made once for each requirements.txt; the wheel is built each time, which is quick if nothing changed."""
    requirements = HERE / "requirements.txt"
    stamp = WORK / "installed"
    wanted = hashlib.sha256(requirements.read_bytes()).hexdigest()
    if not PYTHON.exists() or not stamp.exists() or stamp.read_text() != wanted:
        if sys.version_info < (3, 11):
            raise SystemExit("the peers need Python 3.11 or newer")
        say("installing the peers in target/compare/venv")
        venv.create(WORK / "venv", with_pip=True, clear=True)
        pip("install", "--upgrade", "pip")
        pip("install", "-r", str(requirements))
        stamp.write_text(wanted)
    if "numfuse" in options.peers and not options.report:
        install_numfuse(options.wheel)


def install_numfuse(wheel):
    """Builds the wheel from this tree, if none is given, and installs it."""
    if wheel is None:
        manifest = ROOT / "crates" / "python" / "Cargo.toml"
        if not manifest.exists():
            raise SystemExit(f"{manifest} does not exist: give --wheel, or leave numfuse out of --peers")
        say("building numfuse's wheel")
        wheels = WORK / "wheels"
        for old in wheels.glob("numfuse-*.whl"):
            old.unlink()
        build = [str(PYTHON), "-m", "maturin", "build", "--release", "--compatibility", "linux"]
        checked([*build, "--manifest-path", str(manifest), "--interpreter", str(PYTHON), "--out", str(wheels)])
        (wheel,) = wheels.glob("numfuse-*.whl")
    pip("install", "--force-reinstall", "--no-deps", str(wheel))


def pip(*words):
    checked([str(PYTHON), "-m", "pip", "--quiet", "--disable-pip-version-check", *words])


def checked(command):
    if subprocess.run(command).returncode:
        raise SystemExit(f"failed: {' '.join(command)}")


def say(text):
    print(f"=== {text}", file=sys.stderr, flush=True)


def measured(options):
    """Runs a worker for each number of threads, and what needs processes of its own."""
    import cases
    import extras
    import machine
    import peers

    effort = FULL if options.full else QUICK
    cpus = sorted(os.sched_getaffinity(0))
    threads = options.threads or sorted({1, len(cpus)})
    if any(count < 1 or count > len(cpus) for count in threads):
        raise SystemExit(f"this process may use {len(cpus)} CPUs: --threads has to be 1 to {len(cpus)}")
    sizes = options.size or (cases.SIZES if options.full else (10, 10_000, 1_000_000))
    chosen = [cases.case(name) for name in options.case or ()]
    chosen = chosen or [each for each in cases.CASES if options.full or each.quick]
    names = options.peers
    if not options.full and len(names) == len(EVERYONE):
        names = [name for name in names if name not in ("dask", "blosc2", "scipy")]
    load = os.getloadavg()[0]
    if load > 0.5:
        say(f"the load is {load:.2f}: other programs are running, and what comes out is not to be relied upon")
    versions = ["numfuse", *(name for name in EVERYONE if name != "numfuse")]
    result = {
        "date": datetime.date.today().isoformat(),
        "commit": machine.commit(ROOT),
        "full": options.full,
        "load": load,
        "hardware": machine.hardware(),
        "versions": {name: version for name, version in peers.versions(versions).items() if version},
        "cells": [],
        "stream": {},
    }
    task = {
        "cases": [each.name for each in chosen],
        "sizes": [int(size) for size in sizes],
        "largest": max(cases.CHANNELS) if options.full and not options.size else int(max(sizes)),
        "dtypes": options.dtype or (list(cases.FLOATS) if options.full else ["float64"]),
        "peers": names,
        "effort": effort,
    }
    for count in threads:
        part = worker(task | {"threads": count}, cpus[-count:])
        result["stream"][str(count)] = part["stream"]
        result["cells"] += [cell | {"threads": count} for cell in part["cells"]]
        for key in ("overhead", "first"):
            if key in part:
                result[key] = part[key]
    if not options.case:
        say("whole processes, memory")
        result["programs"] = extras.programs(names, 5 if options.full else 3)
        environment = os.environ | peers.environment(len(cpus), WORK)
        result["memory"] = extras.memory(names, environment)
    return result


def worker(task, cpus):
    """Runs worker.py on these CPUs."""
    import peers

    paths = [WORK / "task.json", WORK / "part.json"]
    paths[0].write_text(json.dumps(task))
    paths[1].unlink(missing_ok=True)
    environment = os.environ | peers.environment(task["threads"], WORK)
    process = subprocess.Popen(
        [sys.executable, str(HERE / "worker.py"), *map(str, paths)],
        env=environment,
        preexec_fn=lambda: os.sched_setaffinity(0, cpus),
    )
    if process.wait() or not paths[1].exists():
        raise SystemExit(f"the process for {task['threads']} threads ended with {process.returncode}")
    return json.loads(paths[1].read_text())


def show(result, record):
    """Prints the tables; draws the pictures; with `record` puts both where readers find them."""
    import report

    print(report.terminal(result))
    folder = ROOT / "docs" / "plots" if record else WORK / "plots"
    pictures = report.plots(result, folder)
    if record:
        document = ROOT / "docs" / "benchmarks.md"
        document.write_text(report.inserted(document.read_text(), report.markdown(result, pictures)))
        (HERE / "result.json").write_text(json.dumps(result, indent=1) + "\n")
    say(f"pictures are in {folder}, all numbers in {HERE if record else WORK}/result.json")


if __name__ == "__main__":
    main()
