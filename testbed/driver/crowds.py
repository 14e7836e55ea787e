"""`run crowds`: perfwright beside very many connections, threads and processes, and behind a network that loses packets.

How long it takes to its first sentence and to its end, what it costs, and whether its answer is the truth, which the
service's request says: n commands, or 1 + n statements.
"""

import json
import os
import random
import subprocess
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass, field

from . import plans
from .client import HOST, Connection, RequestFailed
from .services import FIRST_PORT, TESTBED, Perfwright, SetupFailed, databases, environment, results_folder, running, \
    seconds, stop
from .table import table

CROWDED, CROWD, LOSSY = (TESTBED / "environments" / name for name in ("crowded", "crowd", "lossy"))
FIRST = FIRST_PORT + 12
FIRST_SENTENCE_S, AFTER_BUDGET_S, RSS_MB = 10, 10, 300
VIA = "10.231.78.2:5432"


@dataclass
class Case:
    """One crowd; `size` names the option that says how many."""

    name: str
    size: str
    what: str
    place: object
    network: bool = False  # whether the network is to blame, and must be said to be


@dataclass
class Seen:
    """What a run did."""

    code: int = None
    took: float = 0
    first: float = None
    cpu: float = 0
    rss_mb: float = 0
    report: dict = None
    said: list = field(default_factory=list)


# ------------------------------------------------------------------------------------ crowds


