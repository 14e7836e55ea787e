"""The sweep over a service's own measurements."""

import json
import unittest
from pathlib import Path

from driver.truth import Band, Sample, hull, of_served, partition, round_trips, sweep, typical

FIXTURES = Path(__file__).parent / "fixtures"
MS = 1_000_000


def op(kind, start, end, **more):
    return {"kind": kind, "n": 1, "start": start * MS, "end": end * MS, **more}


def calls(*edges):
    return [edge * MS for edge in edges]


def answer(total, ops, marks, runtime="node"):
    return {"runtime": runtime, "total": total * MS, "ops": ops, "marks": [[t * MS, cpu * MS] for t, cpu in marks]}


def milliseconds(lines):
    return {line: round(ns / MS, 6) for line, ns in lines.items() if ns}


class Sweep(unittest.TestCase):
    def check(self, expected, total, ops, marks, most=None, runtime="node"):
        """Lines that got any time; `most` where it differs from the least."""
        low, high = map(milliseconds, sweep(answer(total, ops, marks, runtime)))
        self.assertEqual((expected, most or expected), (low, high))

    def test_a_call_gets_what_its_cpu_leaves(self):
        self.check({"database": 8, "cpu": 2}, 10, [op("sql", 0, 10)], [(0, 0), (10, 2)])

    def test_a_burn_off_the_core_is_runnable(self):
        self.check({"cpu": 6, "runnable": 4}, 10, [op("cpu", 0, 10, cpu=6 * MS)], [(0, 0), (10, 6)])

    def test_time_between_operations_is_a_gap(self):
        self.check({"timer": 4, "gap": 6}, 10, [op("sleep", 3, 7)], [(0, 0), (3, 0), (7, 0), (10, 0)])

    def test_of_parallel_calls_the_last_to_finish_is_charged(self):
        ops = [op("http", 0, 20, calls=calls(0, 20)), op("sql", 0, 8, calls=calls(0, 8))]
        self.check({"downstream": 20}, 20, ops, [(0, 0), (20, 0)])

    def test_it_is_the_call_that_finishes_last_not_the_operation(self):
        ops = [op("http", 0, 10, calls=calls(0, 5, 5, 10)), op("redis", 0, 12, n=3, calls=calls(0, 4, 4, 8, 8, 12))]
        # 0-4: http (5) after redis (4); 4-5: redis (8); 5-8: http (10); 8-12: redis (12)
        self.check({"downstream": 7, "cache": 5}, 12, ops, [(0, 0), (12, 0)])

    def test_cpu_beats_an_outstanding_call(self):
        ops = [op("http", 0, 20, calls=calls(0, 20)), op("cpu", 5, 10, cpu=5 * MS)]
        self.check({"downstream": 15, "cpu": 5}, 20, ops, [(0, 0), (5, 0), (10, 5), (20, 5)])

    def test_a_call_beats_a_sleep_and_a_write_beats_a_sleep(self):
        ops = [op("sleep", 0, 20), op("http", 0, 5, calls=calls(0, 5)), op("fsync", 5, 8)]
        self.check({"downstream": 5, "disk": 3, "timer": 12}, 20, ops, [(0, 0), (20, 0)])

    def test_two_cores_at_once_take_the_time_of_one(self):
        ops = [op("cpu", 0, 10, cpu=10 * MS), op("cpu", 0, 10, cpu=10 * MS)]
        self.check({"cpu": 10}, 10, ops, [(0, 0), (10, 20)], runtime="go")

    def test_threads_that_compute_by_turns_or_at_once(self):
        ops = [op("cpu", 0, 10, cpu=5 * MS), op("cpu", 0, 10, cpu=4 * MS)]
        self.check({"cpu": 7, "runnable": 1}, 10, ops, [(0, 0), (10, 9)],
                   most={"cpu": 9, "runnable": 3}, runtime="go")
        self.check({"cpu": 9, "runnable": 1}, 10, ops, [(0, 0), (10, 9)], runtime="python")

    def test_a_recorded_answer_is_partitioned_whole(self):
        recorded = json.loads((FIXTURES / "answer-node-parallel.json").read_text())
        low, high = sweep(recorded)
        self.assertEqual(low, high)
        self.assertAlmostEqual(recorded["total"], sum(low.values()), delta=1)
        self.assertGreater(low["cpu"], 8 * MS)
        self.assertGreater(low["downstream"], 17 * MS)
        self.assertGreaterEqual(min(low.values()), 0)


class Bands(unittest.TestCase):
    def test_wake_ups_make_the_band_of_a_call_and_of_runnable(self):
        sample = Sample(answer(10, [op("sql", 0, 10, n=4)], [(0, 0), (10, 2)]), 10 * MS, runqueue_ns=1 * MS)
        bands = partition(sample, wake_ns=0.25 * MS)
        self.assertEqual(Band(6.0, 8.0), bands["database"])
        self.assertEqual(Band(0.0, 2.0), bands["runnable"])

    def test_what_the_kernel_counts_beyond_the_handler_may_be_cpu(self):
        sample = Sample(answer(10, [op("cpu", 0, 10, cpu=10 * MS)], [(0, 0), (10, 10)]), 11 * MS, cpu_ns=12 * MS)
        self.assertEqual(Band(10.0, 11.0), partition(sample)["cpu"])

    def test_file_workers_of_node_may_count_as_cpu_or_not(self):
        sample = Sample(answer(10, [op("fsync", 0, 10)], [(0, 0), (10, 4)]), 10 * MS, worker_ns=3 * MS)
        bands = partition(sample)
        self.assertEqual((Band(1.0, 4.0), Band(6.0, 9.0)), (bands["cpu"], bands["disk"]))

    def test_round_trips(self):
        for expected, kind, more in [(0, "cpu", {}), (3, "redis", {"n": 3}), (1, "redis", {"n": 3, "pipelined": True}),
                                     (1, "sleep", {}), (6, "fsync", {"n": 3})]:
            self.assertEqual(expected, round_trips({**op(kind, 0, 1), **more}), kind)

    def test_outliers_are_not_typical(self):
        walls = [10] * 9 + [500]
        samples = [Sample(answer(wall, [op("sleep", 0, wall)], [(0, 0), (wall, 0)]), wall * MS) for wall in walls]
        self.assertEqual(Band(10.0, 10.0), typical(samples)["timer"])

    def test_of_served_takes_run_queue_from_our_own_and_the_rest_from_the_latency(self):
        ours = Sample(answer(10, [op("sleep", 0, 10)], [(0, 0), (10, 1)]), 12 * MS, 2 * MS, 3 * MS)
        theirs = answer(20, [op("sleep", 0, 20)], [(0, 0), (20, 4)])
        self.assertEqual([Sample(theirs, 21.5 * MS, 5 * MS, 3 * MS)], of_served([theirs], [ours], 21.5))

    def test_hull(self):
        self.assertEqual({"cpu": Band(1, 4)}, hull({"cpu": Band(1, 2)}, {"cpu": Band(3, 4)}))


if __name__ == "__main__":
    unittest.main()
