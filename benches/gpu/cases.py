"""What is measured on a GPU: expressions, their inputs and sizes, the formula for peers, and the share of the copy rate that is expected.

`cases.txt` has `CASES` as graphs, for the Rust programs, which have no parser of the language; `python3 cases.py NUMFUSE` writes
it with numfuse's command, and a test holds one against the other. `PRODUCTS` have no exact bits: products.py runs them through numfuse's
own interface. Needs the standard library alone.
"""

import math
import pathlib
import subprocess
import sys
from dataclasses import dataclass, field

FILE = pathlib.Path(__file__).resolve().parent / "cases.txt"
ITEMSIZE = {"f32": 4, "f64": 8, "i8": 1}
HEADER = """\
# The cases of benches/gpu/cases.py as graphs, for crates/cuda/examples. Written by `python3 benches/gpu/cases.py NUMFUSE`, where NUMFUSE is
# the command; not by hand.
"""


@dataclass(frozen=True)
class Case:
    name: str
    # The expression, in numfuse's language.
    text: str
    # Name to dtype and shape; sizes are names of `sizes`, or numbers.
    inputs: dict
    # Sizes of the names; `*` is what is left of the number of elements.
    sizes: dict
    # The shape of each output.
    outputs: tuple
    # The same for libraries with NumPy's functions: `formula(xp, *inputs)`.
    formula: object
    # The share of the copy rate that is expected of numfuse.
    expected: float
    # What a library does better in its own words: library to `formula(module, *inputs)`.
    own: dict = field(default_factory=dict)
    # True if CuPy's `fuse` takes it: elementwise, one output.
    fuses: bool = False
    # The dtype of the outputs, if it is not that of the first input.
    out: str = ""
    # The sizes of a product of matrices: stack, rows, columns and depth; none if there is none.
    multiplied: tuple = ()

    def shape(self, dims, sizes):
        return tuple(d if isinstance(d, int) else sizes[d] for d in dims)

    def widest(self):
        return max(ITEMSIZE[dtype] for dtype, _ in self.inputs.values())

    def traffic(self, sizes):
        """The bytes that any program has to move: inputs once, outputs once."""
        first = next(iter(self.inputs.values()))[0]
        moved = [(dtype, dims) for dtype, dims in self.inputs.values()] + [(self.out or first, dims) for dims in self.outputs]
        return sum(ITEMSIZE[dtype] * math.prod(self.shape(dims, sizes)) for dtype, dims in moved)

    def operations(self, sizes):
        """Multiplications and additions of a product of matrices."""
        return 2 * math.prod(self.shape(self.multiplied, sizes)) if self.multiplied else 0


