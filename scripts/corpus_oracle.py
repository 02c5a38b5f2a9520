"""Checks the corpus against programs that nobody of this project wrote: Python's parser and NumPy.

Reads tests/corpus/**/*.test and compares each section that can be computed outside:

* `parse`: the syntax tree is that of Python's own `ast` module;
* `types`: dtypes and shapes are those that NumPy gives, for sizes put in the place of the symbols;
* `run`: the values are those that NumPy gives, bit for bit, within one unit in the last place for elementary functions
  (computed in 80-bit precision), and within a small relative error for sums of floats.

    python3 scripts/corpus_oracle.py [FOLDER ...]

Where numfuse differs from NumPy on purpose the file is in DIFFERENCES, with the reason; such a file has to differ, so
that the list cannot outlive its reasons. The conversion of floats to integers saturates here as it does in numfuse
(NumPy's is undefined). Needs NumPy 2 on x86-64.
"""

import ast
import decimal
import fractions
import math
import pathlib
import re
import sys
import warnings

import numpy as np

CORPUS = pathlib.Path(__file__).resolve().parent.parent / "tests" / "corpus"

# File: what NumPy or Python does instead.
DIFFERENCES = {
    "types/weak-through-functions": "NumPy's functions make f64 of Python numbers, for good; here they stay weak",
    "types/weak-where": "NumPy's where makes f64 of Python numbers, for good; here they stay weak",
    "run/square-of-bool": "NumPy computes `** 2` as `square`, without the literal, hence in int8",
    "run/minimum-zeros": "NumPy does not tell the signs of zeros apart",
    "run/min-max-negative-zero": "NumPy does not tell the signs of zeros apart",
    "run/sum-negative-zero": "NumPy starts a sum from 0.0, which is no identity: 0.0 + -0.0 is 0.0",
}

DTYPES = {
    "bool": np.bool_, "i8": np.int8, "i16": np.int16, "i32": np.int32, "i64": np.int64,
    "u8": np.uint8, "u16": np.uint16, "u32": np.uint32, "u64": np.uint64, "f32": np.float32, "f64": np.float64,
}
NAMES = {np.dtype(v): k for k, v in DTYPES.items()}


# Functions under numfuse's names.

def cast(dtype):
    def convert(x):
        x = np.asarray(x)
        if dtype in (np.float32, np.float64, np.bool_) or x.dtype.kind not in "f":
            return x.astype(dtype)
        info = np.iinfo(dtype)
        whole = [0 if math.isnan(v) else info.max if v == math.inf else info.min if v == -math.inf else
                 min(max(int(v), info.min), info.max) for v in x.ravel().tolist()]
        return np.array(whole, dtype=dtype).reshape(x.shape)
    return convert


def wide(function):
    """A function of real numbers, computed in 80 bits and rounded to the dtype that NumPy's own would give."""
    def compute(*args):
        result = np.result_type(*args)
        dtype = np.sqrt(np.zeros(1, result)).dtype if result.kind != "f" else result
        args = [np.asarray(a, dtype=dtype).astype(np.longdouble) for a in args]
        return function(*args).astype(dtype)
    return compute


def scalar(function):
    """A function of one Python float."""
    def compute(x):
        x = np.asarray(x, dtype=np.float64)
        return np.array([function(v) for v in x.ravel().tolist()], dtype=np.float64).reshape(x.shape)
    return compute


def fma(x, y, z):
    x, y, z = np.broadcast_arrays(*(np.asarray(a, dtype=np.float64) for a in (x, y, z)))
    one = fractions.Fraction
    flat = [float(one(a) * one(b) + one(c)) for a, b, c in zip(x.ravel(), y.ravel(), z.ravel())]
    return np.array(flat).reshape(x.shape)


def erf_series(z):
    """erf of a decimal, to hundreds of digits."""
    total = term = z
    n = 0
    while abs(term) > decimal.Decimal(10) ** -700:
        n += 1
        term = -term * z * z / n
        total += term / (2 * n + 1)
    return total * 2 / PI.sqrt()