@contextmanager
def process(command, variables, wait=None):
    """A process in a group of its own, with a pipe to its stdin; `wait`: until it says that."""
    one = subprocess.Popen([str(word) for word in command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                           start_new_session=True, env={**os.environ, **environment(), **variables})
    try:
        if wait and one.stdout.readline().strip() != wait:
            raise SetupFailed("%s did not get ready\nhint: is there memory, and are there process numbers?" % command[0])
        yield one
    finally:
        stop(one)
        one.stdin.close()
        one.stdout.close()


@contextmanager
def crowded(port, variables):
    """The service in the crowd, once it answers."""
    with process([CROWDED, port], variables):
        _await_answer(port)
        yield


def _await_answer(port):
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            connection = Connection(port)
            connection.get("/chat?n=1")
            connection.close()
            return
        except (OSError, RequestFailed):
            time.sleep(0.1)
    raise SetupFailed("the service in the crowd does not answer on port %d\nhint: is the port taken?" % port)


@contextmanager
def held(port, count, _seed):
    """All connections are the service's."""
    with crowded(port, {"CROWD_CONNECTIONS": str(count)}), process([CROWD, "hold", port, count], {}, "ready"):
        yield


@contextmanager
def elsewhere(port, count, _seed):
    """All are other processes'; the service connects anew for each request, from a port that others have too."""
    with crowded(port, {"CROWD_RECONNECT": "1"}), process([CROWD, "hold", 0, count], {}, "ready"):
        yield


@contextmanager
def flood(port, count, _seed):
    """Connections come and go while it runs, and wait for their end."""
    with crowded(port, {"CROWD_RECONNECT": "1"}), process([CROWD, "flood", 0, count, 8000], {}):
        yield


@contextmanager
def threads(port, count, _seed):
    """Threads of the service that wait for ever."""
    with crowded(port, {"CROWD_THREADS": str(count)}):
        yield


@contextmanager
def children(port, count, _seed):
    """Processes of the service that wait for ever."""
    with crowded(port, {"CROWD_CHILDREN": str(count)}):
        yield


@contextmanager
def lossy(port, percent, seed):
    """A truth service whose PostgreSQL is behind a network that loses packets."""
    command = [LOSSY, environment()["TESTBED_PG_PORT"], seed, percent]
    subprocess.run([TESTBED / "truth" / "setup", "node"], check=True)
    with process(command, {}, "ready"), running("node", port, variables={"TESTBED_PG_VIA": VIA}):
        yield


CASES = [
    Case("held", "connections", "connections held by the service", held),
    Case("elsewhere", "connections", "connections between other processes", elsewhere),
    Case("flood", "connections", "short connections while it runs", flood),
    Case("threads", "threads", "threads of the service", threads),
    Case("children", "children", "children of the service", children),
    Case("lossy", "percent", "percent of the packets lost", lossy, network=True),
]


# ------------------------------------------------------------------------------------ running it


def investigate(binary, port, path, options, out):
    """Runs it and takes its time."""
    seen, began = Seen(), time.monotonic()
    command = [binary, "investigate", "--format", "json", "--budget", options.budget, "--out", str(out),
               "--endpoint", "GET " + path, "http://%s:%d" % (HOST, port)]
    one = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def listen():
        for line in one.stderr:
            seen.said.append(line.rstrip())
            if line.startswith("[") and seen.first is None:
                seen.first = time.monotonic() - began

    ear = threading.Thread(target=listen)
    ear.start()
    timer = threading.Timer(seconds(options.budget) * 3 + 60, one.kill)
    timer.start()
    text = one.stdout.read()
    _, status, usage = os.wait4(one.pid, 0)
    one.returncode = seen.code = os.waitstatus_to_exitcode(status)
    timer.cancel()
    ear.join()
    seen.took, seen.cpu, seen.rss_mb = time.monotonic() - began, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024
    seen.report = json.loads(text) if seen.code in (0, 1) else None
    return seen


def run(options):
    """Prints the table; 0 when every answer is right and in time."""
    if os.geteuid() != 0:
        raise SetupFailed("crowds are watched by root\nhint: sudo testbed/run crowds --seed N")
    results = results_folder("crowds-%d" % options.seed)
    binary, rows, wrong = Perfwright(options.budget, results).binary, [], 0
    with databases():
        for case in CASES:
            if options.only and case.name not in options.only:
                continue
            rng = random.Random("%d-%s" % (options.seed, case.name))
            size, n = getattr(options, case.size), rng.randint(25, 60)
            # a port of its own: the one before may take a while to close all its connections
            port = FIRST + CASES.index(case)
            with case.place(port, size, options.seed):
                seen = investigate(binary, port, _endpoint(case, n), options, results / "runs")
            problems = judge(case, seen, n, seconds(options.budget))
            wrong += bool(problems)
            rows.append([case.name, "%g %s" % (size, case.what), _s(seen.first), _s(seen.took), _s(seen.cpu),
                         "%.0f" % seen.rss_mb, _requests(seen), "; ".join(problems) or "right"])
            print("%s %s  %s" % ("WRONG" if problems else "ok   ", case.name, "; ".join(problems)), flush=True)
            (results / (case.name + ".json")).write_text(json.dumps({"said": seen.said, "report": seen.report}))
    print(table(["case", "crowd", "first sentence s", "end s", "cpu s", "MB", "requests", "answer"], rows))
    print("\nreports in %s\ncrowds: %d of %d right (bar all)" % (results, len(rows) - wrong, len(rows)))
    return 1 if wrong or not rows else 0


def _endpoint(case, n):
    if case.network:
        return plans.endpoint({"op": "sql", "db": "pg", "shape": "n_plus_one", "n": n, "rows": 1}, n)
    return "/chat?n=%d" % n


def _s(value):
    return "–" if value is None else "%.1f" % value


def _requests(seen):
    return str(seen.report["endpoints"][0]["requests"]) if seen.report else "–"


# ------------------------------------------------------------------------------------ judging


def judge(case, seen, n, budget):
    """What is wrong with a run, in words."""
    if seen.report is None:
        return ["exit code %s: %s" % (seen.code, (seen.said or [""])[-1])]
    found = []
    if seen.first is None or seen.first > FIRST_SENTENCE_S:
        found.append("first sentence after %s s" % _s(seen.first))
    if seen.took > budget + AFTER_BUDGET_S:
        found.append("%.1f s for a budget of %g s" % (seen.took, budget))
    if seen.rss_mb > RSS_MB:
        found.append("%.0f MB" % seen.rss_mb)
    endpoint = seen.report["endpoints"][0]
    line, rule = ("database", "sql-n-plus-one") if case.network else ("cache", "chatty-cache")
    calls = max((row["calls"] or 0 for row in endpoint["ledger"] if row["line"] == line), default=0)
    if abs(calls - n) > 0.05:
        found.append("%.2f calls alike, %d in truth" % (calls, n))
    rules = [finding["rule"] for finding in seen.report["findings"]]
    if rules[:1] != [rule]:
        found.append("first finding %s" % (rules[:1] or "none"))
    total, typical = sum(row["ms"] for row in endpoint["ledger"]), endpoint["latency_ms"]["typical"]
    if abs(total - typical) > 0.005:
        found.append("lines sum to %.3f ms, typical latency is %.3f" % (total, typical))
    network = [line for line in seen.report["coverage"] if line["probe"] == "network"]
    if bool(network) != case.network:
        found.append("the network is %s" % ("blamed" if network else "not blamed"))
    return found