def bind(sizes, elements):
    """The size of each name for about so many elements. `crates/cuda/examples/common/cases.rs` does the same."""
    most = max(math.isqrt(elements), 1)
    fixed = {name: min(int(size), most) for name, size in sizes.items() if size != "*"}
    rest = max(elements // math.prod(fixed.values()), 1)
    return {name: fixed.get(name, rest) for name in sizes}


def softmax(xp, x):
    e = xp.exp(x - xp.max(x, axis=1, keepdims=True))
    return e / xp.sum(e, axis=1, keepdims=True)


def zscore(xp, x):
    return (x - xp.mean(x, axis=1, keepdims=True)) / xp.std(x, axis=1, keepdims=True)


SOFTMAX = "e = exp(x - max(x, axis=1, keepdims=True))\ne / sum(e, axis=1, keepdims=True)"
SOFTMAX_OWN = {"torch": lambda torch, x: torch.softmax(x, 1), "jax": lambda jax, x: jax.nn.softmax(x, axis=1)}
ROWS = {"x": ("f32", ("r", "c"))}
THREE = {name: ("f32", ("n",)) for name in "xyz"}
FLAT = {"n": "*"}

CASES = [
    Case("copy", "-x", {"x": ("f32", ("n",))}, FLAT, (("n",),), lambda xp, x: -x, 0.95, fuses=True),
    Case("fma", "x*y + z", THREE, FLAT, (("n",),), lambda xp, x, y, z: x * y + z, 0.92, fuses=True),
    Case("chain", "where(x*y + z > 0, exp(x)*2, sqrt(abs(z)))", THREE, FLAT, (("n",),),
         lambda xp, x, y, z: xp.where(x * y + z > 0, xp.exp(x) * 2, xp.sqrt(xp.abs(z))), 0.92, fuses=True),
    Case("gauss", "exp(-x*x)*sin(y) + 1", {"x": ("f32", ("n",)), "y": ("f32", ("n",))}, FLAT, (("n",),),
         lambda xp, x, y: xp.exp(-x * x) * xp.sin(y) + 1, 0.92, fuses=True),
    Case("broadcast", "x*v + w", {"x": ("f32", ("r", "c")), "v": ("f32", ("c",)), "w": ("f32", ("r", 1))}, {"r": 16384, "c": "*"},
         (("r", "c"),), lambda xp, x, v, w: x * v + w, 0.92),
    Case("transpose", "x.T + y", {"x": ("f32", ("r", "c")), "y": ("f32", ("c", "r"))}, {"r": 16384, "c": "*"}, (("c", "r"),),
         lambda xp, x, y: x.T + y, 0.75),
    Case("sum", "sum(x)", {"x": ("f32", ("n",))}, FLAT, ((),), lambda xp, x: xp.sum(x), 0.92),
    Case("dot", "sum(x*y)", {"x": ("f32", ("n",)), "y": ("f32", ("n",))}, FLAT, ((),), lambda xp, x, y: xp.sum(x * y), 0.92),
    Case("row-sums", "sum(x, axis=1)", ROWS, {"r": "*", "c": 4096}, (("r",),), lambda xp, x: xp.sum(x, axis=1), 0.92),
    Case("short-rows", "sum(x, axis=1)", ROWS, {"r": "*", "c": 32}, (("r",),), lambda xp, x: xp.sum(x, axis=1), 0.92),
    Case("column-sums", "sum(x, axis=0)", ROWS, {"r": 16384, "c": "*"}, (("c",),), lambda xp, x: xp.sum(x, axis=0), 0.88),
    Case("softmax", SOFTMAX, ROWS, {"r": "*", "c": 1024}, (("r", "c"),), softmax, 0.88, SOFTMAX_OWN),
    Case("softmax-long", SOFTMAX, ROWS, {"r": "*", "c": 8192}, (("r", "c"),), softmax, 0.88, SOFTMAX_OWN),
    Case("z-score", "(x - mean(x, axis=1, keepdims=True)) / std(x, axis=1, keepdims=True)", ROWS, {"r": "*", "c": 1024}, (("r", "c"),),
         zscore, 0.88, {"torch": lambda torch, x: (x - x.mean(1, keepdim=True)) / x.std(1, correction=0, keepdim=True)}),
    Case("variance", "var(x, axis=1)", ROWS, {"r": "*", "c": 4096}, (("r",),), lambda xp, x: xp.var(x, axis=1), 0.92,
         {"torch": lambda torch, x: torch.var(x, 1, correction=0)}),
    Case("fma-f64", "x*y + z", {name: ("f64", ("n",)) for name in "xyz"}, FLAT, (("n",),), lambda xp, x, y, z: x * y + z, 0.92,
         fuses=True),
    Case("sum-f64", "sum(x)", {"x": ("f64", ("n",))}, FLAT, ((),), lambda xp, x: xp.sum(x), 0.92),
    Case("int8", "x + 0.5*f32(a)", {"x": ("f32", ("n",)), "a": ("i8", ("n",))}, FLAT, (("n",),),
         lambda xp, x, a: x + xp.multiply(xp.asarray(a, dtype=x.dtype), 0.5), 0.92,
         {"torch": lambda torch, x, a: x + a.to(x.dtype) * 0.5, "cupy": lambda cupy, x, a: x + a.astype(x.dtype) * x.dtype.type(0.5)}),
    Case("outputs", "x + y, x - y, x*y", {"x": ("f32", ("n",)), "y": ("f32", ("n",))}, FLAT, (("n",), ("n",), ("n",)),
         lambda xp, x, y: (x + y, x - y, x * y), 0.92),
]


def covariance(xp, a, c):
    d = a - c
    return d.T @ d


def product(name, text, inputs, sizes, out, multiplied, formula, dtype="f32"):
    """A case of a product of matrices: no rate is expected of it, but what the plain product and a copy reach on the same device."""
    return Case(name, text, {n: (dtype, dims) for n, dims in inputs.items()}, sizes, (out,), formula, None, multiplied=multiplied)


NKM = ("n", "m", "k")
MATRICES = {"a": ("n", "k"), "b": ("k", "m")}
PRODUCTS = [
    product("product", "a @ b", MATRICES, {"n": 8192, "k": 8192, "m": 8192}, ("n", "m"), NKM, lambda xp, a, b: a @ b),
    product("product-f64", "a @ b", MATRICES, {"n": 4096, "k": 4096, "m": 4096}, ("n", "m"), NKM, lambda xp, a, b: a @ b, "f64"),
    product("dense", "maximum(a @ b + c, 0)", MATRICES | {"c": ("m",)}, {"n": 8192, "k": 4096, "m": 4096}, ("n", "m"), NKM,
            lambda xp, a, b, c: xp.maximum(a @ b + c, 0)),
    product("dense-shallow", "maximum(a @ b + c, 0)", MATRICES | {"c": ("m",)}, {"n": 16384, "k": 64, "m": 16384}, ("n", "m"), NKM,
            lambda xp, a, b, c: xp.maximum(a @ b + c, 0)),
    product("centred-shallow", "(a - c) @ b * d", MATRICES | {"c": ("k",), "d": ("n", 1)}, {"n": 16384, "k": 64, "m": 16384}, ("n", "m"),
            NKM, lambda xp, a, b, c, d: (a - c) @ b * d),
    product("exp-product", "exp(a) @ b", MATRICES, {"n": 8192, "k": 2048, "m": 4096}, ("n", "m"), NKM, lambda xp, a, b: xp.exp(a) @ b),
    product("batched", "maximum(a @ b + c, 0)", {"a": ("p", "n", "k"), "b": ("p", "k", "m"), "c": ("m",)},
            {"p": 1024, "n": 256, "k": 64, "m": 256}, ("p", "n", "m"), ("p", *NKM), lambda xp, a, b, c: xp.maximum(a @ b + c, 0)),
    product("covariance", "d = a - c\nd.T @ d", {"a": ("n", "k"), "c": ("k",)}, {"n": "*", "k": 64}, ("k", "k"), ("k", "k", "n"),
            covariance),
]
# The plain products, whose best rate is what the others of their dtype are held against.
PLAIN = {"f32": "product", "f64": "product-f64"}
# Those that are also timed on small arrays, where what counts is the price of a call.
SMALL_CASES = ["fma", "sum", "softmax"]
SMALL_SIZES = [1000, 10_000, 100_000, 1_000_000, 10_000_000]


def case(name):
    return next(c for c in CASES + PRODUCTS if c.name == name)


def head(each):
    """How a case begins in the file."""
    return f"case {each.name}\nsizes " + " ".join(f"{name}={size}" for name, size in each.sizes.items()) + "\n"


def graph(each, command):
    """The graph of a case, by numfuse's command."""
    types = [f"{name}:{dtype}[{','.join(map(str, dims))}]" for name, (dtype, dims) in each.inputs.items()]
    run = subprocess.run([command, "explain", "--stage", "graph", "--", each.text, *types], capture_output=True, text=True)
    if run.returncode:
        raise SystemExit(f"{each.name}: {run.stderr}")
    return run.stdout.strip() + "\n"


if __name__ == "__main__":
    FILE.write_text(HEADER + "".join("\n" + head(each) + graph(each, sys.argv[1]) for each in CASES))
