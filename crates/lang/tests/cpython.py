"""Writes cpython.txt: what CPython's own parser makes of random texts, for tests/cpython.rs.

    python3 cpython.py > cpython.txt

A line is `text => tree` with every operation in brackets, or `text => error`.
"""

import ast
import random
import re
import warnings

warnings.simplefilter("ignore")
TOKENS = "a b c 1 + - * / // % ** << >> & | ^ ~ < <= == != and or not if else ( ) [ ] , : . T".split()
WEIGHTS = [8 if t in "a b c 1".split() else 3 if t in "( ) [ ] if else not ** -".split() else 2 for t in TOKENS]
OPERATORS = {
    "Add": "+", "Sub": "-", "Mult": "*", "Div": "/", "FloorDiv": "//", "Mod": "%", "Pow": "**", "LShift": "<<",
    "RShift": ">>", "BitAnd": "&", "BitOr": "|", "BitXor": "^", "USub": "-", "UAdd": "+", "Invert": "~", "Not": "not ",
    "Lt": "<", "LtE": "<=", "Eq": "==", "NotEq": "!=", "And": "and", "Or": "or",
}


class Unsupported(Exception):
    """Valid Python that is no array expression."""


def show(node):
    op = lambda x: OPERATORS[type(x).__name__]
    match node:
        case ast.Name(id=name):
            return name
        case ast.Constant(value=value):
            return "..." if value is ... else str(value)
        case ast.BinOp(left=x, op=o, right=y):
            return f"({show(x)} {op(o)} {show(y)})"
        case ast.UnaryOp(op=o, operand=x):
            return f"({op(o)}{show(x)})"
        case ast.BoolOp(op=o, values=values):
            text = show(values[0])
            for value in values[1:]:
                text = f"({text} {op(o)} {show(value)})"
            return text
        case ast.Compare(left=x, ops=ops, comparators=ys):
            return f"({show(x)}" + "".join(f" {op(o)} {show(y)}" for o, y in zip(ops, ys)) + ")"
        case ast.IfExp(test=c, body=x, orelse=y):
            return f"({show(x)} if {show(c)} else {show(y)})"
        case ast.Tuple(elts=xs):
            return "(" + "".join(f"{show(x)}, " for x in xs) + ")"
        case ast.Attribute(value=x, attr=name):
            if name != "T":
                raise Unsupported
            return f"{show(x)}.{name}"
        case ast.Subscript(value=x, slice=s):
            return f"{show(x)}[{index(s)}]"
        case ast.Call(func=ast.Name(id=name), args=xs):
            return f"{name}({', '.join(map(show, xs))})"
        case ast.Call(func=ast.Attribute(value=x, attr=name), args=xs):
            return f"{show(x)}.{name}({', '.join(map(show, xs))})"
        case _:
            raise Unsupported


def index(node):
    match node:
        case ast.Tuple(elts=xs) if not getattr(node, "bracketed", False):
            return ", ".join(map(index, xs))
        case ast.Slice(lower=x, upper=y, step=z):
            part = lambda n: "" if n is None else show(n)
            return f"{part(x)}:{part(y)}" + (f":{show(z)}" if z else "")
        case _:
            return show(node)


def result(text):
    try:
        return show(ast.parse(text, mode="eval").body)
    except SyntaxError:
        return "error"


def expression(rng, depth):
    """A random valid expression, with brackets in odd places."""
    if depth == 0 or rng.random() < 0.15:
        return rng.choice(["a", "b", "c", "1", "2.5", "x.T", "x[0]", "x[1:, ::2]", "f(a, b)", "..."])
    sub = lambda: expression(rng, depth - 1)
    kind = rng.randrange(20)
    if kind < 11:
        return f"{sub()} {rng.choice('+ - * / // % ** ** << >> & | ^ < <= == != and or'.split())} {sub()}"
    if kind < 14:
        return f"{rng.choice(['-', '+', '~'])}{sub()}"
    if kind == 14:
        return f"(not {sub()})"
    if kind == 15:
        return f"not {sub()}"
    if kind == 16:
        return f"{sub()} if {sub()} else {sub()}"
    return f"({sub()})"


def main():
    rng = random.Random(20240229)
    seen, counts = set(), {"valid": 0, "soup": 0, "error": 0}
    while min(counts["valid"] // 700, counts["soup"] // 300, counts["error"] // 500) < 1:
        soup = rng.random() < 0.8
        if soup:
            text = " ".join(rng.choices(TOKENS, WEIGHTS, k=rng.randint(1, 9)))
        else:
            text = expression(rng, rng.randint(1, 5))
            if rng.random() < 0.4:
                # Nearly valid: a token left out or put in.
                tokens = re.findall(r"[\w.]+|[-+*/<>=]+|\S", text)
                at = rng.randrange(len(tokens))
                tokens[at : at + rng.randint(0, 1)] = rng.choices(TOKENS, k=rng.randint(0, 1))
                text = " ".join(tokens)
        # Only what is written without brackets is a tuple index; a bracketed one looks the same in CPython's tree.
        if text in seen or len(text) > 160 or "[ (" in text or "if" in text.split(" if ", 1)[-1].split(" else ")[0].split():
            continue
        seen.add(text)
        try:
            tree = result(text)
        except Unsupported:
            continue
        kind = "error" if tree == "error" else "soup" if soup else "valid"
        limit = {"valid": 700, "soup": 300, "error": 500}[kind]
        if counts[kind] < limit:
            counts[kind] += 1
            print(f"{text} => {tree}")


main()
