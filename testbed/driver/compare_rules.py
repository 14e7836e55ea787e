"""`run rules`: every rule against planted faults, healthy requests and repaired plans."""

import random
from dataclasses import dataclass

from . import plans
from .client import solo
from .services import Perfwright, everything, results_folder
from .table import describe, share, table
from .truth import median_ms
from .verdict import above_info, first_rule, prediction

RIGHT_BAR = 0.90
PREDICTION_BAR = 0.80
COST_REQUESTS = 8


@dataclass
class Judged:
    """One planted case."""

    name: str
    case: plans.Case
    wall_ms: float
    first: str
    prediction: object = None
    problem: str = None

    @property
    def right(self):
        return self.first == self.case.rule


def run(options):
    """Prints the tables; 0 when the bar is met."""
    results = results_folder("rules-%d" % options.seed)
    perfwright = Perfwright(options.budget, results)
    rng = random.Random(options.seed)
    with everything(options.runtimes, results) as services:
        costs = {runtime: unit_costs(*services[runtime]) for runtime in options.runtimes}
        judged = [planted(options, perfwright, services, name, case)
                  for name, case in draw_cases(rng, options, costs)]
        alarms = [healthy(options, perfwright, services, rng, i) for i in range(options.healthy)]
    print()
    print(rule_table(judged))
    print("\nreports and logs in %s" % results)
    return judge(judged, alarms)


def unit_costs(pid, port):
    """What one unit of each countable operation costs here and now, milliseconds."""
    costs = {}
    for name in plans.DEFAULT_COSTS:
        step = ({"op": name, "n": 20, "bytes": 4096} if name in ("redis", "memcached", "fsync")
                else {"op": "sql", "db": "pg", "shape": name, "n": 20})
        samples = solo(port, pid, plans.endpoint(step), COST_REQUESTS)
        costs[name] = median_ms(samples) / 20
    return costs


def draw_cases(rng, options, costs):
    """Every rule in turn; a rule that no runtime here can have is left out."""
    rules, made, i = list(plans.FAULTS), 0, 0
    while made < options.cases and i < options.cases * len(rules):
        case = plans.fault_case(rng, rules[i % len(rules)], options.runtimes, costs)
        i += 1
        if case is not None:
            yield "case-%03d-%s" % (made, case.runtime), case
            made += 1


def planted(options, perfwright, services, name, case):
    """perfwright on the fault, then the repaired plan by ourselves."""
    pid, port = services[case.runtime]
    faulty = solo(port, pid, plans.endpoint(case.plan, case.size), 5)
    report, problem = perfwright.investigate(name, port, plans.endpoint(case.plan, case.size))
    judged = Judged(name, case, median_ms(faulty), None, problem=problem)
    if report is not None:
        repaired = solo(port, pid, plans.endpoint(case.repaired, case.size), options.requests)
        judged.first = first_rule(report)
        judged.prediction = prediction(report, case.rule, median_ms(repaired))
    print(line_of(judged), flush=True)
    return judged


def line_of(judged):
    if judged.problem:
        return "%s %s: %s" % (judged.name, judged.case.rule, judged.problem)
    said = judged.prediction
    text = "%.2f ms predicted, %.2f measured" % (said.after, said.measured) if said else "no prediction"
    return "%s %s %s %8.2f ms  %s  first: %s, %s" % (
        "ok   " if judged.right else "WRONG", judged.name, judged.case.rule, judged.wall_ms,
        describe(judged.case.plan), judged.first, text)


def healthy(options, perfwright, services, rng, number):
    """The rules that cried wolf on a healthy request, or why there was no report."""
    runtime = options.runtimes[number % len(options.runtimes)]
    plan, name = plans.healthy_plan(rng), "healthy-%03d-%s" % (number, runtime)
    report, problem = perfwright.investigate(name, services[runtime][1], plans.endpoint(plan))
    wrong = [problem] if report is None else [
        "%s (%s)" % (finding["rule"], finding["severity"]) for finding in above_info(report)]
    print("%s %s  %s  %s" % ("WRONG" if wrong else "ok   ", name, describe(plan), ", ".join(wrong)), flush=True)
    return wrong


def rule_table(judged):
    rows = []
    for rule in plans.FAULTS:
        chosen = [one for one in judged if one.case.rule == rule]
        if not chosen:
            continue
        said = [one.prediction for one in chosen if one.prediction]
        others = sorted({str(one.first) for one in chosen if not one.right})
        rows.append([rule, len(chosen), share(sum(one.right for one in chosen), len(chosen)),
                     share(sum(p.ok for p in said), len(chosen)),
                     share(sum(p.covered for p in said), len(chosen)), ", ".join(others)])
    return table(["rule", "cases", "first", "p50 within ±20 %", "p50 in its interval", "first instead"], rows)


def judge(judged, alarms):
    right = sum(one.right for one in judged)
    predicted = sum(bool(one.prediction and one.prediction.ok) for one in judged)
    quiet = sum(not wrong for wrong in alarms)
    print("right rule first: %s (bar %d %%); predicted p50 within ±20 %%: %s (bar %d %%); healthy and quiet: %s (bar all)"
          % (share(right, len(judged)), 100 * RIGHT_BAR, share(predicted, len(judged)), 100 * PREDICTION_BAR,
             share(quiet, len(alarms))))
    enough = (right >= RIGHT_BAR * len(judged) and predicted >= PREDICTION_BAR * len(judged)
              and quiet == len(alarms) and judged + alarms)
    return 0 if enough else 1
