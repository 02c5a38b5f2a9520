"""One archive with everything that `check.py` needs on a machine that has a GPU, and neither Rust nor a network.

    python3 benches/gpu/pack.py [--output FILE] [--arch 8.0,9.0] [--few 10.0,12.0]

Builds the programs (release, stripped, for x86-64 Linux with glibc 2.34 or newer), compiles the texts of all samples beforehand, for the
architectures of `--arch`; for those of `--few` the benchmark's alone. It takes some minutes the first time: a tenth of a second for each of
some two thousand texts. It also takes NVRTC, of `$NUMFUSE_NVRTC` or as numfuse finds it, or
from the wheel that numfuse's tests have fetched into the target folder; without one the archive has no machine code, and the other
machine compiles. There, unpack and run `./run.sh`.
"""

import argparse
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time

import cases
import check

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
NAME = "numfuse-gpu-check"
EXAMPLES = ["device_check", "device_bench", "device_calls"]
MOST_BYTES = 64 << 20
GLIBC = (2, 34)
RUN = """\
#!/bin/sh
# Checks and times numfuse on this machine's GPU; the result is in gpu-check-result. See benches/gpu/README.md.
exec python3 "$(dirname "$0")/benches/gpu/check.py" "$@"
"""


def say(text):
    print(text, flush=True)


def build(target):
    """The programs, fresh."""
    for words in (["-p", "numfuse-cuda", "--examples"], ["-p", "numfuse", "--example", "device_calls"], ["-p", "numfuse-cli"]):
        subprocess.run(["cargo", "build", "--release", *words], cwd=ROOT, check=True)
    release = target / "release"
    return [release / "examples" / name for name in EXAMPLES] + [release / "numfuse"]


def glibc(program):
    """The newest version of glibc's symbols that a program asks for."""
    text = subprocess.run(["objdump", "-T", program], capture_output=True, text=True, check=True).stdout
    versions = [tuple(map(int, found.split("."))) for found in re.findall(r"GLIBC_(\d+\.\d+)", text)]
    return max(versions, default=(0, 0))


def compiler(target):
    """The variables by which the programs find NVRTC."""
    if "NUMFUSE_NVRTC" not in os.environ:
        wheel = next(target.glob("cuda-toolkit/*/nvidia/cu13/lib"), None)
        return {"NUMFUSE_NVRTC": str(wheel)} if wheel else {}
    return {}


def prefill(program, target, kept, archs, few, most):
    """Compiles texts into a cache that is kept from pack to pack; of random samples at most so many of a kind. Returns the files."""
    start = time.time() - 1
    variables = dict(os.environ, NUMFUSE_CUDA_CACHE=str(kept), **compiler(target))
    common = ["--cases", HERE / "cases.txt"]
    bytes_of_cases = [1 << 30, *(4 * n for n in cases.SMALL_SIZES)]
    jobs = [("bench", ["--bytes", ",".join(map(str, bytes_of_cases))], archs + few)]
    for kind, (count, _) in check.CHECKS.items():
        count = min(count, most) if count and most is not None else count
        jobs.append((kind, ["--count", count] if count is not None else [], archs))
    for kind, words, archs_of_kind in jobs:
        if archs_of_kind:
            command = [program, "prefill", kind, "--arch", ",".join(archs_of_kind), *common, *words]
            run = subprocess.run([str(word) for word in command], env=variables)
            if run.returncode:
                say(f"WITHOUT machine code of {kind}: the other machine has to compile it")
    # An entry's time of modification is that of its last use.
    return [path for path in kept.rglob("*.cubin") if path.stat().st_mtime >= start]


def commit():
    run = subprocess.run(["git", "-C", ROOT, "describe", "--always", "--dirty=+", "--abbrev=12"], capture_output=True, text=True)
    return run.stdout.strip()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    target = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")).resolve()
    parser.add_argument("--output", type=pathlib.Path, default=target / f"{NAME}.tar.gz")
    parser.add_argument("--arch", default="8.0,9.0", help="compute capabilities whose machine code comes along")
    parser.add_argument("--few", default="10.0,12.0", help="those that get the benchmark's machine code alone")
    parser.add_argument("--samples", type=int, help="compile at most so many random samples of a kind; the other machine compiles the rest")
    parser.add_argument("--bin", type=pathlib.Path, help="a folder of programs to take as they are, and no machine code: for tests")
    options = parser.parse_args()
    archs, few = ([arch for arch in text.split(",") if arch] for text in (options.arch, options.few))
    options.output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        root = pathlib.Path(folder) / NAME
        (root / "bin").mkdir(parents=True)
        programs = sorted(options.bin.iterdir()) if options.bin else build(target)
        for program in programs:
            shutil.copy(program, root / "bin")
        if not options.bin:
            for program in programs:
                packed = root / "bin" / program.name
                subprocess.run(["strip", packed], check=True)
                version = glibc(packed)
                say(f"{program.name}: {packed.stat().st_size / 1e6:.1f} MB, glibc {version[0]}.{version[1]}")
                if version > GLIBC:
                    raise SystemExit(f"{program.name} asks for a newer glibc than {GLIBC[0]}.{GLIBC[1]}")
            kept = target / "gpu-check" / "cache"
            kept.mkdir(parents=True, exist_ok=True)
            for path in prefill(root / "bin" / "device_check", target, kept, archs, few, options.samples):
                place = root / "cache" / path.relative_to(kept)
                place.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(path, place)
        ignore = shutil.ignore_patterns("__pycache__", "tests")
        shutil.copytree(HERE, root / "benches" / "gpu", ignore=ignore)
        shutil.copytree(ROOT / "tests" / "corpus" / "run", root / "tests" / "corpus" / "run")
        (root / "scripts").mkdir()
        shutil.copy(ROOT / "scripts" / "corpus_oracle.py", root / "scripts")
        (root / "commit").write_text(commit() + "\n")
        (root / "run.sh").write_text(RUN)
        (root / "run.sh").chmod(0o755)
        with tarfile.open(options.output, "w:gz") as archive:
            archive.add(root, NAME)
    size = options.output.stat().st_size
    say(f"{options.output}: {size / 1e6:.1f} MB")
    if size > MOST_BYTES:
        raise SystemExit(f"that is more than {MOST_BYTES >> 20} MiB: leave out architectures (--arch, --few)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
