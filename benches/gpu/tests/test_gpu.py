"""Tests of what needs neither a GPU nor a library besides the standard one. Run from the repository:

    python3 -m unittest discover -s benches/gpu/tests -t benches/gpu
"""

import json
import math
import os
import pathlib
import stat
import sys
import tempfile
import unittest

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

import cases  # noqa: E402: found by the line above
import check  # noqa: E402
import report  # noqa: E402


def large(case, lib, ms, gbs):
    return {"kind": "large", "case": case, "lib": lib, "ms": ms, "gbs": gbs}


def product(case, lib, ms):
    each = cases.case(case)
    elements = (1 << 30) // each.widest()
    return large(case, lib, ms, 0) | {"elements": elements, "bytes": each.traffic(cases.bind(each.sizes, elements))}


def result(device="NVIDIA H200", small=False):
    records = [
        {"kind": "smoke", "device": device, "arch": "sm_90", "multiprocessors": 132, "driver": "13.0", "nvrtc": "13.0"},
        {"kind": "check", "stage": "check rows", "samples": "rows", "done": 7, "failed": 1, "kernels": 5, "ended": "all", "seconds": 2},
        {"kind": "ceiling", "when": "before", "gbs": 4000},
        {"kind": "ceiling", "when": "after", "gbs": 4200},
        large("fma", "numfuse", 1.0, 4158),
        large("fma", "cupy", 2.0, 2079),
        large("fma", "jax", 1.5, 2772),
        large("transpose", "numfuse", 2.0, 2100),
        large("transpose", "torch", 1.0, 4200),
        product("product", "numfuse", 20.0),
        product("product", "torch", 25.0),
        product("dense", "numfuse", 6.0),
        product("dense", "numfuse-own", 10.0),
        product("dense", "cupy", 5.0),
        product("dense-shallow", "numfuse", 0.5),
        {"kind": "small", "case": "sum", "lib": "numfuse", "elements": 1000, "host_us": 3.0, "call_us": 4.0},
        {"kind": "compile", "case": "fma", "kernels": 1, "cold_ms": 200.0, "disk_ms": 0.5},
        {"kind": "transfer", "what": "up, pinned", "gbs": 55.0},
        {"kind": "stream", "bytes": 1e9, "ms": 60.0, "up_gbs": 44.0},
        {"kind": "evaluate", "what": "held kernel", "elements": 1000, "host_us": 6.0, "call_us": 7.0},
        {"kind": "peer", "peer": "numba", "missing": "no | such module"},
        {"kind": "left out", "lib": "cupy", "case": "softmax", "why": "differs"},
    ]
    stages = [{"stage": "smoke", "status": "passed", "seconds": 1}, {"stage": "memcheck", "status": "skipped", "why": "not found"}]
    return {"date": "2030-01-02", "commit": "abc", "small": small, "hardware": {}, "stages": stages, "records": records}


class Cases(unittest.TestCase):
    def test_the_file_has_the_cases(self):
        blocks = cases.FILE.read_text().split("\ncase ")[1:]
        self.assertEqual([block.split("graph {")[0] for block in blocks], [cases.head(each)[len("case "):] for each in cases.CASES])
        for block, each in zip(blocks, cases.CASES):
            for name, (dtype, dims) in each.inputs.items():
                self.assertIn(f"input {name}: {dtype}[{', '.join(map(str, dims))}]", block)

    def test_sizes_follow_the_number_of_elements(self):
        self.assertEqual(cases.bind({"r": "*", "c": 4096}, 1 << 28), {"r": 1 << 16, "c": 4096})
        self.assertEqual(cases.bind({"r": "*", "c": 4096}, 1000), {"r": 32, "c": 31})
        self.assertEqual(cases.bind({"n": "*"}, 0), {"n": 1})

    def test_traffic_counts_inputs_and_outputs_once(self):
        def traffic(name, elements):
            each = cases.case(name)
            return each.traffic(cases.bind(each.sizes, elements))
        self.assertEqual(traffic("fma", 100), 1600)
        self.assertEqual(traffic("fma-f64", 100), 3200)
        self.assertEqual(traffic("int8", 100), 900)
        self.assertEqual(traffic("outputs", 100), 2000)
        self.assertEqual(traffic("sum", 100), 404)

    def test_products_count_what_they_compute(self):
        def operations(name, elements):
            each = cases.case(name)
            return each.operations(cases.bind(each.sizes, elements))
        self.assertEqual(operations("fma", 100), 0)
        self.assertEqual(operations("product", 1 << 28), 2 * 8192**3)
        self.assertEqual(operations("dense-shallow", 1 << 28), 2 * 64 * 16384**2)
        self.assertEqual(operations("batched", 1 << 28), 2 * 1024 * 64 * 256**2)
        self.assertEqual(operations("covariance", 1 << 28), 2 * 64 * 64 * (1 << 22))
        self.assertEqual({each.name for each in cases.PRODUCTS if not each.multiplied}, set())
        for dtype, name in cases.PLAIN.items():
            self.assertEqual({d for d, _ in cases.case(name).inputs.values()}, {dtype})

    def test_formulas_are_the_expressions(self):
        try:
            import numpy
        except ImportError:
            self.skipTest("there is no NumPy")
        sys.path.insert(0, str(HERE.parent.parent.parent / "scripts"))
        import corpus_oracle
        import peers
        for each in cases.CASES + cases.PRODUCTS:
            sizes = cases.bind(each.sizes, 100)
            inputs = dict(zip(each.inputs, peers.INPUTS.arrays(each, sizes)))
            want = corpus_oracle.evaluate(each.text, inputs)
            got = each.formula(numpy, *inputs.values())
            got = got if isinstance(got, tuple) else (got,)
            self.assertEqual(len(got), len(each.outputs), each.name)
            for a, b, dims in zip(want, got, each.outputs):
                self.assertEqual(numpy.shape(b), each.shape(dims, sizes), each.name)
                numpy.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5, err_msg=each.name)


