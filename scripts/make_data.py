"""Makes data/*.npy from data/nino12_sst.csv, or with --check tells whether they are what it would make.

Needs NumPy alone. The csv is the one that the PyPI package statsmodels ships (statsmodels/datasets/elnino/elnino.csv);
data/README.md says where it comes from.

    python3 scripts/make_data.py [--check]
"""

import hashlib
import io
import pathlib
import sys

import numpy as np

DATA = pathlib.Path(__file__).resolve().parent.parent / "data"
CSV_SHA256 = "b647be00e0fd264be9764e317e6b963f35030014ecca2b21b204521716e463ad"


def arrays():
    """The name and content of each file."""
    raw = (DATA / "nino12_sst.csv").read_bytes()
    found = hashlib.sha256(raw).hexdigest()
    if found != CSV_SHA256:
        raise SystemExit(f"nino12_sst.csv has checksum {found}, not {CSV_SHA256}")
    table = np.loadtxt(io.BytesIO(raw), delimiter=",", skiprows=1)
    assert table.shape == (61, 13), table.shape
    yield "nino12_sst.npy", np.ascontiguousarray(table[:, 1:])
    yield "nino12_sst_years.npy", table[:, 0].astype("<i8")


def main():
    stale = []
    for name, array in arrays():
        out = io.BytesIO()
        np.save(out, array)
        path = DATA / name
        if "--check" not in sys.argv:
            path.write_bytes(out.getvalue())
        elif not path.exists() or path.read_bytes() != out.getvalue():
            stale.append(name)
        print(name, array.dtype, array.shape, hashlib.sha256(out.getvalue()).hexdigest())
    if stale:
        raise SystemExit(f"stale: {', '.join(stale)}; run scripts/make_data.py")


if __name__ == "__main__":
    main()
