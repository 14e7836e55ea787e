"""Cells, sums, findings and predictions of a recorded report."""

import copy
import json
import unittest
from pathlib import Path

from driver.truth import Band
from driver.verdict import above_info, cells, demand_cell, first_rule, hidden, prediction, report_lines, sum_problem, within

REPORT = json.loads((Path(__file__).parent / "fixtures" / "report.json").read_text())
ENDPOINT = REPORT["endpoints"][0]
TRUTH = {"cpu": Band(10.4, 10.9), "runnable": Band(0.0, 0.8), "edges": Band(0.0, 0.3),
         "unattributed": Band(0.0, 0.0), "lock": Band(0.0, 0.0), "database": Band(9.2, 10.4),
         "cache": Band(0.0, 0.0), "downstream": Band(0.0, 0.0), "disk": Band(0.0, 0.0), "timer": Band(9.9, 10.1)}


def verdicts(truth=None, endpoint=ENDPOINT):
    return {cell.line: cell for cell in cells({**TRUTH, **(truth or {})}, endpoint)}


class Cells(unittest.TestCase):
    def test_details_of_a_line_are_added_and_gc_is_cpu(self):
        lines = report_lines(ENDPOINT)
        self.assertAlmostEqual(10.0, lines["database"][0])
        self.assertAlmostEqual(10.5, lines["cpu"][0])
        self.assertAlmostEqual(0.1, lines["edges"][0])

    def test_silent_lines_are_no_cells(self):
        self.assertEqual({"cpu", "runnable", "edges", "unattributed", "database", "timer"}, set(verdicts()))

    def test_a_sleep_may_be_left_unattributed(self):
        found = verdicts()
        self.assertTrue(all(cell.ok for cell in found.values()), found)

    def test_unattributed_without_a_sleep_is_wrong(self):
        found = verdicts({"timer": Band(4.0, 4.0)})
        self.assertTrue(found["timer"].ok)
        self.assertFalse(found["unattributed"].ok)

    def test_a_wrong_line_is_wrong_and_not_covered(self):
        found = verdicts({"database": Band(15.0, 16.0)})
        self.assertFalse(found["database"].ok)
        self.assertFalse(found["database"].covered)

    def test_a_line_the_truth_does_not_know_is_a_cell(self):
        endpoint = copy.deepcopy(ENDPOINT)
        endpoint["ledger"].append({"line": "disk", "detail": "", "ms": 5.0, "low": 4.0, "high": 6.0, "share": 0.1})
        found = verdicts(endpoint=endpoint)
        self.assertFalse(found["disk"].ok)

    def test_go_runs_its_threads_side_by_side(self):
        truth = {**TRUTH, "cpu": Band(20.0, 21.0), "database": Band(5.0, 6.0)}
        bands = hidden(truth)
        self.assertEqual((Band(10.0, 21.0), Band(5.0, 16.0)), (bands["cpu"], bands["database"]))
        for expected, ms in [(True, 20.0), (True, 40.0), (False, 15.0), (False, 60.0)]:
            endpoint = {"demand": [{"resource": "cpu:service", "per_request": ms}]}
            self.assertEqual(expected, demand_cell(truth, endpoint).ok, ms)

    def test_a_sleep_may_be_named_or_not(self):
        truth = {**TRUTH, "timer": Band(7.4, 8.2), "unattributed": Band(0.0, 0.0)}
        endpoint = copy.deepcopy(ENDPOINT)
        endpoint["ledger"] = [{"line": "unattributed", "detail": "", "ms": 6.6, "low": 6.0, "high": 7.0}]
        found = {cell.line: cell.ok for cell in cells(truth, endpoint)}
        self.assertEqual((True, True), (found["timer"], found["unattributed"]))

    def test_tolerance_is_a_millisecond_or_a_tenth(self):
        for expected, band, ms in [(True, Band(1, 1), 2.0), (False, Band(1, 1), 2.1), (True, Band(50, 50), 55.0),
                                   (False, Band(50, 50), 56.0), (True, Band(10, 20), 15.0), (True, Band(10, 20), 8.0)]:
            self.assertEqual(expected, within(band, ms), (band, ms))

    def test_sum(self):
        self.assertIsNone(sum_problem(ENDPOINT))
        short = copy.deepcopy(ENDPOINT)
        short["ledger"].pop()
        self.assertIn("lines sum to 25.000 ms", sum_problem(short))

    def test_of_two_kinds_the_median_may_be_neither(self):
        two = copy.deepcopy(ENDPOINT)
        two["latency_ms"]["p50"] = 1.5 * two["latency_ms"]["typical"]
        self.assertIn("far from the middle half", sum_problem(two))
        self.assertIsNone(sum_problem(two, (0.9 * two["latency_ms"]["typical"], 1.6 * two["latency_ms"]["typical"])))
        self.assertIn("far from", sum_problem(two, (1.2 * two["latency_ms"]["typical"], 2 * two["latency_ms"]["p50"])))
        two["other_kind"] = {"mean_ms": 2 * two["latency_ms"]["typical"],
                             "ledger": [{"ms": 2 * two["latency_ms"]["typical"]}]}
        self.assertIsNone(sum_problem(two))
        two["other_kind"]["ledger"] = []
        self.assertIn("do not sum", sum_problem(two))


class Findings(unittest.TestCase):
    def test_first_and_above_info(self):
        self.assertEqual("sql-n-plus-one", first_rule(REPORT))
        self.assertEqual(["sql-n-plus-one"], [finding["rule"] for finding in above_info(REPORT)])
        self.assertIsNone(first_rule({"findings": []}))

    def test_prediction(self):
        said = prediction(REPORT, "sql-n-plus-one", 13.0)
        self.assertTrue(said.ok and said.covered)
        self.assertFalse(prediction(REPORT, "sql-n-plus-one", 16.0).ok)
        self.assertIsNone(prediction(REPORT, "timer-wait", 16.0))
        self.assertIsNone(prediction(REPORT, "chatty-cache", 16.0))


if __name__ == "__main__":
    unittest.main()
