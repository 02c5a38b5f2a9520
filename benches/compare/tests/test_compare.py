"""Tests of benches/compare with the standard library alone:

    python3 -m unittest discover -s benches/compare/tests -t benches/compare
"""

import ast
import io
import pathlib
import unittest

import cases
import measure
import report

HERE = pathlib.Path(__file__).resolve().parent.parent


class Clock:
    """A clock that moves when a function says how long it takes."""

    def __init__(self):
        self.now = 0.0
        self.log = []

    def __call__(self):
        return self.now

    def function(self, name, seconds):
        def call():
            self.now += seconds
            self.log.append(name)

        return call


class Measure(unittest.TestCase):
    def test_the_median_of_what_a_call_takes(self):
        clock = Clock()
        effort = measure.Effort(rounds=5, enough=1.0, sample=0.1, limit=100)
        found = measure.interleaved({"a": clock.function("a", 0.3), "b": clock.function("b", 0.01)}, effort, clock)
        self.assertAlmostEqual(found["a"].median, 0.3)
        self.assertAlmostEqual(found["b"].best, 0.01)
        self.assertEqual((found["a"].calls, found["a"].rounds), (1, 5))
        self.assertIn(found["b"].calls, (9, 10))
        self.assertGreaterEqual(found["b"].rounds * found["b"].calls * 0.01, 0.9)

    def test_competitors_take_turns(self):
        clock = Clock()
        effort = measure.Effort(rounds=4, enough=0.0, sample=0.0, limit=100)
        functions = {name: clock.function(name, 1.0) for name in "abc"}
        measure.interleaved(functions, effort, clock)
        # One call each to see how long it takes, then rounds.
        log = "".join(clock.log)
        self.assertEqual(len(log), 15)
        rounds = [log[i : i + 3] for i in range(3, 15, 3)]
        self.assertEqual({"".join(sorted(each)) for each in rounds}, {"abc"})
        self.assertGreater(len(set(rounds)), 1)

    def test_everybody_rests_before_a_turn(self):
        clock, rests = Clock(), []
        effort = measure.Effort(rounds=4, enough=0.0, sample=0.0, limit=100, rest=0.5)
        found = measure.interleaved({name: clock.function(name, 1.0) for name in "ab"}, effort, clock, rests.append)
        self.assertEqual(rests, [0.5] * 8)
        # One call each to see how long it takes; in each turn one that does not count, and one that does.
        self.assertEqual(len(clock.log), 2 + 16)
        self.assertEqual((found["a"].calls, found["a"].rounds), (1, 4))

    def test_a_rest_ends_when_nothing_spins_any_more(self):
        def rests(most, *spinning):
            clock = Clock()
            times, end = [], 0.0
            # One thread spins from the begin of each rest; to look takes some time, too.
            used = lambda: min(clock(), end) + clock() / 100
            rest = measure.Rest(used, lambda seconds: clock.function("", seconds)(), 0.25)
            for seconds in spinning:
                begin, end = clock(), clock() + seconds
                rest(most)
                times.append(clock() - begin)
            return times

        self.assertEqual(rests(4.0, 0.0, 0.0), [0.25, 0.25])
        # As long as the longest one before, whoever comes next.
        self.assertEqual(rests(4.0, 0.0, 1.5, 0.0, 0.5), [0.25, 1.75, 1.75, 1.75])
        self.assertEqual(rests(4.0, 9.0, 0.0), [4.0, 4.0])

    def test_few_rounds_are_spread_over_many(self):
        clock = Clock()
        effort = measure.Effort(rounds=3, enough=2.0, sample=0.1, limit=100)
        measure.interleaved({"slow": clock.function("s", 1.0), "fast": clock.function("f", 0.2)}, effort, clock)
        log = "".join(clock.log)[2:]
        self.assertEqual(log.count("s"), 3)
        self.assertEqual(log.count("f"), 10)
        self.assertTrue(all(len(part) >= 2 for part in log.split("s")[1:-1]), log)

    def test_who_takes_too_long_is_named_and_not_waited_for(self):
        clock = Clock()
        effort = measure.Effort(rounds=5, enough=0.1, sample=0.01, limit=20)
        found = measure.interleaved({"a": clock.function("a", 5.0), "b": clock.function("b", 0.1)}, effort, clock)
        self.assertIsInstance(found["a"], measure.TooSlow)
        self.assertEqual(clock.log.count("a"), 1)
        self.assertEqual(list(found), ["a", "b"])

    def test_one_disturbance_does_not_move_the_median(self):
        self.assertEqual(measure.summary([1.0, 1.0, 9.0, 1.0, 1.0], 1).median, 1.0)

    def test_durations(self):
        self.assertEqual(measure.duration(3.21e-6), "3.21 us")
        self.assertEqual(measure.duration(0.0456), "45.6 ms")
        self.assertEqual(measure.duration(12e-9), "12 ns")

    def test_progress_says_what_is_left(self):
        clock, stream = Clock(), io.StringIO()
        progress = measure.Progress("2 threads", 4.0, stream, clock, every=0.0)
        clock.now = 30.0
        progress.step(1.0, "exp")
        self.assertIn("25%  0:30 gone, 1:30 left  exp", stream.getvalue())


