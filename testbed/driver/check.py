"""`run check`: do the truth services do what a plan says? Needs no perfwright.

Every operation is executed in every runtime; its count, its least duration and its CPU are compared with
the plan, and the number of statements with the database's own log.
"""

import re
import subprocess
import time
from pathlib import Path

from . import plans
from .client import RequestFailed, solo
from .services import TESTBED, environment, everything, results_folder
from .table import describe, share, table

COUNT = 12
SQL = [{"op": "sql", "db": db, "shape": shape, "n": COUNT, "rows": rows}
       for db in ("pg", "mysql") for shape in ("n_plus_one", "batched", "repeat", "varied") for rows in (1, 5)]
SCANS = [{"op": "sql", "db": db, "shape": "scan", "ms": ms} for db in ("pg", "mysql") for ms in (8, 40)]
CACHES = [{"op": op, "n": COUNT, "pipelined": pipelined} for op in ("redis", "memcached") for pipelined in (False, True)]
NESTED = {"op": "parallel", "steps": [
    {"op": "http", "n": 1, "ms": 20},
    {"op": "serial", "steps": [{"op": "sleep", "ms": 5}, {"op": "redis", "n": 4, "pipelined": False}]},
    {"op": "sql", "db": "pg", "shape": "varied", "n": 3}]}
PLANS = [{"op": "cpu", "ms": 10}, {"op": "cpu", "ms": 12, "slices": 3}, *SQL, *SCANS, *CACHES,
         {"op": "http", "n": 3, "ms": 7, "path": "stock"}, {"op": "sleep", "ms": 15},
         {"op": "fsync", "n": 5, "bytes": 8192}, {"op": "pieces"}, NESTED]


def run(options):
    results = results_folder("check")
    rows, wrong = [], 0
    with everything(options.runtimes, results) as services:
        env = environment()
        subprocess.run([TESTBED / "services", "log", "on"], check=True)
        try:
            for runtime in options.runtimes:
                for plan in PLANS:
                    problem, ms, cpu = check(*services[runtime], plan, env)
                    wrong += problem is not None
                    rows.append([runtime, describe(plan), "%.2f" % ms, "%.2f" % cpu, problem or "ok"])
        finally:
            subprocess.run([TESTBED / "services", "log", "off"], check=True)
    print(table(["runtime", "plan", "total ms", "CPU ms", "verdict"], rows))
    print("\n%s operations as planned" % share(len(rows) - wrong, len(rows)))
    return 1 if wrong else 0


def check(pid, port, plan, env):
    """What is wrong with a plan's answer (or None), its total and its CPU, milliseconds."""
    try:
        solo(port, pid, plans.endpoint(plan), 3)
        log = Path(env["TESTBED_MYSQL_LOG" if plan.get("db") == "mysql" else "TESTBED_PG_LOG"])
        offset = log.stat().st_size if log.exists() else 0
        sample = solo(port, pid, plans.endpoint(plan), 1, warm=0)[0]
    except RequestFailed as error:
        return str(error), 0.0, 0.0
    answer = sample.answer
    total, cpu = answer["total"] / 1e6, sample.cpu_ns / 1e6
    problem = count_problem(plan, answer) or time_problem(plan, answer, total)
    if problem is None and plan["op"] == "sql":
        logged = statements_logged(log, offset)
        if logged != answer["ops"][0]["n"]:
            problem = "%d statements, the server logged %d" % (answer["ops"][0]["n"], logged)
    return problem, total, cpu


def leaves(plan):
    return [leaf for step in plan["steps"] for leaf in leaves(step)] if "steps" in plan else [plan]


def expected_count(leaf):
    if leaf["op"] == "cpu":
        return leaf.get("slices", 1)
    if leaf["op"] == "sql":
        return {"n_plus_one": leaf.get("n", 1) + 1, "batched": 2}.get(leaf["shape"], leaf.get("n", 1))
    return leaf.get("n", 1)


def count_problem(plan, answer):
    expected = sorted((leaf["op"], expected_count(leaf)) for leaf in leaves(plan))
    counted = sorted((op["kind"], op["n"]) for op in answer["ops"])
    return None if counted == expected else "counted %s, planned %s" % (counted, expected)


def time_problem(plan, answer, total):
    """Waiting takes at least as long as planned, CPU is exact, and nothing leaves its request."""
    for op in answer["ops"]:
        if not 0 <= op["start"] <= op["end"] <= answer["total"]:
            return "an operation is outside its request"
    if plan["op"] == "cpu" and "cpu" in answer["ops"][0]:
        burnt = answer["ops"][0]["cpu"] / 1e6
        if not plan["ms"] <= burnt <= plan["ms"] * 1.05 + 0.5:
            return "burnt %.2f ms of CPU" % burnt
    least = max((leaf["ms"] * leaf.get("n", 1) for leaf in leaves(plan) if leaf["op"] in ("sleep", "http")), default=0)
    # a timer may fire a fraction of a millisecond early
    return "took %.2f ms, at least %.2f planned" % (total, least) if total < least - 1 else None


def statements_logged(log, offset):
    """Statements in the server's log since `offset`; the server writes it before it answers."""
    time.sleep(0.05)
    with open(log, "rb") as file:
        file.seek(offset)
        text = file.read().decode(errors="replace")
    return len(re.findall(r"LOG:  (?:execute [^:]*|statement): |\d (?:Query|Execute)\t", text))