class Corpus(unittest.TestCase):
    def setUp(self):
        try:
            import numpy
        except ImportError:
            self.skipTest("there is no NumPy")
        self.numpy = numpy
        sys.path.insert(0, str(HERE.parent))
        import bounds
        import corpus
        self.corpus, self.oracle, self.bounds = corpus, corpus.corpus_oracle, bounds

    def test_products_have_bounds(self):
        folder = HERE.parent.parent.parent / "tests" / "corpus" / "run"
        tests = {path.stem: self.oracle.read_test(path) for path in folder.glob("*.test")}
        products = {name for name, test in tests.items() if self.corpus.is_product(test["program"])}
        self.assertEqual(products, {name for name in tests if name.startswith("matmul")})
        for name in products:
            want = [self.oracle.read_result(line) for line in tests[name]["sections"]["run"].splitlines()]
            errors = self.corpus.bounds(tests[name])
            self.assertEqual([w.shape for w in want], [e.shape for e in errors], name)
            for one, error in zip(want, errors):
                self.assertTrue(self.bounds.within(one, one, error), name)
                # Of integers the products are exact; which of two floats is more may be in doubt.
                self.assertTrue(one.dtype.kind in "fb" or not error.any(), name)

    def test_a_library_may_round_otherwise_and_no_more(self):
        numpy = self.numpy
        x = self.bounds.Bounded(numpy.full((2, 3), 1.0))
        product = x @ x.T
        want, eps = product.value, numpy.finfo(float).eps
        self.assertTrue((product.error == 9 * eps).all())
        self.assertTrue(self.bounds.within(want + 8 * eps, want, product.error))
        self.assertFalse(self.bounds.within(want + 16 * eps, want, product.error))
        vector = x @ self.bounds.Bounded(numpy.ones(3))
        self.assertFalse(vector.error.any(), "products with vectors are sums")
        nan = numpy.where([[True, False]] * 2, numpy.nan, want)
        self.assertTrue(self.bounds.within(nan, nan, product.error))
        self.assertFalse(self.bounds.within(want, nan, product.error))
        self.assertFalse(self.bounds.within(nan, want, product.error))

    def test_what_is_around_a_product_is_bounded(self):
        numpy, Bounded, within = self.numpy, self.bounds.Bounded, self.bounds.within
        rng = numpy.random.default_rng(1)
        a, b, c = (rng.uniform(-1, 1, shape).astype(numpy.float32) for shape in ((9, 50), (50, 7), (50,)))

        def formula(x, y, z):
            return numpy.maximum(numpy.exp(x - z) @ y * 3 + 1, 0)
        result = formula(*map(Bounded, (a, b, c)))
        # The same in the other order of summing, and with one rounding for a multiplication and an addition.
        product = numpy.array([[math.fsum(row * column) for column in b.T.astype(float)] for row in numpy.exp(a - c).astype(float)])
        other = numpy.maximum(product * 3 + 1, 0).astype(numpy.float32)
        self.assertTrue((other != result.value).any(), "there is something to be bounded")
        self.assertTrue(within(other, result.value, result.error))
        self.assertTrue((result.error < 1e-2).all(), "the bound says something")
        self.assertFalse(within(other * numpy.float32(1.01), result.value, result.error))
        # What is not a product, and is of exact operands, has the same bits everywhere.
        self.assertFalse(numpy.add(Bounded(a), 1).error.any())
        # A comparison is in doubt only where the operands are near to each other.
        sums = Bounded(numpy.ones((2, 3))) @ Bounded(numpy.ones((3, 1)))
        self.assertEqual((sums > numpy.array([[3.0], [2.0]])).error.tolist(), [[1.0], [0.0]])
        with self.assertRaises(TypeError):
            numpy.sin(Bounded(a))

    def test_results_that_are_wrong_are_told(self):
        import peers
        for each in cases.PRODUCTS:
            inputs = peers.INPUTS.arrays(each, cases.bind(each.sizes, 3000))
            right = each.formula(self.numpy, *inputs)
            self.assertEqual(self.bounds.disagreement(each, inputs, right), "", each.name)
            wrong = right.copy()
            wrong.flat[-1] += 1
            self.assertIn("bound", self.bounds.disagreement(each, inputs, wrong), each.name)
            self.assertIn("shape", self.bounds.disagreement(each, inputs, right[1:]), each.name)
        each = cases.case("product")
        inputs = peers.INPUTS.arrays(each, cases.bind(each.sizes, 300_000))
        # Operands of ten bits, as tensor cores have them.
        short = [((x.view(self.numpy.uint32) + 0x1000) & 0xffffe000).view(self.numpy.float32) for x in inputs]
        self.assertNotEqual(self.bounds.disagreement(each, inputs, short[0] @ short[1]), "")


