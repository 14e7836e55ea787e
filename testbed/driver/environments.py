"""`run environments`: perfwright where it may not see everything. The level, the coverage, the answer, the manners."""

import json
import os
import random
import re
import shutil
import statistics
import subprocess
import uuid
from dataclasses import dataclass, field
from pathlib import Path

from . import leftovers, plans, surroundings
from .client import Connection, served
from .services import PORTS, Perfwright, SetupFailed, databases, results_folder, seconds, warm_quartiles, \
    warm_windows
from .surroundings import readable
from .table import describe, table
from .verdict import TOLERANCE_MS, TOLERANCE_SHARE, sum_problem

OK, PARTIAL, NO = "ok", "partial", "unavailable"
PROBES = ("process", "process-fds", "network-namespace", "packet-capture", "context-switches", "wakeups", "syscalls",
          "thread-counters")
ROOT = dict.fromkeys(("process-fds", "network-namespace", "packet-capture", "context-switches", "wakeups", "syscalls",
                      "thread-counters"), OK)
# threads of a process that is not known, or of nobody
NO_THREADS = dict.fromkeys(("context-switches", "wakeups", "syscalls", "thread-counters"), NO)
NO_PERF = dict.fromkeys(("context-switches", "wakeups", "syscalls"), NO)
UNPRIVILEGED = {**ROOT, "packet-capture": NO, "wakeups": NO, "syscalls": NO}


@dataclass(frozen=True)
class Environment:
    """One environment, and what it allows. `sees`: calls, text (of statements), cpu (or only its sums, with no
    position and no calls to lay them beside), reasons (of waits).
    `lines`: runtimes of which stacks can name lines, which makes L3 L4 (never Node's, whose inspector is opened with
    consent only). `probes` and `lines` may be functions, where the kernel decides."""

    name: str
    title: str
    place: object
    level: str
    probes: dict
    sees: frozenset
    why: str
    runtimes: tuple = ("node", "go", "python")
    lines: tuple = ("go", "python")

    def level_of(self, runtime):
        lines = self.lines() if callable(self.lines) else self.lines
        return "L4" if self.level == "L3" and runtime in lines else self.level


def env(name, title, place, level, probes, sees, why, **more):
    return Environment(name, title, place, level, probes, frozenset(sees.split()), why, **more)


OPEN_RUNTIMES = ("node", "go")  # the Python service's interpreter may be in root's home

ENVIRONMENTS = [
    env("root", "root beside the service", surroundings.plain, "L3", ROOT, "calls text cpu reasons",
        "what the others are measured against"),
    env("other-user", "nobody; service of another user", surroundings.other_user, "L3",
        {**NO_PERF, "process-fds": PARTIAL, "network-namespace": OK, "packet-capture": NO, "thread-counters": PARTIAL},
        "sums", "descriptors of others are closed, the process is told by the socket's owner; /proc gives sums; perf "
        "events on others' threads and packets need rights", runtimes=OPEN_RUNTIMES, lines=()),
    env("root-service", "nobody; service of root", surroundings.root_service, "L0",
        {**NO_THREADS, "process-fds": NO, "network-namespace": OK, "packet-capture": NO}, "",
        "which of root's processes holds the socket cannot be known"),
    env("same-user", "no privileges; service of the same user", surroundings.same_user, "L3",
        UNPRIVILEGED, "cpu",
        "perf_event_paranoid 2 allows user-mode events on one's own processes, tracepoints and packets need rights",
        runtimes=OPEN_RUNTIMES, lines=("go",)),
    env("seccomp", "root; seccomp refuses perf_event_open", surroundings.seccomp, "L3",
        {**ROOT, **NO_PERF}, "calls text cpu", "the wire and sums of /proc are left", lines=("python",)),
    env("seccomp-user", "seccomp and no privileges; same user", surroundings.seccomp_user, "L3",
        {"process-fds": OK, "network-namespace": OK, "packet-capture": NO, **NO_PERF, "thread-counters": OK}, "sums",
        "sums of /proc are all there is", runtimes=OPEN_RUNTIMES, lines=()),
    env("network-only", "shares only the network namespace", surroundings.network_only, "L2",
        {**NO_THREADS, "process-fds": NO, "network-namespace": OK, "packet-capture": OK}, "calls text",
        "the process has no number here, its packets pass by", runtimes=OPEN_RUNTIMES),
    env("remote", "another machine: the URL only", surroundings.remote, "L0",
        {**NO_THREADS, "process": NO, "packet-capture": NO}, "", "nothing of the service is on this machine",
        runtimes=("node",)),
    env("tls", "TLS to PostgreSQL", surroundings.tls, "L3", ROOT, "calls cpu reasons",
        "statements are encrypted: peer, round trips and intervals remain"),
    env("unix-socket", "Unix socket to PostgreSQL", surroundings.unix_socket, "L3", ROOT, "cpu reasons",
        "no packets: system calls show round trips"),
    env("npm-launched", "`-- npm run dev`: npm, sh, node", surroundings.npm_launched, "L3", ROOT,
        "calls text cpu reasons", "the tree below the launched command", runtimes=("node",)),
    env("npm-running", "`npm run dev` already runs", surroundings.npm_running, "L3", ROOT,
        "calls text cpu reasons", "the tree around the process that listens", runtimes=("node",)),
    env("paranoid", "paranoid 4, kptr_restrict 2, no privileges", surroundings.paranoid, "L3",
        lambda: {**UNPRIVILEGED, **(NO_PERF if surroundings.paranoid_refuses() else {})}, "sums",
        "some distributions forbid perf events to users altogether, mainline does not", runtimes=OPEN_RUNTIMES,
        lines=lambda: () if surroundings.paranoid_refuses() else ("go",)),
]


