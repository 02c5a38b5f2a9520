"""Fused array expressions over NumPy arrays, compiled to native code on all cores; over arrays of a GPU, on the GPU.

>>> import numpy as np, numfuse
>>> a, b = np.array([1.0, 2.0, 3.0]), np.array([0.5, 1.5, 2.5])
>>> numfuse.evaluate("2*a + 3*b**2")
array([ 2.75, 10.75, 24.75])
"""

from ._errors import (
    ArgumentError,
    DeviceError,
    Error,
    InternalError,
    LimitError,
    NoMemoryError,
    OutputError,
    ParseError,
    RangeError,
    ShapeError,
    UnknownFunctionError,
    UnknownNameError,
)
from ._numfuse import (
    Device,
    DeviceArray,
    Function,
    __version__,
    compile,
    devices,
    evaluate,
    explain,
    get_num_threads,
    set_num_threads,
    to_device,
)

__all__ = [
    "ArgumentError",
    "Device",
    "DeviceArray",
    "DeviceError",
    "Error",
    "Function",
    "InternalError",
    "LimitError",
    "NoMemoryError",
    "OutputError",
    "ParseError",
    "RangeError",
    "ShapeError",
    "UnknownFunctionError",
    "UnknownNameError",
    "__version__",
    "compile",
    "devices",
    "evaluate",
    "explain",
    "get_num_threads",
    "set_num_threads",
    "to_device",
]
