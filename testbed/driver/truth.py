"""From a truth service's answer to the ledger it should get.

The service knows its operations, their calls where something may overlap them, and its CPU time at each
edge of an operation. `partition` sweeps over these with the ledger's own convention: CPU of the service
first, then an outstanding call (of several the last to finish), then the reasons for waiting.

What the service cannot see is when a wake-up begins: after the last byte of an answer the thread is
runnable until a core takes it. That time is on the line `runnable`, and inside it looks like waiting for
the call. So the truth of a line is a band: between none and all of the wake-ups charged to it. Its width
is the kernel's own run-queue time of the request plus the measured idle wake-up delay per round trip.
Nor does it see which of its threads were on a core at the same moment: where operations run side by side,
CPU on the path lies between what independent threads would give and the sum (`_cpu_path`), and the CPU of
Node's file workers may count or not, depending on what its main thread did meanwhile.
"""

from dataclasses import dataclass

LINE_OF_KIND = {"cpu": "cpu", "sql": "database", "redis": "cache", "memcached": "cache",
                "http": "downstream", "sleep": "timer", "fsync": "disk"}
CALL_LINES = ("database", "cache", "downstream")
WAIT_LINES = ("disk", "timer")  # in the order of the sweep
# edges of the request, outside the handler: sending, receiving, our own delay
EDGE_LINES = ("dns", "connect", "tls", "send", "receive", "generator", "queueing")


@dataclass(frozen=True)
class Band:
    """What a line may truly be, milliseconds."""

    low: float
    high: float

    @property
    def middle(self):
        return (self.low + self.high) / 2

    def distance(self, value):
        return max(self.low - value, value - self.high, 0.0)


@dataclass(frozen=True)
class Sample:
    """One request: the service's answer, the wall time its client saw, and the kernel's accounting."""

    answer: dict
    wall_ns: int
    cpu_ns: int = 0
    runqueue_ns: int = 0
    worker_ns: int = 0  # CPU of other threads than the first


@dataclass(frozen=True)
class _Interval:
    line: str
    start: int
    end: int
    density: float  # CPU per wall of a cpu operation, else 0


def _intervals(ops):
    for op in ops:
        line = LINE_OF_KIND[op["kind"]]
        calls = op.get("calls") or [op["start"], op["end"]]
        length = max(op["end"] - op["start"], 1)
        density = min(op.get("cpu", 0) / length, 1.0) if line == "cpu" else 0.0
        for start, end in zip(calls[::2], calls[1::2]):
            yield _Interval(line, start, end, density)


class _Cumulative:
    """CPU time as a function of wall time, straight between the marks."""

    def __init__(self, marks):
        self.marks = sorted(map(tuple, marks))

    def at(self, time):
        before = self.marks[0]
        for mark in self.marks:
            if mark[0] >= time:
                if mark[0] == before[0]:
                    return mark[1]
                part = (time - before[0]) / (mark[0] - before[0])
                return before[1] + part * (mark[1] - before[1])
            before = mark
        return before[1]


def round_trips(op):
    """How often the service slept and was woken for an operation."""
    if op["kind"] == "cpu":
        return 0
    if op.get("pipelined"):
        return 1
    return op["n"] * (2 if op["kind"] == "fsync" else 1)


def sweep(answer):
    """The least and the most nanoseconds per line inside the handler; time under no label is `gap`."""
    intervals = list(_intervals(answer["ops"]))
    cumulative = _Cumulative(answer["marks"])
    edges = sorted({0, answer["total"]}
                   | {edge for i in intervals for edge in (i.start, i.end)}
                   | {mark[0] for mark in answer["marks"]})
    least = dict.fromkeys([*LINE_OF_KIND.values(), "runnable", "gap"], 0.0)
    most = dict(least)
    for start, end in zip(edges, edges[1:]):
        active, length = [i for i in intervals if i.start <= start and i.end >= end], end - start
        low, high = _cpu_path(active, length, cumulative.at(end) - cumulative.at(start), answer.get("runtime"))
        waiting = _waiting_line(active)
        least["cpu"] += low
        most["cpu"] += high
        least[waiting] += length - high
        most[waiting] += length - low
    return least, most


