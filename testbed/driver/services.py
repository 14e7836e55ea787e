"""Starts what a comparison needs and stops what it started."""

import json
import os
import re
import signal
import socket
import statistics
import subprocess
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path

from .client import HOST, Connection, RequestFailed

TESTBED = Path(__file__).resolve().parent.parent
REPOSITORY = TESTBED.parent
# the first of the truth services' ports: moved, two comparisons run side by side
FIRST_PORT = int(os.environ.get("TESTBED_TRUTH_PORT", "25100"))
PORTS = {"node": FIRST_PORT, "node-cluster": FIRST_PORT + 10, "python": FIRST_PORT + 100,
         "gunicorn": FIRST_PORT + 110, "go": FIRST_PORT + 200, "supplier": 25080}
RUNTIMES = ("node", "python", "go")
START_SECONDS = 60


class SetupFailed(Exception):
    """Something the testbed needs did not start; the message ends with a hint."""


def environment():
    """The variables of `testbed/services env`."""
    text = subprocess.run([TESTBED / "services", "env"], check=True, capture_output=True, text=True).stdout
    return dict(re.findall(r"^export (\w+)='(.*)'$", text, re.MULTILINE))


@contextmanager
def databases():
    """The four servers are up inside; those that were down before are stopped afterwards."""
    status = subprocess.run([TESTBED / "services", "status"], check=True, capture_output=True, text=True).stdout
    down = [line.split()[0] for line in status.splitlines() if line.split()[1] == "down"]
    if down and subprocess.run([TESTBED / "services", "up", *down]).returncode != 0:
        raise SetupFailed("the databases did not start\nhint: testbed/services install")
    try:
        yield environment()
    finally:
        if down:
            subprocess.run([TESTBED / "services", "down", *down], check=False)


@contextmanager
def running(runtime, port=None, log=None, prefix=(), variables=None, host=HOST):
    """A truth service (or the supplier) in a process group of its own, started behind `prefix` (setpriv and
    the like) with more `variables`. Yields its pid and port."""
    port = port or (int(environment()["TESTBED_SUPPLIER_PORT"]) if runtime == "supplier" else PORTS[runtime])
    with socket.socket() as probe:
        if probe.connect_ex((host, port)) == 0:
            raise SetupFailed("port %d for %s is taken\nhint: stop what listens there" % (port, runtime))
    output = open(log, "wb") if log else subprocess.DEVNULL
    process = subprocess.Popen([*prefix, TESTBED / "truth" / "start", runtime, str(port)],
                               stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True,
                               env={**os.environ, **(variables or {})})
    try:
        _await(process, port, runtime, log, host)
        yield process.pid, port
    finally:
        stop(process)


@contextmanager
def launched(command, port, log):
    """An application in a process group of its own, until its port accepts connections and beyond."""
    with socket.socket() as probe:
        if probe.connect_ex((HOST, port)) == 0:
            raise SetupFailed("port %d is taken\nhint: stop what listens there" % port)
    with open(log, "wb") as output:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output,
                                   start_new_session=True)
    try:
        deadline = time.monotonic() + 2 * START_SECONDS
        while True:
            with socket.socket() as probe:
                if probe.connect_ex((HOST, port)) == 0:
                    break
            if time.monotonic() > deadline or process.poll() is not None:
                raise SetupFailed("nothing listens on port %d\nhint: read %s" % (port, log))
            time.sleep(0.2)
        yield process.pid
    finally:
        stop(process)


def _await(process, port, runtime, log, host):
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        try:
            connection = Connection(port, host)
            connection.get("/health")
            connection.close()
            return
        except (OSError, RequestFailed):
            time.sleep(0.1)
    raise SetupFailed("%s did not answer on port %d\nhint: testbed/truth/start %s%s"
                      % (runtime, port, runtime, ", or read " + str(log) if log else ""))