def pi():
    """pi to 700 digits, by Machin's formula."""
    with decimal.localcontext(prec=730):
        def arctan_of_inverse(n):
            total = term = decimal.Decimal(1) / n
            for k in range(1, 1100):
                term = -term / (n * n)
                total += term / (2 * k + 1)
            return total
        return 4 * (4 * arctan_of_inverse(5) - arctan_of_inverse(239))


PI = pi()


def normal(function, low, high):
    """A function made of erf: exact between two bounds, and what it tends to beyond them."""
    def compute(x):
        if math.isnan(x):
            return x
        with decimal.localcontext(prec=720):
            near = min(max(decimal.Decimal(x), decimal.Decimal(low)), decimal.Decimal(high))
            value = float(function(near))
        return math.copysign(value, x) if value == 0 and low == -high else value
    return compute


def gelu(x):
    value = normal(lambda d: (1 + erf_series(d / decimal.Decimal(2).sqrt())) / 2, -38, 38)(x)
    if not -37 < x < 37:
        return x if x > 0 or math.isnan(x) else -0.0
    with decimal.localcontext(prec=720):
        d = decimal.Decimal(x)
        return float(d * (1 + erf_series(d / decimal.Decimal(2).sqrt())) / 2) if value else -0.0


ELEMENTARY = {name: wide(getattr(np, name)) for name in (
    "exp exp2 expm1 log log2 log10 log1p sin cos tan arcsin arccos arctan arctan2 sinh cosh tanh arcsinh arccosh arctanh "
    "cbrt hypot deg2rad rad2deg").split()}
ELEMENTARY |= {
    "pow": np.power, "gelu": scalar(gelu), "erf": scalar(normal(erf_series, -20, 20)),
    "erfc": scalar(normal(lambda d: 1 - erf_series(d), -10, 28)),
    "sigmoid": wide(lambda x: 1 / (1 + np.exp(-x))), "softplus": wide(lambda x: np.logaddexp(x, np.longdouble(0))),
}
FLOAT_FOLDS = ("sum", "prod", "mean", "var", "std")
EXACT = {name: getattr(np, name) for name in (
    "add subtract multiply divide floor_divide remainder negative positive invert bitwise_and bitwise_or bitwise_xor "
    "left_shift right_shift less less_equal greater greater_equal equal not_equal logical_and logical_or logical_not "
    "logical_xor where minimum maximum fmin fmax clip abs sign copysign signbit nextafter floor ceil trunc round fmod "
    "isnan isinf isfinite sqrt square reciprocal sum prod min max any all mean var std matmul dot").split()}
EXACT |= {"fma": fma, "relu": lambda x: np.where(np.isnan(x), x, np.maximum(x, np.zeros_like(x)))}
ALIASES = {"asin": "arcsin", "acos": "arccos", "atan": "arctan", "atan2": "arctan2", "asinh": "arcsinh",
           "acosh": "arccosh", "atanh": "arctanh", "ln": "log", "absolute": "abs", "power": "pow", "mod": "remainder"}
NAMESPACE = EXACT | ELEMENTARY | {name: cast(dtype) for name, dtype in DTYPES.items()}
NAMESPACE |= {alias: NAMESPACE[name] for alias, name in ALIASES.items()}
NAMESPACE |= {"pi": math.pi, "e": math.e, "inf": math.inf, "nan": math.nan}


# Programs: Python's syntax, with `and`, `or`, `not`, chains and conditionals by element.

class Elementwise(ast.NodeTransformer):
    def call(self, name, *args):
        return ast.Call(ast.Name("__" + name, ast.Load()), list(args), [])

    def visit_BoolOp(self, node):
        self.generic_visit(node)
        name = "logical_and" if isinstance(node.op, ast.And) else "logical_or"
        value = node.values[0]
        for other in node.values[1:]:
            value = self.call(name, value, other)
        return value

    def visit_UnaryOp(self, node):
        self.generic_visit(node)
        return self.call("logical_not", node.operand) if isinstance(node.op, ast.Not) else node

    def visit_IfExp(self, node):
        self.generic_visit(node)
        return self.call("where", node.test, node.body, node.orelse)

    def visit_Compare(self, node):
        self.generic_visit(node)
        links = list(zip([node.left, *node.comparators], node.ops, node.comparators))
        value = None
        for left, op, right in links:
            link = ast.Compare(left, [op], [right])
            value = link if value is None else self.call("logical_and", value, link)
        return value


