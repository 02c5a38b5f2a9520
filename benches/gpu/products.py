"""Products of matrices, with what is fused into them, in numfuse: held against NumPy's within the bound of docs/semantics.md, then timed.

    python3 products.py DEVICE_CALLS --json FILE [--bytes N] [--only a,b] [--seconds S]

DEVICE_CALLS is crates/numfuse/examples/device_calls.rs. Each case runs as it would for a user, and, as `numfuse-own`, without cuBLAS, so that
all that can be is fused into our own kernel. A case whose result is wrong is not in the records, and the exit status is 1. Needs NumPy.
"""

import argparse
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time

import numpy as np

import bounds
import cases
import peers

MODES = {"numfuse": {}, "numfuse-own": {"NUMFUSE_CUBLAS": "0"}}


def request(case, folder, nbytes, compared):
    """What device_calls has to do for a case."""
    arrays = dict(zip(case.inputs, peers.INPUTS.arrays(case, cases.bind(case.sizes, compared))))
    for name, array in arrays.items():
        np.save(folder / f"{case.name}-{name}.npy", array)
    sizes = cases.bind(case.sizes, nbytes // case.widest())
    return {
        "name": case.name, "text": case.text, "result": str(folder / f"{case.name}.npy"),
        "compared": {name: str(folder / f"{case.name}-{name}.npy") for name in arrays},
        "timed": {name: [dtype, list(case.shape(dims, sizes))] for name, (dtype, dims) in case.inputs.items()},
    }


def failed(case, folder, compared):
    """What is wrong with the result of a case; an empty text if nothing is."""
    result = folder / f"{case.name}.npy"
    if not result.exists():
        return ""
    got = np.load(result)
    result.unlink()
    return bounds.disagreement(case, peers.INPUTS.arrays(case, cases.bind(case.sizes, compared)), got)


def measure(program, chosen, options, write):
    """Runs all cases in all modes; the names of those whose results are wrong."""
    wrong = []
    end = time.monotonic() + options.seconds
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        file, records = folder / "products.json", folder / "records.json"
        file.write_text(json.dumps([request(case, folder, options.bytes, options.compared) for case in chosen]))
        for lib, variables in MODES.items():
            records.write_text("")
            seconds = max(end - time.monotonic(), 0) / (2 if lib == "numfuse" else 1)
            command = [program, "products", str(file), "--lib", lib, "--json", str(records), "--reps", str(options.reps), "--seconds", str(seconds)]
            code = subprocess.run(command, env=os.environ | variables).returncode
            if code:
                wrong.append(f"{lib}: exit status {code}")
            reasons = {case.name: failed(case, folder, options.compared) for case in chosen}
            for line in records.read_text().splitlines():
                record = json.loads(line)
                case = cases.case(record["case"])
                if reasons[case.name]:
                    continue
                if record["kind"] == "large":
                    elements = options.bytes // case.widest()
                    traffic = case.traffic(cases.bind(case.sizes, elements))
                    record |= {"elements": elements, "bytes": traffic, "gbs": traffic / record["ms"] / 1e6}
                write(record)
            for name, why in reasons.items():
                if why:
                    wrong.append(f"{lib}: {name} {why}")
                    write({"kind": "left out", "case": name, "lib": lib, "why": why})
    return wrong


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program", help="device_calls")
    parser.add_argument("--json", required=True)
    parser.add_argument("--bytes", type=int, default=1 << 30, help="bytes of the widest operand that sizes go up to")
    parser.add_argument("--compared", type=int, default=peers.COMPARED, help="elements that results are compared on")
    parser.add_argument("--only", default="", help="names of cases, with commas")
    parser.add_argument("--reps", type=int, default=peers.REPS)
    parser.add_argument("--seconds", type=float, default=1e6)
    options = parser.parse_args(arguments)
    only = [name for name in options.only.split(",") if name]

    def write(record):
        line = json.dumps(record)
        print(line, flush=True)
        with open(options.json, "a") as file:
            file.write(line + "\n")

    wrong = measure(options.program, [case for case in cases.PRODUCTS if not only or case.name in only], options, write)
    for what in wrong:
        print(f"WRONG: {what}", flush=True)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
