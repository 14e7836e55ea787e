"""`run apps`: statements of each request of real applications against the server's own log."""

import json
import os
import subprocess
import time
from collections import Counter
from dataclasses import dataclass, field

from .client import HOST
from .server_log import Log, LogBroken, admin, logging, normal
from .services import TESTBED, SetupFailed, databases, launched, results_folder, seconds
from .services import Perfwright
from .table import share, table

REQUESTS = 30
RUNS_MAX = 6
DIFFERENCES_SHOWN = 3
UNATTRIBUTED_BAR = 0.15
SQL = ("database",)
# executed statements; the rest of a connection's life is in no log of statements
NOT_LOGGED = ("close statement", "sync")
PORTS = {"directus": 25500, "oscar": 25600}
ENDPOINTS = {
    "directus": [
        "/items/articles?limit=25",
        "/items/articles?fields=*,author.*,tags.tags_id.*,comments.*&limit=20",
        "/items/articles?filter%5Bauthor%5D%5Bname%5D%5B_contains%5D=7&sort=-published&limit=10&meta=*",
        "/items/articles?aggregate%5Bcount%5D=*&groupBy%5B%5D=status",
        "/items/comments?search=Reader&limit=50",
        "/users/me",
        "/items/authors/7?fields=*,articles.title",
    ],
    "oscar": [
        "/search/?q=book",
        "/catalogue/book-number-7_8/",
        "/basket/",
        "/dashboard/catalogue/",
        "/dashboard/orders/",
        "/dashboard/",
    ],
}


@dataclass
class Endpoint:
    """What became of one endpoint of one application in one way of looking."""

    application: str
    way: str
    path: str
    requests: int = 0
    statements: Counter = field(default_factory=Counter)  # statements a request → requests
    numbers: int = 0
    fingerprints: int = 0
    unknown: int = 0
    unattributed: list = field(default_factory=list)
    problems: list = field(default_factory=list)  # why there is no (further) comparison
    differences: list = field(default_factory=list)  # the requests that are not as the log has them

    @property
    def good(self):
        return (self.requests >= REQUESTS and self.numbers == self.fingerprints == self.requests
                and not self.unknown and self.unattributed and max(self.unattributed) <= UNATTRIBUTED_BAR)


def run(options):
    """Prints the table; 0 when the bar is met."""
    compared = []
    results = results_folder("apps")
    with databases() as environment:
        subprocess.run([TESTBED / "apps" / "setup", *options.applications], check=True)
        perfwright = Perfwright(options.budget, results)
        try:
            for application in options.applications:
                for way in options.ways:
                    compared += compare(options, environment, perfwright, results, application, way)
        except LogBroken as broken:
            raise SetupFailed(str(broken)) from None
    print()
    print(summary(compared))
    print("\nruns and logs in %s" % results)
    return 0 if compared and all(one.good for one in compared) else 1


def compare(options, environment, perfwright, results, application, way):
    """All endpoints of one application, by capture or by proxy."""
    port = PORTS[application]
    command = [str(TESTBED / "apps" / "start"), application, str(port)]
    done = []
    with logging(environment, application):
        headers = credentials(application, environment)
        for path in ENDPOINTS[application][:options.endpoints]:
            one = Endpoint(application, way, path)
            if way == "capture":
                with launched(command, port, results / (application + ".log")):
                    warm(port, path, headers)
                    repeat(environment, perfwright, results, one, headers, [])
            else:
                repeat(environment, perfwright, results, one, headers, ["--proxy", "--", *command])
            print(line_of(one), flush=True)
            for difference in one.differences[:DIFFERENCES_SHOWN]:
                print("  " + difference, flush=True)
            done.append(one)
    return done


def credentials(application, environment):
    """The headers of a user who may see everything."""
    if application == "directus":
        return ["Authorization: Bearer testbed-admin-token"]
    script = '. "%s/apps/setup"; settings oscar; "$(oscar_home)/bin/python" -W ignore "$HERE/oscar/seed.py" --session'
    session = subprocess.run(["bash", "-c", script % TESTBED], check=True, capture_output=True, text=True)
    return ["Cookie: sessionid=" + session.stdout.split()[-1]]


def warm(port, path, headers):
    """Every worker has answered a few times."""
    for _ in range(8):
        subprocess.run(["curl", "-sg", "-o", os.devnull, *[w for h in headers for w in ("-H", h)],
                        "http://%s:%d%s" % (HOST, port, path)], check=False)