def evaluate(program, inputs):
    tree = Elementwise().visit(ast.parse(program))
    last = tree.body[-1]
    tree.body[-1] = ast.Assign([ast.Name("__result", ast.Store())], last.value)
    ast.fix_missing_locations(tree)
    names = dict(NAMESPACE) | {"__" + n: getattr(np, n) for n in ("logical_and", "logical_or", "logical_not", "where")}
    # A name of an input hides a constant's.
    names |= inputs
    exec(compile(tree, "program", "exec"), {"__builtins__": {"__import__": __import__}}, names)
    result = names["__result"]
    return list(result) if isinstance(last.value, ast.Tuple) else [result]


# Inputs: the lines that crates/numfuse/tests/corpus/inputs.rs reads.

def value(text, dtype):
    kind = np.dtype(dtype).kind
    if text in ("min", "max"):
        return getattr(np.iinfo(dtype), text) if kind in "iu" else {"min": -math.inf, "max": math.inf}[text]
    return {"True": True, "False": False}[text] if kind == "b" else int(text) if kind in "iu" else float(text)


def dense(text, dtype, shape):
    count = math.prod(shape)
    if text == "iota":
        flat = np.arange(count)
        flat = flat % 2 == 1 if dtype is np.bool_ else flat.astype(dtype)
    elif text == "mixed":
        flat = cast(dtype)(np.array([(i * 7 + 3) % 11 / 2 - 2 for i in range(count)]))
    elif match := re.fullmatch(r"ramp\((.*), (.*)\)", text):
        low, high = map(float, match.groups())
        step = (high - low) / (max(count, 2) - 1)
        flat = cast(dtype)(np.array([low + i * step for i in range(count)]))
    elif text.startswith("["):
        flat = np.array([value(v, dtype) for v in text[1:-1].split(", ") if v], dtype=dtype)
    else:
        flat = np.full(count, value(text, dtype), dtype=dtype)
    return flat.reshape(shape)


def read_input(line, sizes):
    name, declared, text = re.fullmatch(r"in (\w+): ([^=]*?)(?: = (.*))?", line).groups()
    weak = declared.endswith(" weak")
    match = re.fullmatch(r"(\w+?)(?:\[(.*)\])?", declared.removesuffix(" weak"))
    dtype = DTYPES[match.group(1)]
    shape = tuple(int(s) if s.isdigit() else sizes[s] for s in match.group(2).split(", ")) if match.group(2) else ()
    if weak:
        return name, value(text or "1", dtype)
    text = text or "1" if dtype is not np.bool_ else text or "True"
    if text.endswith(".T"):
        return name, dense(text[:-2], dtype, shape[::-1]).T
    if text.endswith("[::-1]"):
        return name, dense(text[:-6], dtype, shape)[::-1]
    if text.endswith("[::2]"):
        return name, dense(text[:-5], dtype, (2 * shape[0], *shape[1:]))[::2]
    if text.endswith(".broadcast"):
        return name, np.broadcast_to(dense(text[:-10], dtype, shape[1:]), shape)
    return name, dense(text, dtype, shape)


# The sections.

def show(x):
    """A result as the corpus writes it."""
    x = np.asarray(x)
    def one(v):
        if x.dtype.kind != "f":
            return str(v)
        text = str(v) if x.dtype == np.float32 else repr(float(v))
        return text if text in ("nan", "inf", "-inf") else rust_float(text)
    rows = x.reshape(-1, x.shape[-1]) if x.ndim and x.size else x.reshape(1, -1)
    body = "; ".join(" ".join(one(v) for v in row) for row in rows)
    return (f"{NAMES[x.dtype]}[{', '.join(map(str, x.shape))}]" if x.ndim else NAMES[x.dtype]) + (" " + body if x.size else "")


def rust_float(text):
    text = re.sub(r"e\+?(-?)0*(\d)", r"e\1\2", text)
    digits = text.split("e")[0]
    return text if "e" in text or "." in digits else text + ".0"