# ------------------------------------------------------------------------------------ faults


@dataclass(frozen=True)
class Fault:
    """A planted fault; `needs` is what must be seen for a finding."""

    rules: tuple
    plan: dict
    needs: str

    @property
    def size(self):
        return plans.page_size(self.plan)


def draw(rng, runtime):
    """One fault, large in its request."""
    kind = rng.choice(["n_plus_one", "scan", "sleep", "cpu"])
    if kind == "n_plus_one":
        step = {"op": "sql", "db": "pg", "shape": "n_plus_one", "n": rng.randint(40, 120)}
        return Fault(("sql-n-plus-one",), step, "text")
    if kind == "scan":
        step = {"op": "sql", "db": "pg", "shape": "scan", "ms": rng.randint(30, 90)}
        return Fault(("sql-slow-statement",), step, "calls")
    if kind == "sleep":
        return Fault(("timer-wait",), {"op": "sleep", "ms": rng.randint(30, 120)}, "reasons")
    step = {"op": "cpu", "ms": rng.randint(40, 90)}
    rules = ("event-loop-blocked", "cpu-hot-path") if runtime == "node" else ("cpu-hot-path",)
    return Fault(rules, step, "cpu")


def cases(rng, environment, count):
    """Different kinds of faults first."""
    drawn, kinds = [], set()
    while len(drawn) < count:
        runtime = rng.choice(environment.runtimes)
        fault = draw(rng, runtime)
        if fault.rules in kinds and len(kinds) < 4:
            continue
        kinds.add(fault.rules)
        drawn.append((runtime, fault))
    return drawn


# ------------------------------------------------------------------------------------ running it


@dataclass
class Said:
    """What perfwright did in one environment."""

    environment: Environment
    probes: dict
    levels: list = field(default_factory=list)
    problems: list = field(default_factory=list)
    answers: list = field(default_factory=list)


class Runner:
    """Runs perfwright in a place, in a home of its own, and looks what is left."""

    def __init__(self, binary, place, results, name):
        self.place, self.results, self.name = place, results, name
        self.binary = readable(binary, place.user) if place.user else binary
        self.home = Path("/var/tmp") / ("pw-env-" + uuid.uuid4().hex[:8])

    def __enter__(self):
        for folder in (self.home, self.home / "out", self.home / "work", self.home / "tmp"):
            folder.mkdir()
            if self.place.user:
                shutil.chown(folder, self.place.user)
        return self

    def __exit__(self, *_):
        shutil.rmtree(self.home, ignore_errors=True)

    def run(self, what, *arguments, limit=120):
        """Exit code, stdout, and what is wrong with its manners."""
        mark, before = uuid.uuid4().hex, leftovers.look(self.place)
        variables = {"HOME": str(self.home), "TMPDIR": str(self.home / "tmp"), leftovers.MARK: mark,
                     **self.place.variables}
        command = [*self.place.prefix, "env", *("%s=%s" % pair for pair in variables.items()),
                   self.binary, what, *arguments]
        if self.place.command and what == "investigate":
            command += ["--", *self.place.command]
        try:
            done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=limit,
                                  cwd=self.home / "work")
        except subprocess.TimeoutExpired:
            return None, "", ["%s: no answer within %d s" % (what, limit)]
        stem = self.results / ("%s-%s" % (self.name, what))
        stem.with_suffix(".json").write_text(done.stdout)
        stem.with_suffix(".stderr").write_text(done.stderr)
        found = manners(done, leftovers.differences(before, self.place, mark, self.home, self.place.clean_up))
        return done.returncode, done.stdout, ["%s: %s" % (what, one) for one in found]