def cell(results, **changes):
    timed = {key: {"median": time} if isinstance(time, float) else {"note": time} for key, time in results.items()}
    usual = {"case": "exp", "n": 1000, "dtype": "float64", "threads": 1, "operations": 1, "bytes": 16000}
    return {**usual, "results": timed, **changes}


class Report(unittest.TestCase):
    CELL = cell(
        {
            "numfuse/fresh": 4.0,
            "numfuse/reused": 2.0,
            "numpy/fresh": 3.0,
            "numpy/reused": 5.0,
            "jax/fresh": 4.0,
            "numexpr/fresh": "failed: no",
        }
    )

    def test_ratios_are_over_the_best_peer(self):
        # A peer may do without an output that was there before.
        self.assertEqual(report.ratio(self.CELL, "reused"), (2.0 / 3.0, "numpy"))
        self.assertEqual(report.ratio(self.CELL, "fresh"), (4.0 / 3.0, "numpy"))

    def test_numbers_have_no_output_to_reuse(self):
        self.assertEqual(report.modes(cell({"numfuse/fresh": 1.0, "numpy/fresh": 2.0})), ["fresh"])

    def test_nobody_to_compare_with(self):
        self.assertIsNone(report.ratio(cell({"numfuse/fresh": 1.0}), "fresh"))
        self.assertIsNone(report.ratio(cell({"numpy/fresh": 1.0}), "fresh"))
        self.assertEqual(report.summary([cell({"numpy/fresh": 1.0})]), "")

    def test_large_arrays_are_counted_by_themselves(self):
        small = cell({"numfuse/fresh": 8.0, "numpy/fresh": 1.0}, n=10)
        large = cell({"numfuse/fresh": 1.0, "numpy/fresh": 2.0}, n=1000)
        every, _, rest = report.summary([small, large]).partition("From 1,000 elements on:")
        self.assertIn("| 1 thread | f64 | 2 | 1 (50 %) | 2.00 | 8.00 |", every)
        self.assertIn("| 1 thread | f64 | 1 | 1 (100 %) | 0.50 | 0.50 |", rest)
        self.assertNotIn("elements on", report.summary([large]))

    def test_every_row_behind_is_told(self):
        (row,) = report.behind([self.CELL])
        self.assertEqual(row, ["exp", "1e3", "f64", "1 thread", "fresh", "1.33", "numpy", "4 s", "3 s"])
        self.assertIn("1.33 4 s to 3 s of numpy                   BEHIND", report.terminal({"cells": [self.CELL]}))

    def test_who_is_left_out_is_told(self):
        self.assertEqual(report.left_out([self.CELL]), [["numexpr", "exp", "f64", "failed", "1"]])

    def test_a_grid_has_a_row_a_case(self):
        text = report.grid([self.CELL], 1, "float64", "fresh")
        self.assertIn("| `exp(x)` | **1.33 numpy** |", text)
        self.assertIsNone(report.grid([self.CELL], 2, "float64", "fresh"))

    def test_cases_with_sizes_of_their_own(self):
        own = cell({"numfuse/fresh": 1.0, "numpy/fresh": 2.0}, case="channels", n=80_000_000)
        self.assertIn("8e7: 0.50 numpy", report.grid([own, self.CELL], 1, "float64", "fresh"))

    def test_small_integers_stand_with_float64(self):
        own = cell({"numfuse/fresh": 1.0, "numpy/fresh": 2.0}, case="suppress", dtype="int16")
        self.assertIn("0.50 numpy", report.grid([own], 1, "float64", "fresh"))
        self.assertIsNone(report.grid([own], 1, "float32", "fresh"))

    def test_the_section_replaces_itself(self):
        once = report.inserted("# Title\n\ntext\n", "old")
        twice = report.inserted(once, "new")
        self.assertEqual(twice, f"# Title\n\ntext\n\n{report.BEGIN}\n\nnew\n\n{report.END}\n")

    def test_sizes(self):
        self.assertEqual([report.count(n) for n in (10, 1000, 25_000_000)], ["10", "1e3", "2.5e7"])


class Cases(unittest.TestCase):
    def test_names_are_different_and_have_loops(self):
        names = [each.name for each in cases.CASES]
        self.assertEqual(len(names), len(set(names)))
        tree = ast.parse((HERE / "loops.py").read_text())
        loops = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
        loops |= {target.id for node in tree.body if isinstance(node, ast.Assign) for target in node.targets}
        self.assertEqual(set(names) - loops, set())

    def test_texts_are_expressions_of_their_inputs(self):
        for each in cases.CASES:
            ast.parse(each.text)
            if isinstance(each.numexpr, str):
                ast.parse(each.numexpr, mode="eval")


if __name__ == "__main__":
    unittest.main()
