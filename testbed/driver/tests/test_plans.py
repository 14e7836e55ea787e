"""What is drawn from a seed."""

import json
import random
import unittest
from urllib.parse import parse_qs, urlsplit

from driver.check import leaves
from driver.cli import parser
from driver.plans import DEFAULT_COSTS, FAULTS, any_plan, endpoint, fault_case, healthy_plan, page_size
from driver.services import seconds
from driver.table import describe, table

RUNTIMES = ["node", "python", "go"]


class AnyPlan(unittest.TestCase):
    def test_a_seed_repeats_itself(self):
        one, other = random.Random(5), random.Random(5)
        self.assertEqual([any_plan(one) for _ in range(50)], [any_plan(other) for _ in range(50)])

    def test_sizes_stay_in_the_ranges_of_the_bar(self):
        rng, kinds = random.Random(1), set()
        for leaf in (leaf for _ in range(500) for leaf in leaves(any_plan(rng))):
            kinds.add(leaf["op"])
            if leaf["op"] == "cpu":
                self.assertTrue(3 <= leaf["ms"] <= 80)
            elif "n" in leaf and leaf["op"] != "http":
                self.assertTrue(2 <= leaf["n"] <= 200)
        self.assertEqual({"cpu", "sql", "redis", "memcached", "http", "sleep", "fsync"}, kinds)

    def test_series_and_parallels_nest(self):
        rng = random.Random(2)
        texts = [json.dumps(any_plan(rng)) for _ in range(200)]
        self.assertTrue(any('"parallel", "steps": [{"op": "serial"' in text for text in texts))

    def test_endpoint_has_no_character_that_means_a_range(self):
        plan = {"op": "serial", "steps": [{"op": "sleep", "ms": 3}]}
        path = endpoint(plan, 7)
        self.assertFalse(set(path) & set("{}[], \""))
        query = parse_qs(urlsplit(path).query)
        self.assertEqual((plan, "7"), (json.loads(query["p"][0]), query["size"][0]))

    def test_page_size(self):
        listed = {"op": "sql", "shape": "n_plus_one", "n": 9}
        self.assertEqual(9, page_size({"op": "serial", "steps": [{"op": "cpu", "ms": 3}, listed]}))
        self.assertIsNone(page_size({"op": "serial", "steps": [listed, {**listed, "n": 8}]}))


class Faults(unittest.TestCase):
    def test_every_rule_is_drawn_and_repaired(self):
        rng = random.Random(3)
        for rule in FAULTS:
            for _ in range(30):
                case = fault_case(rng, rule, RUNTIMES)
                self.assertEqual(rule, case.rule)
                self.assertNotEqual(case.plan, case.repaired)
                self.assertEqual(case.size is not None, rule == "sql-n-plus-one")

    def test_only_node_blocks_an_event_loop(self):
        self.assertIsNone(fault_case(random.Random(1), "event-loop-blocked", ["go", "python"]))
        self.assertEqual("node", fault_case(random.Random(1), "event-loop-blocked", RUNTIMES).runtime)

    def test_no_filler_outweighs_the_fault(self):
        rng = random.Random(4)
        for _ in range(200):
            case = fault_case(rng, "timer-wait", RUNTIMES)
            steps = case.plan.get("steps", [case.plan])
            fault = max(step["ms"] for step in steps if step["op"] == "sleep")
            for step in steps:
                if step["op"] == "cpu":
                    self.assertLess(step["ms"], fault)

    def test_healthy_is_small(self):
        rng = random.Random(6)
        for leaf in (leaf for _ in range(300) for leaf in leaves(healthy_plan(rng))):
            self.assertLessEqual(leaf.get("ms", 0), 5)
            self.assertTrue(leaf["op"] != "sql" or leaf["n"] <= 8)

    def test_costs_name_real_operations(self):
        self.assertEqual({"n_plus_one", "repeat", "varied", "redis", "memcached", "fsync"}, set(DEFAULT_COSTS))


class CommandLine(unittest.TestCase):
    def test_options(self):
        options = parser().parse_args(["truth", "--seed", "7", "--runtimes", "go,gunicorn", "--foreign", "20"])
        self.assertEqual((7, ["go", "gunicorn"], 20.0, 200),
                         (options.seed, options.runtimes, options.foreign, options.plans))

    def test_budget(self):
        self.assertEqual([8.0, 120.0, 5.0], [seconds(text) for text in ("8s", "2m", "5")])

    def test_table_and_words(self):
        self.assertEqual("| a | bb |\n|---|----|\n| 1 | 2  |", table(["a", "bb"], [[1, 2]]))
        plan = {"op": "parallel", "steps": [{"op": "http", "n": 3, "ms": 20}, {"op": "cpu", "ms": 4.5}]}
        self.assertEqual("(http 3×20 \\| cpu 4.5)", describe(plan))


if __name__ == "__main__":
    unittest.main()
