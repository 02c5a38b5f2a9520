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

    def test_formulas_are_the_expressions(self):
        try:
            import numpy
        except ImportError:
            self.skipTest("there is no NumPy")
        sys.path.insert(0, str(HERE.parent.parent.parent / "scripts"))
        import corpus_oracle
        import peers
        for each in cases.CASES:
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
        import corpus
        self.corpus, self.oracle = corpus, corpus.corpus_oracle

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
                self.assertTrue(self.corpus.within(one, one, error), name)
                self.assertTrue(one.dtype.kind == "f" or not error.any(), name)

    def test_a_library_may_round_otherwise_and_no_more(self):
        numpy = self.numpy
        x = self.corpus.Bounded(numpy.full((2, 3), 1.0))
        product = x @ x.T
        want, eps = product.value, numpy.finfo(float).eps
        self.assertTrue((product.error == 9 * eps).all())
        self.assertTrue(self.corpus.within(want + 8 * eps, want, product.error))
        self.assertFalse(self.corpus.within(want + 16 * eps, want, product.error))
        vector = x @ self.corpus.Bounded(numpy.ones(3))
        self.assertFalse(vector.error.any(), "products with vectors are sums")
        nan = numpy.where([[True, False]] * 2, numpy.nan, want)
        self.assertTrue(self.corpus.within(nan, nan, product.error))
        self.assertFalse(self.corpus.within(want, nan, product.error))
        self.assertFalse(self.corpus.within(nan, want, product.error))


class Report(unittest.TestCase):
    def test_a_run_as_tables(self):
        text = report.markdown(result())
        self.assertIn("A copy on the device moves 4200 GB/s", text)
        self.assertIn("| `x*y + z` (fma) | 1.000 | 4158 | 99 % | 92 % | 0.67 jax | 2.000 | 1.500 |  |", text)
        self.assertIn("| **50 %** | 75 % | **2.00 torch** |", text)
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
