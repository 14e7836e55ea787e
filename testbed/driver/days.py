"""`run days`: bad days. Runs that are replayed, killed and interrupted, and what is left of them."""

import json
import os
import random
import re
import signal
import subprocess
import threading
import time
import uuid
from dataclasses import dataclass, field
from pathlib import Path

from . import plans
from .client import HOST
from .services import FIRST_PORT, TESTBED, Perfwright, everything, results_folder, seconds
from .table import table

MARK = "PERFWRIGHT_DAYS"
# what was launched gets two seconds to end by itself before it is killed; a busy machine takes longer
PATIENCE_S = 10
# enough for every phase to be reached
LONG = "25s"
LAUNCHED_PORT = FIRST_PORT + 50
# the line by which `--verbose` says that a phase begins
PHASES = {"launch": r"^plan: ", "solo": r"^solo ", "reasons": r"^reasons ", "profile": r"^profile ",
          "concurrency": r"^concurrency "}
# enough of everything that no phase is skipped as needless
PLAN = {"op": "serial", "steps": [{"op": "cpu", "ms": 25},
                                  {"op": "sql", "db": "pg", "shape": "n_plus_one", "n": 30, "rows": 1},
                                  {"op": "sleep", "ms": 12}]}


@dataclass
class Day:
    """One run and what was wrong about it."""

    kind: str
    name: str
    detail: str
    problems: list = field(default_factory=list)
    requests: int = 0


def run(options):
    """Prints a line a run and the totals; 0 when nothing was wrong."""
    results = results_folder("days-%d" % options.seed)
    perfwright, rng, days = Perfwright(options.budget, results), random.Random(options.seed), []
    with everything(options.runtimes, results) as services:
        bed = Bed(perfwright, services, results / ("runs-%s" % uuid.uuid4().hex[:8]))
        draws = [(replayed, options.replays), (killed, options.kills), (interrupted, options.interrupts)]
        for one, count in draws:
            for number in range(count):
                day = one(bed, rng, number)
                days.append(day)
                print("%-9s %-22s %s  %s" % (day.kind, day.name, day.detail, "; ".join(day.problems) or "ok"), flush=True)
    print("\n" + table(["", "runs", "without fault"], [row(days, kind) for kind in ("replay", "kill", "interrupt")]))
    return 1 if any(day.problems for day in days) else 0


def row(days, kind):
    chosen = [day for day in days if day.kind == kind]
    return [kind, str(len(chosen)), str(sum(not day.problems for day in chosen))]


class Bed:
    """The services, and perfwright run against them."""

    def __init__(self, perfwright, services, out):
        self.binary, self.budget, self.services, self.out = perfwright.binary, perfwright.budget, services, out

    def start(self, path, runtime, out, more=(), budget=None):
        """An investigation of a running service, or of one that it launches itself."""
        port = self.services[runtime][1] if runtime else LAUNCHED_PORT
        command = [self.binary, "investigate", "--verbose", "--attach", "--budget", budget or self.budget,
                   "--out", str(out), *more, "--endpoint", "GET " + path, "http://%s:%d" % (HOST, port)]
        if runtime is None:
            command += ["--", str(TESTBED / "truth" / "start"), "node", str(port)]
        return Investigation(command)

    def tell(self, *arguments):
        """Another command of perfwright on the same runs."""
        return subprocess.run([self.binary, *arguments], capture_output=True, text=True, stdin=subprocess.DEVNULL,
                              timeout=60)

    def ports(self):
        """What each service listens on: an inspector left open is one port more."""
        return {runtime: listening(pid) for runtime, (pid, _) in self.services.items()}