class Products(unittest.TestCase):
    """products.py, with a program that is NumPy."""

    def run_with(self, change):
        try:
            import numpy  # noqa: F401
        except ImportError:
            self.skipTest("there is no NumPy")
        import products
        with tempfile.TemporaryDirectory() as folder:
            folder = pathlib.Path(folder)
            program = folder / "device_calls"
            program.write_text(f"""#!{sys.executable}
import json, os, sys
sys.path.insert(0, {str(HERE.parent)!r})
import numpy
import cases
words = sys.argv[1:]
assert words[0] == "products"
records = open(words[words.index("--json") + 1], "a")
lib = words[words.index("--lib") + 1]
assert (os.environ.get("NUMFUSE_CUBLAS") == "0") == (lib == "numfuse-own")
for each in json.load(open(words[1])):
    case = cases.case(each["name"])
    result = case.formula(numpy, *(numpy.load(each["compared"][name]) for name in case.inputs))
    {change}
    numpy.save(each["result"], result)
    records.write(json.dumps({{"kind": "large", "case": each["name"], "lib": lib, "ms": 2.0}}) + "\\n")
""")
            program.chmod(program.stat().st_mode | stat.S_IXUSR)
            json_file = folder / "records"
            code = products.main([str(program), "--json", str(json_file), "--bytes", "4000", "--compared", "3000", "--only", "dense,covariance"])
            return code, [json.loads(line) for line in json_file.read_text().splitlines()]

    def test_results_within_the_bound_are_timed(self):
        code, records = self.run_with("pass")
        self.assertEqual(code, 0)
        found = [(r["kind"], r["lib"], r["case"]) for r in records]
        self.assertEqual(found, [("large", lib, case) for lib in ("numfuse", "numfuse-own") for case in ("dense", "covariance")])
        self.assertEqual(records[0]["elements"], 1000)
        self.assertEqual(records[0]["bytes"], 4 * (3 * 31 * 31 + 31))

    def test_wrong_results_are_left_out(self):
        code, records = self.run_with('result = result + 1 if each["name"] == "dense" and lib == "numfuse-own" else result')
        self.assertEqual(code, 1)
        self.assertEqual([r["case"] for r in records if r["kind"] == "large"], ["dense", "covariance", "covariance"])
        self.assertEqual([(r["lib"], r["case"]) for r in records if r["kind"] == "left out"], [("numfuse-own", "dense")])


