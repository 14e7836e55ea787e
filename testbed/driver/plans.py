"""Draws plans from a seed: any plan, planted faults with their repair, healthy requests."""

import json
import math
from dataclasses import dataclass, field
from urllib.parse import quote


def endpoint(plan, size=None):
    """The request that executes a plan. No braces or blanks are left: they mean ranges to perfwright."""
    path = "/plan?p=" + quote(json.dumps(plan, separators=(",", ":")), safe="")
    return path if size is None else "%s&size=%d" % (path, size)


def page_size(plan):
    """n of the plan's list-shaped operation, which a caller can then ask for with `size`."""
    if plan.get("shape") in ("n_plus_one", "batched"):
        return plan["n"]
    sizes = {page_size(step) for step in plan.get("steps", ())} - {None}
    return sizes.pop() if len(sizes) == 1 else None


def _log_uniform(rng, low, high):
    return math.exp(rng.uniform(math.log(low), math.log(high)))


def _count(rng, low=2, high=200):
    return round(_log_uniform(rng, low, high))


def _ms(rng, low, high):
    return round(_log_uniform(rng, low, high), 1)


# ------------------------------------------------------------------------------------ any plan


def _cpu(rng):
    return {"op": "cpu", "ms": _ms(rng, 3, 80)}


def _sql(rng):
    step = {"op": "sql", "db": rng.choice(["pg", "mysql"]),
            "shape": rng.choice(["n_plus_one", "repeat", "varied", "scan"])}
    if step["shape"] == "scan":
        step["ms"] = _ms(rng, 5, 80)
    else:
        step["n"] = _count(rng)
    if step["shape"] in ("n_plus_one", "repeat"):
        step["rows"] = rng.choice([1, 1, 1, 5, 20])
    return step


def _cache(rng):
    return {"op": rng.choice(["redis", "memcached"]), "n": _count(rng), "pipelined": rng.random() < 0.3}


def _http(rng):
    return {"op": "http", "n": rng.randint(1, 5), "ms": _ms(rng, 2, 40), "path": rng.choice(SUPPLIES)}


def _sleep(rng):
    return {"op": "sleep", "ms": _ms(rng, 3, 80)}


def _fsync(rng):
    return {"op": "fsync", "n": _count(rng, 2, 40), "bytes": rng.choice([4096, 16384, 65536])}


LEAVES = [(_cpu, 3), (_sql, 5), (_cache, 3), (_http, 2), (_sleep, 2), (_fsync, 2)]
SUPPLIES = ["stock", "price", "shipping", "tax", "rating", "related", "profile", "quote"]


def _leaf(rng):
    draws, weights = zip(*LEAVES)
    return rng.choices(draws, weights)[0](rng)


def _branch(rng):
    if rng.random() < 0.35:
        return {"op": "serial", "steps": [_leaf(rng) for _ in range(2)]}
    return _leaf(rng)


def _part(rng):
    if rng.random() < 0.3:
        return {"op": "parallel", "steps": [_branch(rng) for _ in range(rng.randint(2, 4))]}
    return _leaf(rng)


def any_plan(rng):
    """One to four parts in a row, of which some are parallel, with series inside."""
    parts = [_part(rng) for _ in range(rng.randint(1, 4))]
    return parts[0] if len(parts) == 1 else {"op": "serial", "steps": parts}


# ------------------------------------------------------------------------------------ faults


@dataclass(frozen=True)
class Case:
    """A request with a planted fault, and the same without it."""

    rule: str
    runtime: str
    plan: dict
    repaired: dict
    share: float
    size: int = field(default=None)


# What one unit of an operation costs, ms; `run rules` measures it per runtime before it draws.
DEFAULT_COSTS = {"n_plus_one": 0.15, "repeat": 0.12, "varied": 0.2, "redis": 0.08, "memcached": 0.08, "fsync": 0.4}
HEALTHY_CPU_MS = 5.0
HEALTHY_CALL_MS = 4.0
# a third of the answers wait 40 ms for an acknowledgement
HELD_MS = 13.0


def _fault_n_plus_one(rng, costs, _runtime):
    step = {"op": "sql", "db": rng.choice(["pg", "mysql"]), "shape": "n_plus_one", "n": _count(rng, 8, 200)}
    return step, {**step, "shape": "batched"}, step["n"] * costs["n_plus_one"]


def _fault_slow_statement(rng, _costs, _runtime):
    step = {"op": "sql", "db": rng.choice(["pg", "mysql"]), "shape": "scan", "ms": _ms(rng, 15, 120)}
    return step, {"op": "sql", "db": step["db"], "shape": "varied", "n": 1}, step["ms"]


def _fault_repeated(rng, costs, _runtime):
    step = {"op": "sql", "db": rng.choice(["pg", "mysql"]), "shape": "repeat", "n": _count(rng, 8, 200)}
    return step, {**step, "n": 1}, step["n"] * costs["repeat"]


def _fault_chatty_cache(rng, costs, _runtime):
    step = {"op": rng.choice(["redis", "memcached"]), "n": _count(rng, 8, 200), "pipelined": False}
    return step, {**step, "pipelined": True}, step["n"] * costs[step["op"]]


def _fault_serial_calls(rng, _costs, _runtime):
    calls = [{"op": "http", "n": 1, "ms": _ms(rng, 8, 40), "path": path}
             for path in rng.sample(SUPPLIES, rng.randint(3, 8))]
    total = sum(call["ms"] for call in calls)
    return ({"op": "serial", "steps": calls}, {"op": "parallel", "steps": calls},
            total - max(call["ms"] for call in calls))