class Investigation:
    """A run whose talk is read line by line and whose descendants can be found."""

    def __init__(self, command):
        self.mark = uuid.uuid4().hex
        self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                        stderr=subprocess.PIPE, text=True, start_new_session=True,
                                        env={**os.environ, MARK: self.mark})
        self.said, self.changed = [], threading.Condition()
        self.stdout = ""
        self.readers = [threading.Thread(target=self._listen), threading.Thread(target=self._take)]
        for reader in self.readers:
            reader.start()

    def _listen(self):
        for line in self.process.stderr:
            with self.changed:
                self.said.append(line.rstrip("\n"))
                self.changed.notify_all()

    def _take(self):
        self.stdout = self.process.stdout.read()

    def says(self, pattern, limit):
        """Waits for a line; whether it came before the end of the run."""
        deadline = time.monotonic() + limit
        with self.changed:
            while not any(re.search(pattern, line) for line in self.said):
                if self.process.poll() is not None or time.monotonic() > deadline:
                    return False
                self.changed.wait(0.05)
        return True

    def end(self, sign=None, limit=60):
        """The exit code, minus the number of a signal that killed it."""
        if sign is not None:
            self.process.send_signal(sign)
        try:
            code = self.process.wait(limit)
        except subprocess.TimeoutExpired:
            self.process.kill()
            code = None
        return code

    def settle(self, patience):
        """What it started and is still there after `patience` seconds."""
        deadline = time.monotonic() + patience
        while (left := carrying(self.mark)) and time.monotonic() < deadline:
            time.sleep(0.05)
        for reader in self.readers:
            reader.join(5)
        return left


def carrying(mark):
    """Living processes with our mark in their environment: pid and command."""
    wanted, found = ("%s=%s" % (MARK, mark)).encode(), []
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                if wanted in Path("/proc", entry, "environ").read_bytes().split(b"\0"):
                    command = Path("/proc", entry, "cmdline").read_bytes().replace(b"\0", b" ").decode()
                    found.append("%s %s" % (entry, command[:60]))
            except OSError:
                pass  # it has just ended
    return found


def listening(pid):
    """TCP ports that a process listens on."""
    inodes = {}
    for name in ("tcp", "tcp6"):
        for line in Path("/proc/%d/net/%s" % (pid, name)).read_text().splitlines()[1:]:
            words = line.split()
            if words[3] == "0A":
                inodes["socket:[%s]" % words[9]] = int(words[1].rsplit(":", 1)[1], 16)
    ports = set()
    for fd in Path("/proc/%d/fd" % pid).iterdir():
        try:
            ports.add(inodes.get(os.readlink(fd)))
        except OSError:
            pass  # it was closed meanwhile
    return ports - {None}


def only_run(out):
    runs = sorted(Path(out, "runs").glob("*/run.json"))
    return runs[-1].parent if runs else None


# ------------------------------------------------------------------------------------ replay


def replayed(bed, rng, number):
    """A drawn plan; report and findings deleted; replay gives the same bytes."""
    runtime = list(bed.services)[number % len(bed.services)]
    plan = plans.any_plan(rng)
    out = bed.out / ("replay-%02d" % number)
    run = bed.start(plans.endpoint(plan), runtime, out, ["--format", "json"])
    code, left = run.end(limit=seconds(bed.budget) * 3 + 60), run.settle(2)
    day = Day("replay", "%02d-%s" % (number, runtime), json.dumps(plan)[:60])
    folder = only_run(out)
    if code != 0 or folder is None or left:
        day.problems.append("exit code %s, left running: %s" % (code, left))
        return day
    kept = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file() and path.name != "run.json"}
    for name in kept:
        (folder / name).unlink()
    again = bed.tell("replay", "--format", "json", "--out", str(out), folder.name)
    now = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file() and path.name != "run.json"}
    if again.returncode != 0 or again.stderr:
        day.problems.append("replay: exit code %d: %s" % (again.returncode, again.stderr.strip()))
    day.problems += ["%s differs" % name for name in sorted(set(kept) | set(now)) if kept.get(name) != now.get(name)]
    if again.stdout != run.stdout:
        day.problems.append("stdout differs")
    day.detail = "%d bytes in %d files, %d findings" % (
        sum(map(len, kept.values())), len(kept), len(json.loads(again.stdout or "{}").get("findings", [])))
    return day


# ------------------------------------------------------------------------------------ kill