def repeat(environment, perfwright, results, one, headers, launch):
    """Runs of perfwright until there are enough requests."""
    for number in range(RUNS_MAX):
        if one.requests >= REQUESTS or one.problems:
            return
        name = "%s-%s-%s-%d" % (one.application, one.way, slug(one.path), number)
        log, offset = Log(environment), clock_offset()
        report, problem = investigate(perfwright, environment, results, name, one, headers, launch)
        if problem:
            one.problems.append(problem)
            return
        row = [r for r in report["endpoints"][0]["ledger"] if r["line"] == "unattributed"]
        one.unattributed.append(sum(r["share"] for r in row))
        judge(one, requests_of(perfwright, results, name, report["run"]["id"]), log.statements(), offset)


def clock_offset():
    """Nanoseconds from the monotonic clock to the epoch."""
    return time.time_ns() - time.monotonic_ns()


def investigate(perfwright, environment, results, name, one, headers, launch):
    command = [perfwright.binary, "investigate", "--format", "json", "--budget", perfwright.budget,
               "--out", str(results / "store"), *[w for h in headers for w in ("-H", h)],
               *(["--proxy"] if launch else []), "--endpoint", "GET " + one.path,
               "http://%s:%d" % (HOST, PORTS[one.application]), *launch[1:]]
    settings = {**os.environ, "DB_HOST": HOST, "DB_PORT": environment["TESTBED_PG_PORT"]}
    done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, env=settings,
                          timeout=seconds(perfwright.budget) * 2 + 120)
    (results / (name + ".json")).write_text(done.stdout)
    (results / (name + ".stderr")).write_text(done.stderr)
    if done.returncode not in (0, 1):
        return None, "exit code %d: %s" % (done.returncode, (done.stderr.strip().splitlines() or [""])[-1])
    return json.loads(done.stdout), None


def requests_of(perfwright, results, name, run_id):
    """What perfwright says each request did, those of one at a time in order of start."""
    done = subprocess.run([perfwright.binary, "report", run_id, "--requests", "--format", "json",
                           "--out", str(results / "store")], capture_output=True, text=True, check=True)
    (results / (name + ".requests")).write_text(done.stdout)
    requests = [json.loads(line) for line in done.stdout.splitlines()]
    return sorted((r for r in requests if r["arm"]["arm"] in ("cold", "warm", "traced", "sized")),
                  key=lambda r: r["start_ns"])


def judge(one, requests, logged, offset):
    """Each request's statements against the log of its time."""
    for request in requests:
        start_ms = (request["start_ns"] + offset) // 1_000_000
        end_ms = int(request["start_ns"] + request["ms"] * 1e6 + offset) // 1_000_000
        # in the millisecond of the answer a statement may have been before or after it
        sure = Counter(s.text for s in logged if start_ms <= s.at_ms < end_ms)
        edge = Counter(s.text for s in logged if s.at_ms == end_ms)
        calls = [c for c in request["calls"] if c["line"] in SQL and c["text"] not in NOT_LOGGED
                 and c["operation"] in ("execute", "session")]
        said = Counter(normal(c["text"]) for c in calls)
        one.requests += 1
        one.statements[len(calls)] += 1
        one.unknown += any(not c["text_known"] for c in calls)
        number = sum(sure.values()) <= len(calls) <= sum((sure + edge).values())
        fingerprints = not sure - said and not said - (sure + edge)
        one.numbers += number
        one.fingerprints += fingerprints
        if not (number and fingerprints):
            one.differences.append("window %d (%s), %d calls: log only %s; perfwright only %s" % (
                request["window"], request["arm"]["arm"], len(calls), brief(sure - said),
                brief(said - (sure + edge))))


def brief(texts):
    return ", ".join("%d× %.90s" % (n, text) for text, n in texts.most_common(4)) or "nothing"


def slug(path):
    return "".join(c if c.isalnum() else "-" for c in path)[:40].strip("-")


def counts(one):
    return " ".join("%d×%d" % (n, times) if len(one.statements) > 1 else str(n)
                    for n, times in sorted(one.statements.items()))


def line_of(one):
    return "%s %s %s %s: %d requests, statements %s, numbers %s, fingerprints %s, unattributed %s %s" % (
        "ok   " if one.good else "WRONG", one.application, one.way, one.path, one.requests, counts(one),
        share(one.numbers, one.requests), share(one.fingerprints, one.requests), percents(one),
        "; ".join(one.problems))


def percents(one):
    return "%.1f %%" % (100 * max(one.unattributed)) if one.unattributed else "-"


def summary(compared):
    rows = [[one.application, one.way, one.path if len(one.path) < 60 else one.path[:57] + "...", one.requests, counts(one),
             share(one.numbers, one.requests), share(one.fingerprints, one.requests), one.unknown, percents(one)]
            for one in compared]
    return table(["application", "way", "endpoint", "requests", "statements a request", "equal number",
                  "equal fingerprints", "texts unknown", "unattributed, worst run"], rows)