TALK = re.compile(r"^(plan: |found: |ready after |\[ *[0-9.]+ s\] |warning: |hint: |  hint: |$)")


def manners(done, left):
    """Exit code, panics, stray output, leftovers."""
    found = list(left)
    if done.returncode != 0:
        found.append("exit code %d: %s" % (done.returncode, (done.stderr.strip().splitlines() or [""])[-1]))
    if "panicked" in done.stderr or "RUST_BACKTRACE" in done.stderr:
        found.append("it panicked")
    found += ["stray line on stderr: %s" % line[:120] for line in done.stderr.splitlines() if not TALK.match(line)]
    return found


def run(options):
    """Prints the tables; 0 when every environment behaves as expected."""
    if os.geteuid() != 0:
        raise SetupFailed("environments are made by root\nhint: sudo testbed/run environments --seed N")
    results = results_folder("environments-%d" % options.seed)
    binary = Perfwright(options.budget, results).binary
    chosen = [e for e in ENVIRONMENTS if not options.only or e.name in options.only]
    said = []
    with databases():
        for environment in chosen:
            drawn = cases(random.Random("%d-%s" % (options.seed, environment.name)), environment, options.cases)
            one = Said(environment, environment.probes() if callable(environment.probes) else environment.probes)
            said.append(one)
            for number, (runtime, fault) in enumerate(drawn):
                name = "%s-%d-%s" % (environment.name, number, runtime)
                if runtime not in PORTS:
                    raise SetupFailed("no runtime called %s" % runtime)
                with environment.place(runtime, results / (name + ".log")) as place, \
                        Runner(binary, place, results, name) as runner:
                    examine(one, runner, options, name, fault, first=number == 0)
    print()
    print(summary(said))
    print("\nreports and logs in %s" % results)
    wrong = sum(bool(one.problems) for one in said)
    print("environments as expected: %d of %d (bar all)" % (len(said) - wrong, len(said)))
    return 1 if wrong or not said else 0


def examine(one, runner, options, name, fault, first):
    """doctor once, then investigate; every deviation is a problem."""
    place, problems, runtime = runner.place, [], name.rsplit("-", 1)[1]
    url = "http://%s:%d" % (place.host, place.port)
    if first and not place.command:
        _, text, found = runner.run("doctor", "--format", "json", url)
        problems += found + doctor_problems(one, runtime, text)
    path = plans.endpoint(fault.plan, fault.size)
    if not place.command:
        warm(place, path)
    code, text, found = runner.run("investigate", "--format", "json", "--budget", options.budget, "--seed",
                                   str(options.seed), "--out", str(runner.home / "out"), "--endpoint", "GET " + path,
                                   url, limit=seconds(options.budget) * 2 + 60)
    problems += found
    said = "no report"
    if code == 0:
        report = json.loads(text)
        one.levels.append("%s %s" % (runtime, report["target"]["level"]))
        problems += report_problems(one, runtime, report)
        answer = answer_of(report, fault)
        problems += answer_problems(one.environment, fault, report)
        problems += latency_problems(one.environment, place, path, runner.home / "out", report)
        said = "level %s, %s" % (report["target"]["level"], answer)
        one.answers.append("%s: %s" % ("/".join(fault.rules), answer))
    one.problems += ["%s: %s" % (name, problem) for problem in problems]
    print("%s %s  %s  %s" % ("WRONG" if problems else "ok   ", name, describe(fault.plan), said), flush=True)
    for problem in problems:
        print("        " + problem, flush=True)


def warm(place, path):
    connection = Connection(place.port, place.host)
    for _ in range(3):
        connection.get(path)
    connection.close()


# ------------------------------------------------------------------------------------ judging


def doctor_problems(one, runtime, text):
    try:
        said = json.loads(text)
    except ValueError:
        return ["doctor: its JSON cannot be read"]
    wanted = one.environment.level_of(runtime)
    found = ["doctor: level %s, expected %s" % (said["level"], wanted)] if said["level"] != wanted else []
    return found + ["doctor: " + problem for problem in coverage_problems(one.probes, said["coverage"])]


def report_problems(one, runtime, report):
    level, wanted = report["target"]["level"], one.environment.level_of(runtime)
    found = [] if level == wanted else ["level %s, expected %s" % (level, wanted)]
    return found + coverage_problems(one.probes, report["coverage"])