def read_result(line):
    declared, values = re.fullmatch(r"(\w+(?:\[.*?\])?)(?: (.*))?", line).groups()
    match = re.fullmatch(r"(\w+)(?:\[(.*)\])?", declared)
    dtype = DTYPES[match.group(1)]
    shape = tuple(int(s) for s in match.group(2).split(", ")) if match.group(2) else ()
    flat = [value(v, dtype) for v in (values or "").replace(";", "").split()]
    return np.array(flat, dtype=dtype).reshape(shape)


def same(found, want, ulps, relative):
    want = np.asarray(want)
    if found.dtype != want.dtype or found.shape != want.shape:
        return False
    if found.dtype.kind != "f":
        return bool((found == want).all())
    both_nan = np.isnan(found) & np.isnan(want)
    exact = (found == want) & (np.signbit(found) == np.signbit(want)) | both_nan
    distance = np.abs(found.astype(np.longdouble) - want.astype(np.longdouble))
    near = (distance <= ulps * np.spacing(np.abs(want))) | (distance <= relative * np.abs(want))
    return bool((exact | near & (found != want)).all())


def check_run(test):
    results = evaluate(test["program"], dict(read_input(line, {}) for line in test["inputs"]))
    names = {n.id for n in ast.walk(ast.parse(test["program"])) if isinstance(n, ast.Name)}
    names |= {n.attr for n in ast.walk(ast.parse(test["program"])) if isinstance(n, ast.Attribute)}
    functions = names & ELEMENTARY.keys() | ({"pow"} if "**" in test["program"] else set())
    calls = sum(isinstance(n, (ast.Call, ast.BinOp)) for n in ast.walk(ast.parse(test["program"])))
    ulps = 0 if not functions else 1 if calls <= len(results) else 8
    folds = bool(names & set(FLOAT_FOLDS))
    lines = [show(r) for r in results]
    found = test["sections"]["run"].splitlines()
    if len(found) != len(lines):
        return False, lines
    ok = True
    for line, want in zip(found, results):
        got = read_result(line)
        relative = (1e-14 if got.dtype == np.float64 else 1e-6) if folds and got.dtype.kind == "f" else 0
        ok &= same(got, want, ulps, relative)
    return ok, lines


def check_types(test):
    def attempt(sizes):
        return evaluate(test["program"], dict(read_input(line, sizes) for line in test["inputs"]))
    sizes = {"n": 5, "m": 7, "k": 4, "d": 6}
    try:
        results = attempt(sizes)
    except ValueError:
        # Sizes that have to agree: one of the known sizes, if there is one.
        sizes = dict.fromkeys(sizes, 3)
        results = attempt(sizes)
    def dim(text):
        base, *slices = re.findall(r"[^\[\]]+", text)
        size = int(base) if base.isdigit() else sizes[base]
        for s in slices:
            size = len(range(size)[slice(*(int(p) if p else None for p in s.split(":")))])
        return size
    found = []
    for line in test["sections"]["types"].splitlines():
        match = re.fullmatch(r"(\w+)(?:\[(.*)\])?", line.removesuffix(" weak"))
        shape = [dim(d) for d in match.group(2).split(", ")] if match.group(2) else []
        found.append(f"{match.group(1)}{shape}")
    want = [f"{NAMES[np.asarray(r).dtype]}{list(np.shape(r))}" for r in results]
    return found == want, want


OPERATORS = {
    ast.Add: "+", ast.Sub: "-", ast.Mult: "*", ast.MatMult: "@", ast.Div: "/", ast.FloorDiv: "//", ast.Mod: "%", ast.Pow: "**",
    ast.LShift: "<<", ast.RShift: ">>", ast.BitOr: "|", ast.BitXor: "^", ast.BitAnd: "&", ast.USub: "-", ast.UAdd: "+",
    ast.Invert: "~", ast.Not: "not", ast.And: "and", ast.Or: "or", ast.Eq: "==", ast.NotEq: "!=", ast.Lt: "<",
    ast.LtE: "<=", ast.Gt: ">", ast.GtE: ">=",
}


