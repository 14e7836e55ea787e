"""`run one`: one short investigation of each runtime; the planted N+1 must be found first.

A fast look for every day. Whether that holds for any fault, and how right the figures are, is `run rules`
and `run truth`.
"""

import time

from . import plans
from .services import Perfwright, everything, results_folder
from .table import table
from .verdict import sum_problem

RULE = "sql-n-plus-one"
SIZE = 60
PLAN = {"op": "serial", "steps": [{"op": "cpu", "ms": 2},
                                  {"op": "sql", "db": "pg", "shape": "n_plus_one", "n": SIZE, "rows": 1}]}


def run(options):
    results = results_folder("one")
    perfwright, rows, wrong = Perfwright(options.budget, results), [], 0
    with everything(options.runtimes, results) as services:
        for runtime in options.runtimes:
            began = time.monotonic()
            report, problem = perfwright.investigate(runtime, services[runtime][1], plans.endpoint(PLAN, SIZE))
            problem = problem or fault(report)
            wrong += problem is not None
            rows.append([runtime, "%.1f" % (time.monotonic() - began), problem or first(report)])
    print(table(["runtime", "seconds", "found"], rows))
    return 1 if wrong else 0


def fault(report):
    """What is wrong with the report, or None."""
    endpoint = report["endpoints"][0]
    if not report["findings"] or report["findings"][0]["rule"] != RULE:
        return "not %s first but %s" % (RULE, [finding["rule"] for finding in report["findings"]])
    calls = max((row["calls"] or 0 for row in endpoint["ledger"] if row["line"] == "database"), default=0)
    if abs(calls - SIZE) > 1:
        return "%.1f statements alike in the ledger, %d planted" % (calls, SIZE)
    return sum_problem(endpoint)


def first(report):
    return "%s: %s" % (report["target"]["level"], report["findings"][0]["claim"].replace("\n", " ")[:100])