def killed(bed, rng, number):
    """SIGKILL at a random moment: what was recorded reads back, and nothing stays behind."""
    runtime = None if number % 2 else rng.choice(list(bed.services))
    out = bed.out / ("kill-%02d" % number)
    # every third while an inspector may be open, the only thing that could stay open in somebody else's process
    profile = number % 3 == 0
    before, after = bed.ports(), rng.uniform(0, 1) if profile else rng.uniform(0.01, seconds(bed.budget) + 1.5)
    run = bed.start(plans.endpoint(PLAN), runtime, out, budget=LONG if profile else None)
    if profile:
        run.says(PHASES["profile"], seconds(LONG) + 30)
    try:
        run.process.wait(after)
    except subprocess.TimeoutExpired:
        pass
    code = run.end(signal.SIGKILL)
    day = Day("kill", "%02d-%s" % (number, runtime or "launched"), "%.2f s after %s" % (after, "profile" if profile else "start"))
    day.problems += left_behind(bed, run, before)
    if code not in (-signal.SIGKILL, 0):
        day.problems.append("exit code %s" % code)
    day.detail += ", " + readable(bed, out, day)
    return day


def left_behind(bed, run, before):
    """Processes and open inspectors, after the time that the watchdogs need."""
    problems = ["left running: %s" % one for one in run.settle(PATIENCE_S)]
    deadline = time.monotonic() + PATIENCE_S
    while bed.ports() != before and time.monotonic() < deadline:
        time.sleep(0.05)
    if bed.ports() != before:
        problems.append("ports before %s, now %s" % (before, bed.ports()))
    return problems


def readable(bed, out, day):
    """Whether `runs`, `report` and `replay` work on what is left; how much there is, in words."""
    listed = bed.tell("runs", "--out", str(out))
    if listed.returncode != 0:
        day.problems.append("runs: " + listed.stderr)
    folder = only_run(out)
    if folder is None:
        return "no run yet"
    pieces = len(list(folder.glob("evidence/*.json.zst")))
    for command in ("report", "replay"):
        told = bed.tell(command, "--format", "json", "--out", str(out), folder.name)
        if told.returncode != 0:
            day.problems.append("%s: exit code %d: %s" % (command, told.returncode, told.stderr.strip()))
            continue
        if re.search("damaged|missing", told.stderr):
            day.problems.append("%s: %s" % (command, told.stderr.strip()))
        day.requests = sum(e["requests"] for e in json.loads(told.stdout)["endpoints"])
    return "%d pieces of evidence, %d requests" % (pieces, day.requests)


# ------------------------------------------------------------------------------------ interrupt


def interrupted(bed, rng, number):
    """SIGINT or SIGTERM soon after a phase began: exit code 130, a report, nothing left."""
    phase = list(PHASES)[number % len(PHASES)]
    sign = signal.SIGTERM if number % 4 == 3 else signal.SIGINT
    runtime = None if phase == "launch" or number % 2 else "node" if "node" in bed.services else list(bed.services)[0]
    out, before, wait = bed.out / ("interrupt-%02d" % number), bed.ports(), rng.uniform(0, 0.9)
    run = bed.start(plans.endpoint(PLAN), runtime, out, budget=LONG)
    day = Day("interrupt", "%02d-%s-%s" % (number, phase, runtime or "launched"), sign.name)
    reached = run.says(PHASES[phase], seconds(LONG) + 30)
    time.sleep(wait if reached else 0)
    began = time.monotonic()
    code = run.end(sign)
    took = time.monotonic() - began
    problems = left_behind(bed, run, before)
    day.detail = "%s %.2f s into it, ended %.2f s later" % (sign.name, wait, took)
    if not reached:
        day.problems.append("%s was not reached: %s" % (phase, run.said[-3:]))
    day.problems += problems
    day.problems += [] if code == 130 else ["exit code %s: %s" % (code, run.said[-2:])]
    day.detail += ", " + readable(bed, out, day)
    folder = only_run(out)
    if folder and json.loads((folder / "run.json").read_text()).get("state") == "open":
        day.problems.append("the run is not sealed")
    if phase != "launch" and day.requests and "where the time goes" not in run.stdout:
        day.problems.append("no report on stdout")
    return day