class Report(unittest.TestCase):
    def test_a_run_as_tables(self):
        text = report.markdown(result())
        self.assertIn("A copy on the device moves 4200 GB/s", text)
        self.assertIn("| `x*y + z` (fma) | 1.000 | 4158 | 99 % | 92 % | 0.67 jax | 2.000 | 1.500 |  |", text)
        self.assertIn("| **50 %** | 75 % | **2.00 torch** |", text)
        # The best plain product is numfuse's, 55 TFLOP/s: what is deep is held against that, what is shallow against the copy.
        self.assertIn("| `a @ b` (product) | 20.000 | 54.98 | 100 % |  |  |  | 0.80 torch |  | 25.000 |", text)
        self.assertIn("(dense) | 6.000 | 45.81 | 83 % | 10.000 | 27.49 | 50 % | **1.20 cupy** | 5.000 |  |", text)
        share = 100 * max(2 * 64 * 16384**2 / (2 * 8192**3 / 20), cases.case("dense-shallow").traffic({"n": 16384, "k": 64, "m": 16384}) / 4.2e9) / 0.5
        self.assertIn(f"(dense-shallow) | 0.500 | 68.72 | {share:.0f} % |", text)
        self.assertIn("| rows | 7 | **1** | 5 | all | 2.0 s |", text)
        self.assertIn("| **200.0** | 0.50 |", text)
        self.assertIn("bytes up | 44.0 | **80 %** |", text)
        self.assertIn("| `x*y + z`, held kernel | 1,000 | **6.0** | 7.0 |", text)
        self.assertIn("no \\| such module", text)
        self.assertNotIn("mean nothing", text)

    def test_what_is_missing_is_no_error(self):
        empty = {"date": "", "commit": "", "small": False, "hardware": {}, "stages": [], "records": []}
        self.assertIn("mean nothing", report.markdown(empty))
        half = result()
        half["records"] = half["records"][:5]
        self.assertIn("(fma)", report.markdown(half))

    def test_trials_are_not_recorded(self):
        with tempfile.TemporaryDirectory() as folder:
            page = pathlib.Path(folder) / "page.md"
            page.write_text(report.PAGE.read_text())
            for trial in (result(small=True), result(device="emulated device 0")):
                with self.assertRaises(SystemExit):
                    report.record(trial, page)
            self.assertEqual(page.read_text(), report.PAGE.read_text())

    def test_a_record_replaces_the_one_before(self):
        with tempfile.TemporaryDirectory() as folder:
            page = pathlib.Path(folder) / "page.md"
            page.write_text(report.PAGE.read_text())
            report.record(result(device="NVIDIA A100"), page)
            report.record(result(), page)
            text = page.read_text()
        self.assertTrue(text.startswith("Measured on 2030-01-02, NVIDIA H200.\n\n# Benchmarks on a GPU"), text[:200])
        self.assertNotIn("A100", text)
        self.assertEqual((text.count(report.BEGIN), text.count(report.END), text.count("(fma)")), (1, 1, 1))


class Check(unittest.TestCase):
    """The stages, with programs that are shell scripts."""

    def run_with(self, scripts, words):
        with tempfile.TemporaryDirectory() as folder:
            folder = pathlib.Path(folder)
            (folder / "bin").mkdir()
            for name, body in scripts.items():
                script = folder / "bin" / name
                # The last word is the file for records.
                script.write_text(f'#!/bin/sh\nfor last; do :; done\n{body}\n')
                script.chmod(script.stat().st_mode | stat.S_IXUSR)
            root, check.ROOT = check.ROOT, folder
            try:
                code = check.main(["--out", str(folder / "out"), *words])
            finally:
                check.ROOT = root
            return code, json.loads((folder / "out" / "result.json").read_text())

    def test_nothing_follows_a_smoke_test_that_fails(self):
        code, found = self.run_with({"device_check": "echo no device; exit 1", "device_bench": "exit 0"}, [])
        self.assertEqual(code, 1)
        self.assertEqual([(s["stage"], s["status"], s["output"]) for s in found["stages"]], [("smoke", "failed", "no device\n")])

    def test_what_a_stage_has_found_stays_if_it_fails(self):
        body = 'echo \'{"kind": "check", "samples": "x", "done": 2, "failed": 1, "kernels": 1, "ended": "all", "seconds": 1}\' >> "$last"\necho \'{"half\' >> "$last"\n[ "$1" = smoke ]'
        code, found = self.run_with({"device_check": body, "device_bench": "exit 0"}, ["--only", "check rows,bench"])
        self.assertEqual(code, 1)
        self.assertEqual([s["status"] for s in found["stages"]], ["passed", "failed", "passed"])
        self.assertEqual([r["stage"] for r in found["records"]], ["smoke", "check rows"])

    def test_a_stage_that_does_not_end_is_ended(self):
        seconds, check.CHECKS["rows"] = check.CHECKS["rows"], (1, 5.2)
        try:
            body = '[ "$1" = smoke ] || sleep 60'
            code, found = self.run_with({"device_check": body, "device_bench": "exit 0"}, ["--only", "check rows"])
        finally:
            check.CHECKS["rows"] = seconds
        self.assertEqual((code, found["stages"][1]["status"]), (1, "out of time"))

    def test_stages_fit_the_minutes_that_there_are(self):
        options = type("Options", (), {"small": False})
        each = check.stages(options)
        self.assertEqual(len({stage.name for stage in each}), len(each))
        # Limits are for stages that go wrong: not all of them do.
        self.assertLess(sum(stage.seconds for stage in each), 15 * 60)
        self.assertTrue(all(math.isfinite(stage.seconds) for stage in each) and os.path.exists(check.HERE / "cases.txt"))


if __name__ == "__main__":
    unittest.main()
