"""Everything that a machine with a GPU can tell, in stages, each with a time limit: what `run.sh` of the packed archive does.

    python3 benches/gpu/check.py [--out FOLDER] [--minutes 9.5] [--only STAGE,...] [--small]

`result.json` in the folder is written after each stage, so that it has what is known, however this ends. After `smoke` nothing follows if
that fails. `--small` is for trying this program out: sizes that even a stand-in for a GPU masters; what it measures is worth nothing,
and is marked so. Needs the standard library alone; the peers bring NumPy along.
"""

import argparse
import datetime
import json
import os
import pathlib
import platform
import shutil
import subprocess
import sys
import tempfile
import time

import cases

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
# Samples, how many of them, and the seconds of the stage. Limits are for what goes wrong: all of them together are longer than `--minutes`.
CHECKS = {"rows": (1000, 45), "columns": (600, 35), "graphs": (250, 30), "shapes": (None, 25), "cases": (None, 25)}
PEERS = {"cupy": 45, "jax": 50, "torch": 35, "numba": 35, "torch.compile": 110}
SANITIZERS = {"memcheck": 30, "racecheck": 30}
# Characters of a stage's output that are kept.
LOGGED = 200_000


class Stage:
    """A stage's command and limit."""

    def __init__(self, name, command, seconds):
        self.name, self.command, self.seconds = name, [str(word) for word in command], seconds


def program(name):
    """A Rust program: of the archive, or of a build in this repository."""
    target = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
    places = [ROOT / "bin" / name, *(target / build / name for build in ("release/examples", "release"))]
    # One that is not there is what its stage says.
    return next((place for place in places if place.exists()), places[0])


def stages(options):
    """All stages, in order."""
    check, bench = program("device_check"), program("device_bench")
    case_file, small = HERE / "cases.txt", options.small
    elements = 3000 if small else 1 << 20
    found = [Stage("smoke", [check, "smoke"], 60)]
    for kind, (count, seconds) in CHECKS.items():
        command = [check, "check", kind, "--seconds", seconds - 5, "--elements", elements, "--cases", case_file]
        if count:
            command += ["--count", 5 if small else count]
        found.append(Stage(f"check {kind}", command, seconds))
    found.append(Stage("check huge", [check, "check", "huge"] + (["--bytes", 3_000_000] if small else []), 30))
    command = [sys.executable, HERE / "corpus.py", program("numfuse"), "--seconds", 50]
    found.append(Stage("check corpus", command + (["--limit", 4, "--workers", 1] if small else []), 60))
    for tool, seconds in SANITIZERS.items():
        sanitizer = shutil.which("compute-sanitizer") or newest("/usr/local", "cuda*/bin/compute-sanitizer")
        command = [sanitizer or "compute-sanitizer", "--tool", tool, "--error-exitcode", 9]
        command += [check, "check", "rows", "--count", 3 if small else 40, "--seconds", seconds - 10]
        found.append(Stage(tool, command, seconds))
        command = [*command[:6], "check", "columns", *command[8:]]
        found.append(Stage(f"{tool} columns", command, seconds))
    command = [bench, "--cases", case_file, "--small", ",".join(cases.SMALL_CASES), "--seconds", 80]
    if small:
        command += ["--bytes", 40_000, "--reps", 2, "--sizes", "1000", "--only", "copy,fma,sum,softmax"]
    found.append(Stage("bench", command, 95))
    command = [program("device_calls")]
    found.append(Stage("calls", command + (["--bytes", 400_000, "--reps", 2, "--sizes", 1000] if small else []), 45))
    command = [sys.executable, HERE / "products.py", program("device_calls"), "--seconds", 40]
    if small:
        command += ["--bytes", 4000, "--compared", 3000, "--reps", 1, "--only", "dense,centred-shallow"]
    found.append(Stage("products", command, 50))
    for peer, seconds in {"numpy": 60}.items() if small else PEERS.items():
        command = [sys.executable, HERE / "peers.py", peer, "--seconds", seconds - 10]
        if small:
            command += ["--bytes", 40_000, "--sizes", 1000, "--only", "copy,fma,sum,softmax,dense"]
        elif peer == "torch.compile":
            # It compiles anew for each size, some seconds each time.
            command += ["--sizes", "1000,1000000"]
        found.append(Stage(f"peer {peer}", command, seconds))
    return found