def stop(process):
    """Ends a process that leads its group, and what is left of the group."""
    for sign in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, sign)
        except ProcessLookupError:
            break
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            continue
    process.wait()


@contextmanager
def everything(runtimes, results):
    """Databases, supplier and truth services. Yields {runtime: (pid, port)}."""
    subprocess.run([TESTBED / "truth" / "setup", *sorted({_package(r) for r in runtimes})], check=True)
    with ExitStack() as stack:
        stack.enter_context(databases())
        stack.enter_context(running("supplier"))
        yield {runtime: stack.enter_context(running(runtime, log=results / (runtime + ".log")))
               for runtime in runtimes}


def _package(runtime):
    return {"gunicorn": "python", "node-cluster": "node"}.get(runtime, runtime)


def results_folder(name):
    """Where a comparison keeps its reports: outside the repository."""
    folder = Path(environment()["PERFWRIGHT_TESTBED_DIR"]) / "results" / name
    folder.mkdir(parents=True, exist_ok=True)
    return folder


# ------------------------------------------------------------------------------------ perfwright


class Perfwright:
    """Runs `perfwright investigate` and keeps what it said."""

    def __init__(self, budget, results):
        self.budget, self.results, self.out = budget, results, results / "runs"
        self.binary = os.environ.get("PERFWRIGHT") or str(REPOSITORY / "target" / "release" / "perfwright")
        if not os.access(self.binary, os.X_OK):
            raise SetupFailed("no perfwright at %s\nhint: cargo build --release, or set PERFWRIGHT" % self.binary)

    def investigate(self, name, port, path):
        """The report, or the reason why there is none."""
        command = [self.binary, "investigate", "--format", "json", "--budget", self.budget,
                   "--out", str(self.out), "--endpoint", "GET " + path,
                   "http://%s:%d" % (HOST, port)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL,
                                  timeout=seconds(self.budget) * 2 + 60)
        except subprocess.TimeoutExpired:
            return None, "no answer within twice its budget and a minute"
        (self.results / (name + ".json")).write_text(done.stdout)
        (self.results / (name + ".stderr")).write_text(done.stderr)
        if done.returncode not in (0, 1):
            last = done.stderr.strip().splitlines()[-1:] or [""]
            return None, "exit code %d: %s" % (done.returncode, last[0])
        try:
            return json.loads(done.stdout), None
        except ValueError as error:
            return None, "its JSON cannot be read: %s" % error


def warm_windows(out, report):
    """Start and end, monotonic nanoseconds, of the windows whose requests the ledger rests on."""
    return [(w["start"], w["end"]) for w in warm(out, report)]


def warm(out, report):
    """The windows whose requests the ledger rests on."""
    return [w for w in evidence(out, report, "windows") if w["driven"] and w["arm"]["arm"] == "warm"]


def warm_quartiles(out, report):
    """The quartiles of the latencies that the client measured, milliseconds: between them is the mean of the middle
    half, however skew the latencies are."""
    ids = {w["id"] for w in warm(out, report)}
    latencies = [(x["phases"]["end"] - x["phases"]["start"]) / 1e6 for x in evidence(out, report, "exchanges")
                 if x["window"] in ids and x["failure"] is None]
    if len(latencies) < 2:
        return None
    low, _, high = statistics.quantiles(latencies, n=4, method="inclusive")
    return low, high


def evidence(out, report, kind):
    """What a run recorded of a kind; `out` is the folder that the run was kept in."""
    found = []
    for path in (Path(out) / "runs" / report["run"]["id"] / "evidence").glob(kind + "-*.json.zst"):
        text = subprocess.run(["zstd", "-dc", str(path)], capture_output=True, check=True).stdout
        found += json.loads(text)["body"]["data"]
    return found


def seconds(text):
    """`8s`, `1m` or a bare number of seconds."""
    unit = {"s": 1, "m": 60}.get(text[-1:])
    return float(text[:-1]) * unit if unit else float(text)
