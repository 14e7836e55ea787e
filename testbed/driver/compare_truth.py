"""`run truth`: the ledger against the truth, over drawn plans."""

import random
from contextlib import ExitStack
from dataclasses import dataclass

from . import plans
from .client import Foreign, solo, wake_ns
from .services import Perfwright, everything, results_folder
from .table import describe, share, table
from .truth import hull, median_ms, typical
from .verdict import cells, sum_problem

BAR = 0.95
COVERAGE_LOW, COVERAGE_HIGH = 0.80, 0.98
# someone else's request: it costs the service little, so that the truth stays the quiet one
FOREIGN_PLAN = {"op": "serial", "steps": [{"op": "cpu", "ms": 0.5},
                                          {"op": "sql", "db": "pg", "shape": "varied", "n": 2}]}


@dataclass
class Compared:
    """One plan in one runtime."""

    name: str
    runtime: str
    plan: dict
    wall_ms: float
    cells: list
    problem: str = None  # why there is no comparison, or what is wrong beside the cells


def run(options):
    """Prints the table; 0 when the bar is met."""
    results = results_folder("truth-%d%s" % (options.seed, "-foreign" if options.foreign else ""))
    perfwright = Perfwright(options.budget, results, options.recorded)
    rng = random.Random(options.seed)
    drawn = [(plans.any_plan(rng), options.runtimes[i % len(options.runtimes)]) for i in range(options.plans)]
    compared = []
    with everything(options.runtimes, results) as services:
        wake = wake_ns()
        for i, (plan, runtime) in enumerate(drawn):
            one = compare(options, perfwright, services[runtime], "%03d-%s" % (i, runtime), runtime, plan, wake, i)
            compared.append(one)
            print(line_of(one), flush=True)
    print()
    print(summary_table(compared, bool(options.foreign)))
    print("\nidle wake-up delay %.0f us; reports and logs in %s" % (wake / 1e3, results))
    return judge(compared, bool(options.foreign))


def compare(options, perfwright, service, name, runtime, plan, wake, number):
    """Truth before, perfwright, truth after."""
    pid, port = service
    path = plans.endpoint(plan, plans.page_size(plan))
    before = solo(port, pid, path, options.requests)
    with ExitStack() as stack:
        if options.foreign:
            stack.enter_context(Foreign(port, plans.endpoint(FOREIGN_PLAN), options.foreign, options.seed + number))
        report, problem = perfwright.investigate(name, port, path)
    after = solo(port, pid, path, options.requests)
    wall = median_ms(before + after)
    if report is None:
        return Compared(name, runtime, plan, wall, [], problem)
    truth = hull(typical(before, wake), typical(after, wake))
    endpoint = report["endpoints"][0]
    return Compared(name, runtime, plan, wall, cells(truth, endpoint), sum_problem(endpoint))


def line_of(one):
    """Progress: one line a plan, with the cells that are wrong."""
    wrong = ["%s %.2f, truth %.2f-%.2f" % (c.line, c.reported, c.truth.low, c.truth.high)
             for c in one.cells if not c.ok]
    state = one.problem or ("; ".join(wrong) if wrong else "ok")
    return "%s %8.2f ms  %s  %s" % (one.name.ljust(18), one.wall_ms, describe(one.plan), state)


def summary_table(compared, foreign):
    """Cells within tolerance by line and runtime."""
    runtimes = sorted({one.runtime for one in compared})
    lines = sorted({cell.line for one in compared for cell in one.cells})
    good = (lambda cell: cell.covered) if foreign else (lambda cell: cell.ok)
    rows = []
    for line in lines:
        row = [line]
        for runtime in runtimes:
            chosen = [c for one in compared if one.runtime == runtime for c in one.cells if c.line == line]
            row.append(share(sum(map(good, chosen)), len(chosen)))
        rows.append(row)
    return table([("covered" if foreign else "within max(1 ms, 10 %)"), *runtimes], rows)


def judge(compared, foreign):
    """The summary lines and the exit code. A plan without a report fails all the lines it should have."""
    every = [cell for one in compared for cell in one.cells]
    failed = [one for one in compared if not one.cells]
    # what a plan without a report is charged with
    average = max(round(len(every) / max(len(compared) - len(failed), 1)), 1)
    lost = average * len(failed)
    sums = [one for one in compared if one.cells and one.problem]
    material = [cell for cell in every if cell.material]
    print("plans %d, without a report %d, whose lines do not sum to the latency %d"
          % (len(compared), len(failed), len(sums)))
    if foreign:
        covered, whole = sum(cell.covered for cell in material), len(material) + lost
        rate = covered / whole if whole else 0.0
        print("90 %% interval covers the truth: %s of the cells of at least 1 ms (bar %d-%d %%)"
              % (share(covered, whole), 100 * COVERAGE_LOW, 100 * COVERAGE_HIGH))
        return 0 if COVERAGE_LOW <= rate <= COVERAGE_HIGH and not failed else 1
    within, whole = sum(cell.ok for cell in every), len(every) + lost
    within_material, whole_material = sum(cell.ok for cell in material), len(material) + lost
    print("cells within max(1 ms, 10 %%): %s; of at least 1 ms: %s (bar %d %% of both)"
          % (share(within, whole), share(within_material, whole_material), 100 * BAR))
    enough = whole > 0 and within >= BAR * whole and within_material >= BAR * whole_material
    return 0 if enough and not sums else 1
