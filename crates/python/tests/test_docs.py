"""The examples in the documentation run, and the stubs say what is there."""

import doctest
import pathlib
import subprocess
import sys

import numpy as np
import pytest

import numfuse


def examples():
    yield "numfuse", numfuse.__doc__
    for name in numfuse.__all__:
        text = getattr(numfuse, name).__doc__
        if not name.startswith("__") and ">>>" in (text or ""):
            yield name, text


@pytest.mark.parametrize("name, text", list(examples()), ids=lambda x: x if len(x) < 20 else "")
def test_examples(name, text):
    test = doctest.DocTestParser().get_doctest(text, {}, name, None, 0)
    assert test.examples
    output = []
    failed = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE).run(test, out=output.append)
    assert failed.failed == 0, "".join(output)


def test_everything_is_documented():
    for name in numfuse.__all__:
        assert name == "__version__" or getattr(numfuse, name).__doc__, name
    assert numfuse.Function.__call__.__doc__


def test_the_example_in_the_readme():
    readme = pathlib.Path(__file__).parents[3] / "README.md"
    blocks = [block.split("```")[0] for block in readme.read_text().split("```python\n")[1:]]
    assert blocks
    for block in blocks:
        exec(block, {})


def test_stages_can_be_explained():
    a = np.ones((3, 4), np.float32)
    for stage in ["parse", "graph", "simplified", "plan", "kernel", "clif", "asm"]:
        text = numfuse.explain("sum(a*b)", b=2.0, stage=stage)
        assert text and f"=== {stage} ===" in numfuse.explain("sum(a*b)", a=a, b=2.0)
    assert "__global__" in numfuse.explain("sum(a*b)", b=2.0, stage="cuda")
    assert "f32[?0, ?1]" in numfuse.explain("a", stage="graph")
    assert "f32[n, 3]" in numfuse.explain("x", x="f32[n, 3]", stage="graph")
    assert "f64[?0]" in numfuse.explain("x", x=float, stage="graph")
    assert "i16[?0]" in numfuse.explain("x", x=np.dtype("i2"), stage="graph")
    assert "f32[3, 4]" in numfuse.explain("a + x", x="f64", stage="graph")
    with pytest.raises(TypeError, match="there is no stage `nothing`"):
        numfuse.explain("a", stage="nothing")
    with pytest.raises(NameError):
        numfuse.explain("a + nothing")
    with pytest.raises(TypeError):
        numfuse.explain("x", x="f31")


def test_stubs(tmp_path):
    # It leaves a cache where it runs.
    check = [sys.executable, "-m", "mypy.stubtest", "numfuse"]
    run = subprocess.run(check, capture_output=True, text=True, cwd=tmp_path)
    assert run.returncode == 0, run.stdout + run.stderr


def test_version():
    from importlib.metadata import version

    assert numfuse.__version__ == version("numfuse")