def newest(folder, pattern):
    found = sorted(pathlib.Path(folder).glob(pattern))
    return str(found[-1]) if found else None


def environment():
    """The machine code that came along; NVRTC of this Python, if it has one."""
    variables = dict(os.environ, PYTHONUNBUFFERED="1", PYTHONDONTWRITEBYTECODE="1")
    if (ROOT / "cache").exists():
        variables.setdefault("NUMFUSE_CUDA_CACHE", str(ROOT / "cache"))
    if sys.prefix != "/usr":
        variables.setdefault("VIRTUAL_ENV", sys.prefix)
    return variables


def run(stage, log, variables, seconds):
    """Runs a stage, whose output goes to the end of a file; returns what is to be written about it, and its records."""
    with tempfile.TemporaryDirectory() as folder:
        lines, output = pathlib.Path(folder) / "lines.json", pathlib.Path(folder) / "output"
        command = [*stage.command, "--json", str(lines)]
        start = time.monotonic()
        with open(output, "wb") as file:
            try:
                process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, env=variables, start_new_session=True)
            except OSError as error:
                return {"stage": stage.name, "status": "skipped", "why": str(error)}, []
            try:
                code = process.wait(seconds)
                status = "passed" if code == 0 else "failed"
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, 9)
                process.wait()
                code, status = None, "out of time"
        about = {"stage": stage.name, "status": status, "code": code, "seconds": round(time.monotonic() - start, 1)}
        text = output.read_text(errors="replace")
        with open(log, "a") as file:
            file.write(f"=== {stage.name}: {status}\n{text[-LOGGED:]}\n")
        if status != "passed":
            about["output"] = text[-3000:]
        return about, [dict(record, stage=stage.name) for record in read_lines(lines)]


def read_lines(file):
    """The records of a file; a program that was ended may have left half of one."""
    for line in file.read_text().splitlines() if file.exists() else []:
        try:
            yield json.loads(line)
        except ValueError:
            return


def hardware():
    """What the machine says of itself."""
    found = {"system": platform.platform(), "python": platform.python_version(), "cpus": os.cpu_count()}
    query = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total,clocks.max.sm,clocks.max.memory,power.limit", "--format=csv,noheader"]
    try:
        found["nvidia-smi"] = subprocess.run(query, capture_output=True, text=True, timeout=20).stdout.strip()
    except (OSError, subprocess.TimeoutExpired):
        found["nvidia-smi"] = ""
    return found


def save(result, out):
    part = out / "result.json.part"
    part.write_text(json.dumps(result, indent=1))
    part.replace(out / "result.json")


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("gpu-check-result"), help="where the result goes")
    parser.add_argument("--minutes", type=float, default=9.5, help="of all stages together")
    parser.add_argument("--only", default="", help="beginnings of the names of stages, with commas; smoke is always one")
    parser.add_argument("--small", action="store_true", help="sizes for a stand-in")
    options = parser.parse_args(arguments)
    out = options.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    log = out / "log.txt"
    log.write_text("")
    variables = environment()
    end = time.monotonic() + 60 * options.minutes
    commit = ROOT / "commit"
    result = {
        "date": datetime.date.today().isoformat(),
        "commit": commit.read_text().strip() if commit.exists() else "",
        "small": options.small,
        "hardware": hardware(),
        "stages": [],
        "records": [],
    }
    wanted = [word for word in options.only.split(",") if word]
    good = True
    for stage in stages(options):
        if wanted and stage.name != "smoke" and not any(stage.name.startswith(word) for word in wanted):
            continue
        seconds = min(stage.seconds, end - time.monotonic())
        if seconds < 5:
            about, records = {"stage": stage.name, "status": "skipped", "why": "out of time"}, []
        else:
            print(f"{stage.name} ...", flush=True)
            about, records = run(stage, log, variables, seconds)
        print(f"{stage.name}: {about['status']} {about.get('why', '')} in {about.get('seconds', 0)} s", flush=True)
        if about["status"] in ("failed", "out of time"):
            good = False
            print(about["output"], flush=True)
        result["stages"].append(about)
        result["records"] += records
        save(result, out)
        if stage.name == "smoke" and about["status"] != "passed":
            print("nothing else is tried", flush=True)
            return 1
    import report
    text = report.markdown(result)
    (out / "report.md").write_text(text)
    print(text)
    try:
        report.plots(result, out)
    except ImportError as error:
        print(f"no plots: {error}")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
