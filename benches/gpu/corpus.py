"""The corpus on a device: every file of `tests/corpus/run` through numfuse's command, each result bit for bit what the file shows,
save for products of matrices of floats: those are a library's, and held to the bound of docs/semantics.md.

    python3 corpus.py NUMFUSE [--device cuda:0] [--seconds S] [--limit N] --json FILE

Only NaNs of any sign and payload are equal. Files whose kernels a device does not take, which the command says, count apart. Needs NumPy.
"""

import argparse
import ast
import concurrent.futures
import json
import pathlib
import subprocess
import sys
import tempfile
import time

import numpy as np

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT / "scripts"))
import corpus_oracle  # noqa: E402: its folder is known only now
from bounds import Bounded, equal, within  # noqa: E402

# Those of the language that the corpus has next to products, for `Bounded` arrays; others are NumPy's as they are.
FUNCTIONS = {name: lambda x, y: x @ y for name in ("dot", "matmul")}
FUNCTIONS |= {name: lambda x, dtype=dtype: x.astype(dtype) for name, dtype in corpus_oracle.DTYPES.items()}


def is_product(program):
    """True if a program has products of matrices or vectors."""
    nodes = list(ast.walk(ast.parse(program)))
    names = {node.id for node in nodes if isinstance(node, ast.Name)}
    return bool(names & {"dot", "matmul"}) or any(isinstance(node, ast.MatMult) for node in nodes)


def bounds(test):
    """How far each result may be from what a file with products shows."""
    inputs = dict(corpus_oracle.read_input(line, {}) for line in test["inputs"])
    # Plain numbers are weak.
    inputs = {name: Bounded(x) if isinstance(x, np.ndarray) else x for name, x in inputs.items()}
    with np.errstate(invalid="ignore"):
        return [result.error for result in corpus_oracle.evaluate(test["program"], FUNCTIONS | inputs)]


def run(command, device, path):
    """What is wrong with a file's results; an empty text if nothing is, and None if a device does not take it."""
    test = corpus_oracle.read_test(path)
    want = [corpus_oracle.read_result(line) for line in test["sections"]["run"].splitlines()]
    errors = bounds(test) if is_product(test["program"]) else None
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        words = [command, "eval", "--device", device]
        inputs = []
        for line in test["inputs"]:
            name, array = corpus_oracle.read_input(line, {})
            if isinstance(array, np.ndarray) and not line.split("=")[0].strip().endswith(" weak"):
                np.save(folder / f"{name}.npy", array)
                inputs.append(f"{name}={folder / name}.npy")
            else:
                number = np.asarray(array).item()
                inputs.append(f"{name}={str(number).lower() if isinstance(number, bool) else repr(number)}")
        for n in range(len(want)):
            words += ["-o", str(folder / f"result{n}.npy")]
        process = subprocess.run([*words, "--", test["program"], *inputs], capture_output=True, text=True, timeout=120)
        if "[E0604]" in process.stderr:
            return None
        if process.returncode:
            return (process.stderr.strip() or f"exit status {process.returncode}")[:500]
        for n, one in enumerate(want):
            found = np.load(folder / f"result{n}.npy")
            if not (equal(found, one) if errors is None else within(found, one, errors[n])):
                return f"result {n}: {corpus_oracle.show(found)[:200]} instead of {corpus_oracle.show(one)[:200]}"
    return ""


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", help="numfuse's command")
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("--seconds", type=float, default=1e6)
    parser.add_argument("--limit", type=int, help="only so many files")
    parser.add_argument("--workers", type=int, default=8)
    parser.add_argument("--json", required=True)
    options = parser.parse_args()
    files = sorted((ROOT / "tests" / "corpus" / "run").glob("*.test"))[: options.limit]
    start = time.monotonic()
    failures, refused, done = {}, [], 0

    def one(path):
        if time.monotonic() - start > options.seconds:
            return "late"
        try:
            return run(options.command, options.device, path)
        except Exception as error:  # a file that cannot be tried is a failure of that file
            return f"{type(error).__name__}: {error}"

    with concurrent.futures.ThreadPoolExecutor(options.workers) as workers:
        for path, wrong in zip(files, workers.map(one, files)):
            if wrong == "late":
                continue
            done += 1
            if wrong is None:
                refused.append(path.stem)
                print(f"NOT ON A DEVICE: {path.stem}", flush=True)
            elif wrong:
                failures[path.stem] = wrong
                print(f"FAILED: {path.stem}: {wrong}", flush=True)
    record = {
        "kind": "check", "samples": "corpus", "done": done - len(refused), "failed": len(failures), "failures": ", ".join(failures),
        "refused": ", ".join(refused), "kernels": 0, "ended": "all" if done == len(files) else "out of time", "seconds": time.monotonic() - start,
    }
    with open(options.json, "a") as file:
        file.write(json.dumps(record) + "\n")
    print(json.dumps(record))
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