def coverage_problems(expected, coverage):
    """Probes whose state is not what the environment allows, and losses without a reason."""
    states = {line["probe"]: line for line in coverage}
    found = []
    for probe in PROBES:
        state = states.get(probe, {}).get("state")
        wanted = expected.get(probe)
        if state != wanted and not (wanted is None and state is None):
            found.append("%s is %s, expected %s" % (probe, state, wanted))
    found += ["%s is %s without a reason" % (probe, line["state"]) for probe, line in states.items()
              if line["state"] != OK and not line["reason"]]
    return found


def hypotheses(report):
    """Ranked hypotheses among the undecided."""
    return [one for one in report["undecided"] if one["missing"].startswith("hypothesis ")]


def answer_of(report, fault):
    """What is said about the fault, in a few words."""
    first = report["findings"][0]["rule"] if report["findings"] else None
    if first in fault.rules:
        return "finding %s" % first
    ranked = [one["rule"] for one in hypotheses(report)]
    open_rules = [one["rule"] for one in report["undecided"]]
    if ranked:
        return "hypotheses %s" % ", ".join(ranked)
    return "first %s, undecided %s" % (first, ", ".join(open_rules))


def answer_problems(environment, fault, report):
    """Where the cause can be seen it is the first finding; elsewhere it is among what is undecided, ranked where
    calls cannot be seen, with a command; and it is never called innocent, nor is a false cause found."""
    found = []
    findings = [one["rule"] for one in report["findings"] if one["severity"] != "info"]
    undecided = [one["rule"] for one in report["undecided"]]
    if fault.needs in environment.sees:
        if not findings or findings[0] not in fault.rules:
            found.append("first finding %s, expected %s" % (findings[:1], "/".join(fault.rules)))
    else:
        found += ["false finding %s" % rule for rule in findings if rule not in fault.rules]
        if not set(fault.rules) & set(findings + undecided):
            found.append("%s is neither found nor undecided (%s)" % ("/".join(fault.rules), ", ".join(undecided)))
        ranked = [one["rule"] for one in hypotheses(report)]
        if fault.needs == "cpu" and "sums" in environment.sees and not set(fault.rules) & set(findings + ranked[:1]):
            found.append("%s is neither found nor likeliest (%s)" % ("/".join(fault.rules), ", ".join(ranked)))
        if "calls" not in environment.sees and "reasons" not in environment.sees and len(ranked) < 2 \
                and not set(fault.rules) & set(findings):
            found.append("fewer than two ranked hypotheses")
    innocent = {one["rule"] for one in report["exonerated"]}
    if set(fault.rules) <= innocent:
        found.append("%s is called innocent" % "/".join(fault.rules))
    found += ["%s is undecided without a command" % one["rule"] for one in report["undecided"] if not one["command"]]
    return found


def latency_problems(environment, place, path, out, report):
    """The client's latency against the service's own account of the same requests; the phases of a warm request."""
    endpoint, found = report["endpoints"][0], []
    latency = endpoint["latency_ms"]
    if latency is None:
        return ["no latency"]
    lines = {}
    for row in endpoint["ledger"]:
        lines[row["line"]] = lines.get(row["line"], 0.0) + row["ms"]
    if not place.command:
        solo = [answer["total"] / 1e6 for answer in served(place.port, path, warm_windows(out, report), host=place.host)]
        truth = statistics.median(solo) if solo else 0.0
        # waiting for a core before the handler begins is not in the service's own account
        slack = max(TOLERANCE_MS, TOLERANCE_SHARE * truth) + lines.get("runnable", 0.0) + lines.get("generator", 0.0)
        if not -TOLERANCE_MS - TOLERANCE_SHARE * truth <= latency["p50"] - truth <= slack:
            found.append("latency %.2f ms, the service's own median %.2f" % (latency["p50"], truth))
    total, wrong_sum = sum(lines.values()), sum_problem(endpoint, warm_quartiles(out, report))
    found += [wrong_sum] if wrong_sum else []
    # without packets `send` ends when the system call returns: on a busy machine it holds a wait for a core
    slack = max(1.0, 0.10 * total) if "calls" in environment.sees else max(3.0, 0.15 * total)
    for line in ("dns", "connect", "tls", "send", "receive"):
        if lines.get(line, 0.0) > slack:
            found.append("%s takes %.2f of %.2f ms on a warm connection" % (line, lines[line], total))
    return found


def summary(said):
    rows = []
    for one in said:
        wanted = {one.environment.level, *map(one.environment.level_of, one.environment.runtimes)}
        rows.append([one.environment.title, "/".join(sorted(wanted)), ", ".join(one.levels) or "-",
                     "<br>".join(one.answers), "as expected" if not one.problems else "<br>".join(one.problems)])
    return table(["environment", "level expected", "seen", "answers", "verdict"], rows)
