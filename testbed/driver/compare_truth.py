"""`run truth`: the ledger against the truth, over drawn plans."""

import json
import random
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from . import plans
from .client import Foreign, served, solo, wake_ns
from .services import Perfwright, everything, results_folder, warm_windows
from .table import describe, share, table
from .truth import Band, hull, median_ms, of_served, typical
from .verdict import cells, sum_problem

BAR = 0.95
SERVED_MIN = 5
WORKERS = {"gunicorn": 2, "node-cluster": 2}
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
    compared = recorded(Path(options.recorded)) if options.recorded else measured(options)
    print()
    print(summary_table(compared, bool(options.foreign)))
    print()
    return judge(compared, bool(options.foreign))


def measured(options):
    """Every drawn plan, compared and kept for `--recorded`."""
    results = results_folder("truth-%d%s" % (options.seed, "-foreign" if options.foreign else ""))
    perfwright, rng, compared = Perfwright(options.budget, results), random.Random(options.seed), []
    drawn = [(plans.any_plan(rng), options.runtimes[i % len(options.runtimes)]) for i in range(options.plans)]
    with everything(options.runtimes, results) as services:
        wake = wake_ns()
        print("idle wake-up delay %.0f us; reports and logs in %s\n" % (wake / 1e3, results))
        for i, (plan, runtime) in enumerate(drawn):
            name = "%03d-%s" % (i, runtime)
            one, truth = compare(options, perfwright, services[runtime], name, runtime, plan, wake, i)
            keep(results, one, truth)
            compared.append(one)
            print(line_of(one), flush=True)
    return compared


def keep(results, one, truth):
    """The truth beside the report."""
    bands = {line: [band.low, band.high] for line, band in (truth or {}).items()}
    kept = {"runtime": one.runtime, "plan": one.plan, "wall_ms": one.wall_ms, "truth": bands, "problem": one.problem}
    (results / (one.name + ".truth.json")).write_text(json.dumps(kept))


def recorded(folder):
    """An earlier comparison judged again: nothing is started."""
    compared = []
    for path in sorted(folder.glob("*.truth.json")):
        kept, name = json.loads(path.read_text()), path.name.removesuffix(".truth.json")
        one = Compared(name, kept["runtime"], kept["plan"], kept["wall_ms"], [], kept["problem"])
        if kept["truth"]:
            endpoint = json.loads((folder / (name + ".json")).read_text())["endpoints"][0]
            truth = {line: Band(*band) for line, band in kept["truth"].items()}
            one.cells, one.problem = cells(truth, endpoint, one.runtime), sum_problem(endpoint)
        compared.append(one)
        print(line_of(one))
    return compared


def compare(options, perfwright, service, name, runtime, plan, wake, number):
    """Our own requests before, perfwright's, our own after. Returns the comparison and the truth.

    The truth is the service's account of perfwright's own requests: a busy machine treats the next ones
    differently. Where too few of them were alone in the service, it is what our own ones allow.
    """
    pid, port = service
    path = plans.endpoint(plan, plans.page_size(plan))
    before = solo(port, pid, path, options.requests)
    with ExitStack() as stack:
        if options.foreign:
            stack.enter_context(Foreign(port, plans.endpoint(FOREIGN_PLAN), options.foreign, options.seed + number))
        report, problem = perfwright.investigate(name, port, path)
        windows = warm_windows(perfwright.out, report) if report else []
        answers = served(port, path, windows, WORKERS.get(runtime, 1))
    after = solo(port, pid, path, options.requests)
    wall = median_ms(before + after)
    if report is None:
        return Compared(name, runtime, plan, wall, [], problem), None
    endpoint = report["endpoints"][0]
    if len(answers) >= SERVED_MIN:
        latency = sum(row["ms"] for row in endpoint["ledger"])
        truth = typical(of_served(answers, before + after, latency), wake)
    else:
        truth = hull(typical(before, wake), typical(after, wake))
        if options.foreign:  # what others' requests delayed it by is `queueing`
            latency = endpoint["latency_ms"]["typical"]
            truth["edges"] = Band(truth["edges"].low, max(truth["edges"].high, latency - wall + truth["edges"].high))
    return Compared(name, runtime, plan, wall, cells(truth, endpoint, runtime), sum_problem(endpoint)), truth


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
