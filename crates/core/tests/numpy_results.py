#!/usr/bin/env python3
"""Writes numpy_results.txt beside this file: what NumPy returns for exact operations, at zeros, signs, limits and ordinary numbers.

    python3 crates/core/tests/numpy_results.py > crates/core/tests/numpy_results.txt

Each dtype has a row of points; the rows after it have the bits of the results in hexadecimal, at each point or at all
pairs of points, the first operand being the slower.
"""

import warnings

import numpy as np

warnings.simplefilter("ignore")
np.seterr(all="ignore")

UNARY_FLOAT = ["sign", "signbit", "isnan", "isinf", "isfinite", "floor", "ceil", "trunc", "rint", "deg2rad", "rad2deg", "abs",
               "reciprocal", "square", "sqrt"]
BINARY_FLOAT = ["floor_divide", "remainder", "fmod", "copysign", "nextafter", "minimum", "maximum", "fmin", "fmax"]
UNARY_INT = ["sign", "abs"]
BINARY_INT = ["floor_divide", "remainder", "fmod", "minimum", "maximum"]


def row(name, dtype, values):
    unsigned = {1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint64}[values.dtype.itemsize]
    if values.dtype == bool:
        unsigned = np.uint8
    print(f"{name} {dtype}: " + " ".join(f"{b:x}" for b in values.view(unsigned)))


def write(dtype, points, unary, binary):
    short = np.dtype(dtype).name.replace("float", "f").replace("uint", "u").replace("int", "i")
    row("points", short, points)
    for name in unary:
        row(name, short, getattr(np, name)(points))
    x, y = np.repeat(points, len(points)), np.tile(points, len(points))
    for name in binary:
        row(name, short, getattr(np, name)(x, y))


print("# Written by numpy_results.py with NumPy " + np.__version__)
for dtype in (np.float32, np.float64):
    info = np.finfo(dtype)
    positive = [0, info.smallest_subnormal, info.tiny, 0.1, 0.5, 1, 1.5, 2.5, 3, 7, 1e10, info.max, np.inf]
    points = np.array(positive + [-x for x in positive] + [np.nan], dtype=dtype)
    write(dtype, points, UNARY_FLOAT, BINARY_FLOAT)
for dtype in (np.int8, np.int16, np.int32, np.int64, np.uint8, np.uint16, np.uint32, np.uint64):
    info = np.iinfo(dtype)
    signed = [-1, -2, -3, -7, -100, info.min + 1, info.min] if info.min < 0 else []
    points = np.array([0, 1, 2, 3, 7, 100, info.max - 1, info.max] + signed, dtype=dtype)
    write(dtype, points, UNARY_INT, BINARY_INT)