def _cpu_path(active, length, cpu, runtime):
    """The least and the most CPU on the path: threads that compute at once take the wall time of one.
    Python's take turns, Node has one; Go's do as they like."""
    if runtime != "go" or len(active) < 2 or length == 0:
        return min(cpu, length), min(cpu, length)
    burning = [min(i.density, 1.0) for i in active]
    others = min(max(cpu / length - sum(burning), 0.0), 1.0)
    idle = 1 - others
    for density in burning:
        idle *= 1 - density
    low = min(length * (1 - idle), cpu)
    return low, max(low, min(cpu, length))


def _waiting_line(active):
    calls = [i for i in active if i.line in CALL_LINES]
    if calls:
        return max(calls, key=lambda i: i.end).line
    lines = {i.line for i in active}
    if "cpu" in lines:
        return "runnable"
    return next((line for line in WAIT_LINES if line in lines), "gap")


def partition(sample, wake_ns=0.0):
    """The bands of one request, milliseconds per line."""
    answer = sample.answer
    least, most = sweep(answer)
    if answer.get("runtime") == "node" and any(op["kind"] == "fsync" for op in answer["ops"]):
        least["cpu"] = max(least["cpu"] - sample.worker_ns, 0)
        most = {line: ns if line in ("cpu", "gap") or not ns else ns + sample.worker_ns for line, ns in most.items()}
    outside = max(sample.wall_ns - answer["total"], 0)
    # CPU before and after the handler: the kernel counts it, the handler cannot. What comes after the
    # last byte of the answer is no part of the request, hence the band.
    extra = min(max(sample.cpu_ns - answer["marks"][-1][1], 0), outside)
    trips = dict.fromkeys(LINE_OF_KIND.values(), 0)
    for op in answer["ops"]:
        trips[LINE_OF_KIND[op["kind"]]] += round_trips(op)
    all_trips = max(sum(trips.values()), 1)
    slack = sample.runqueue_ns + wake_ns * sum(trips.values())
    bands = {"cpu": (least["cpu"], most["cpu"] + extra),
             "runnable": (least["runnable"], most["runnable"] + most["gap"] + slack + outside),
             "edges": (0.0, outside + most["gap"]),
             "unattributed": (0.0, 0.0), "lock": (0.0, 0.0)}
    for line in (*CALL_LINES, *WAIT_LINES):
        bands[line] = (max(least[line] - slack * trips[line] / all_trips, 0.0), most[line])
    return {line: Band(low / 1e6, high / 1e6) for line, (low, high) in bands.items()}


def middle(samples):
    """The middle half of the requests by wall time: the report's ledger is that of p25 to p75 too."""
    ordered = sorted(samples, key=lambda sample: sample.wall_ns)
    cut = len(ordered) // 4
    return ordered[cut:len(ordered) - cut] or ordered


def typical(samples, wake_ns=0.0):
    """Mean bands of the middle of the requests."""
    parts = [partition(sample, wake_ns) for sample in middle(samples)]
    return {line: Band(sum(part[line].low for part in parts) / len(parts),
                       sum(part[line].high for part in parts) / len(parts))
            for line in parts[0]}


def hull(one, other):
    """What both measurements of the truth allow: it moves with the machine's other work."""
    return {line: Band(min(one[line].low, other[line].low), max(one[line].high, other[line].high))
            for line in one}


def of_served(answers, solo, latency_ms):
    """Samples of requests that somebody else sent and measured at `latency_ms`. What the service's answer
    cannot tell of a request (CPU outside the handler, run-queue) is taken from our own `solo` ones."""
    def median(values):
        return sorted(values)[len(solo) // 2]

    inside = middle([Sample(answer, answer["total"]) for answer in answers])
    outside = max(latency_ms * 1e6 - sum(one.wall_ns for one in inside) / len(inside), 0)
    cpu = median([one.cpu_ns - one.answer["marks"][-1][1] for one in solo])
    runqueue, worker = median([one.runqueue_ns for one in solo]), median([one.worker_ns for one in solo])
    return [Sample(answer, answer["total"] + outside, answer["marks"][-1][1] + cpu, runqueue, worker)
            for answer in answers]


def median_ms(samples):
    ordered = sorted(sample.wall_ns for sample in samples)
    return ordered[len(ordered) // 2] / 1e6