def tree(node):
    """A syntax tree as the corpus writes it: operator first, in brackets."""
    op = lambda o: OPERATORS[type(o)]
    match node:
        case ast.Name(name):
            return name
        case ast.Constant(value):
            if value is None or value is Ellipsis or isinstance(value, bool):
                return {None: "None", Ellipsis: "...", True: "True", False: "False"}[value]
            if isinstance(value, int) and value < 2**64:
                return str(value)
            return "inf" if math.isinf(value) else rust_float(repr(float(value)))
        case ast.UnaryOp(o, x):
            return f"({op(o)} {tree(x)})"
        case ast.BinOp(x, o, y):
            return f"({op(o)} {tree(x)} {tree(y)})"
        case ast.BoolOp(o, values):
            text = tree(values[0])
            for v in values[1:]:
                text = f"({op(o)} {text} {tree(v)})"
            return text
        case ast.Compare(left, ops, comparators):
            text = f"({op(ops[0])} {tree(left)} {tree(comparators[0])})"
            for o, c in zip(ops[1:], comparators[1:]):
                text = f"(chain {text} {op(o)} {tree(c)})"
            return text
        case ast.IfExp(c, x, y):
            return f"(if {tree(c)} {tree(x)} {tree(y)})"
        case ast.Tuple(items):
            return f"(tuple {' '.join(map(tree, items))})"
        case ast.Slice(a, b, c):
            return f"(slice {' '.join(tree(x) if x else '_' for x in (a, b, c))})"
        case ast.Call(ast.Attribute(x, name), args, keywords):
            return "(" + " ".join([f"method {tree(x)} {name}", *arguments(args, keywords)]) + ")"
        case ast.Call(ast.Name(name), args, keywords):
            return "(" + " ".join([f"call {name}", *arguments(args, keywords)]) + ")"
        case ast.Attribute(x, name):
            return f"(attribute {tree(x)} {name})"
        case ast.Subscript(x, ast.Tuple(items)):
            return f"(index {tree(x)} {' '.join(map(tree, items))})"
        case ast.Subscript(x, item):
            return f"(index {tree(x)} {tree(item)})"
    raise TypeError(ast.dump(node))


def arguments(args, keywords):
    return [tree(a) for a in args] + [f"{k.arg}={tree(k.value)}" for k in keywords]


def check_parse(test):
    lines = []
    for statement in ast.parse(test["program"]).body:
        target = f"{statement.targets[0].id} = " if isinstance(statement, ast.Assign) else ""
        lines.append(target + tree(statement.value))
    return test["sections"]["parse"].splitlines() == lines, lines


CHECKS = {"run": check_run, "types": check_types, "parse": check_parse}


def read_test(path):
    head, *parts = re.split(r"^--- ", path.read_text(), flags=re.M)
    lines = head.splitlines()
    kind = lambda *prefixes: [line for line in lines if line.startswith(prefixes)]
    program = "\n".join(line for line in lines if not line.startswith(("# ", "test ", "in ")))
    sections = dict(part.split("\n", 1) for part in parts)
    stages = " ".join(kind("test ")).replace("test ", "").split()
    return {"inputs": kind("in "), "program": program, "sections": sections, "stages": stages}


def main():
    warnings.simplefilter("ignore")
    np.seterr(all="ignore")
    folders = [a for a in sys.argv[1:] if not a.startswith("--")]
    checked, failed, unused = 0, 0, dict(DIFFERENCES)
    for path in sorted(CORPUS.rglob("*.test")):
        name = path.relative_to(CORPUS).as_posix().removesuffix(".test")
        if folders and name.split("/")[0] not in folders:
            unused.pop(name, None)
            continue
        test = read_test(path)
        if "error" in test["stages"]:
            continue
        for stage in [s for s in test["stages"] if s in CHECKS and s in test["sections"]]:
            checked += 1
            try:
                ok, want = CHECKS[stage](test)
            except Exception as error:
                ok, want = False, [f"{type(error).__name__}: {error}"]
            if ok == (name in DIFFERENCES):
                failed += 1
                print(f"{name}, {stage}: " + ("listed as different, but is not" if ok else "the oracle says"))
                if not ok:
                    print("  " + "\n  ".join(want) + "\n found\n  " + test["sections"][stage].rstrip().replace("\n", "\n  "))
            unused.pop(name, None)
    for name in unused:
        print(f"{name}: listed as different, but there is no such section")
    print(f"{checked} sections checked, {len(DIFFERENCES)} known differences, {failed} failures")
    sys.exit(bool(failed or unused))


if __name__ == "__main__":
    main()