def _fault_slow_dependency(rng, _costs, _runtime):
    step = {"op": "http", "n": 1, "ms": _ms(rng, 40, 250), "path": rng.choice(SUPPLIES)}
    return step, None, step["ms"]


def _fault_hot_path(rng, _costs, runtime):
    step = {"op": "cpu", "ms": _ms(rng, 20, 150)}
    if runtime.startswith("node"):  # in one piece it would be event-loop-blocked
        step["slices"] = math.ceil(step["ms"] / 6)
    return step, None, step["ms"]


def _fault_blocked_loop(rng, _costs, _runtime):
    step = {"op": "cpu", "ms": _ms(rng, 60, 250)}
    return step, None, step["ms"]


def _fault_timer(rng, _costs, _runtime):
    step = {"op": "sleep", "ms": _ms(rng, 20, 150)}
    return step, None, step["ms"]


def _fault_sync_writes(rng, costs, _runtime):
    step = {"op": "fsync", "n": _count(rng, 8, 200), "bytes": rng.choice([4096, 8192, 16384])}
    return step, {**step, "n": 1}, step["n"] * costs["fsync"]


def _fault_pieces(_rng, _costs, _runtime):
    return {"op": "pieces"}, None, HELD_MS


# rule -> how its fault is drawn, the runtimes it exists in, filler that would be the same fault
FAULTS = {
    "sql-n-plus-one": (_fault_n_plus_one, None, ()),
    "sql-slow-statement": (_fault_slow_statement, None, ()),
    "sql-repeated-statement": (_fault_repeated, None, ()),
    "chatty-cache": (_fault_chatty_cache, None, ()),
    "serial-calls": (_fault_serial_calls, None, ("http",)),
    "slow-dependency": (_fault_slow_dependency, None, ("http",)),
    "cpu-hot-path": (_fault_hot_path, None, ("cpu",)),
    "event-loop-blocked": (_fault_blocked_loop, ("node",), ("cpu",)),
    "timer-wait": (_fault_timer, None, ()),
    "disk-sync-writes": (_fault_sync_writes, None, ()),
    "delayed-ack": (_fault_pieces, None, ()),
}


def fault_case(rng, rule, runtimes, costs_of=None):
    """A fault of one rule at a drawn share of the request; None where no runtime can have it."""
    draw, only, excluded = FAULTS[rule]
    possible = [r for r in runtimes if only is None or r in only]
    if not possible:
        return None
    runtime = rng.choice(possible)
    costs = (costs_of or {}).get(runtime, DEFAULT_COSTS)
    step, repaired, cost = draw(rng, costs, runtime)
    share = rng.uniform(0.2, 0.9)
    filler = _filler(rng, cost * (1 - share) / share, cost, costs, excluded)
    place = rng.randint(0, len(filler))
    return Case(rule, runtime, _serial(filler[:place] + [step] + filler[place:]),
                _serial(filler[:place] + ([repaired] if repaired else []) + filler[place:]),
                share, page_size(step))


def _serial(steps):
    return steps[0] if len(steps) == 1 else {"op": "serial", "steps": steps}


def _filler(rng, budget_ms, fault_ms, costs, excluded):
    """Healthy work of about `budget_ms`, no piece of which could save more than the fault does."""
    kinds = [kind for kind in ("varied", "cpu", "http", "mysql", "redis") if kind not in excluded]
    rng.shuffle(kinds)
    steps = []
    for kind in kinds:
        if budget_ms < 0.3:
            break
        step, cost = _filler_step(rng, kind, min(budget_ms, 0.7 * fault_ms), costs)
        if step is not None:
            steps.append(step)
            budget_ms -= cost
    return steps


def _filler_step(rng, kind, wanted_ms, costs):
    if kind == "cpu":
        ms = round(max(min(wanted_ms, HEALTHY_CPU_MS), 0.3), 1)
        return {"op": "cpu", "ms": ms}, ms
    if kind == "http":
        ms = round(max(min(wanted_ms, 100), 1), 1)
        branches = rng.randint(2, 4)
        calls = [{"op": "http", "n": 1, "ms": ms, "path": path} for path in rng.sample(SUPPLIES, branches)]
        return {"op": "parallel", "steps": calls}, ms
    if kind == "redis":
        return {"op": "redis", "n": rng.randint(2, 20), "pipelined": True}, costs["redis"] * 2
    n = max(1, min(6, round(wanted_ms / costs["varied"])))
    return {"op": "sql", "db": "mysql" if kind == "mysql" else "pg", "shape": "varied", "n": n}, n * costs["varied"]


# ------------------------------------------------------------------------------------ healthy


def healthy_plan(rng):
    """Fast varied statements, parallel calls, a little CPU: nothing to find here."""
    steps = []
    if rng.random() < 0.8:
        steps.append({"op": "sql", "db": rng.choice(["pg", "mysql"]), "shape": "varied", "n": rng.randint(1, 8)})
    if rng.random() < 0.6:
        calls = [{"op": "http", "n": 1, "ms": _ms(rng, 1, HEALTHY_CALL_MS), "path": path}
                 for path in rng.sample(SUPPLIES, rng.randint(2, 5))]
        steps.append({"op": "parallel", "steps": calls})
    if rng.random() < 0.6 or not steps:
        steps.append({"op": "cpu", "ms": _ms(rng, 0.5, HEALTHY_CPU_MS)})
    if rng.random() < 0.4:
        steps.append({"op": "redis", "n": rng.randint(1, 20), "pipelined": True})
    if rng.random() < 0.3:
        steps.append({"op": "redis", "n": 1, "pipelined": False})
    rng.shuffle(steps)
    return _serial(steps)
