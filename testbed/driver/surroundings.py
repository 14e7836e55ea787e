"""The environments: how service and perfwright are placed, with standard tools, and what is undone afterwards.

Each is a context manager that starts its service and yields a `Place`: where the service answers, and the words
that go before a perfwright command.
"""

import os
import shutil
import socket
import subprocess
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from .client import HOST, family
from .services import TESTBED, SetupFailed, environment, running, stop

NOBODY, SERVICE_USER = "nobody", "www-data"
# a base folder that users without a home can read; root's own is usually closed
OPEN_BASE = Path("/var/tmp/perfwright-testbed-open")
SOCKET_BASE = Path("/var/tmp/perfwright-testbed-socket")
SOCKET_PG_PORT = 25532
PORT = 25510
NAMESPACE, LINK, NEAR, FAR = "pwtest%d" % PORT, "pwt%d" % PORT, "10.231.77.1", "10.231.77.2"
SYSCTLS = Path("/proc/sys/kernel")


@dataclass
class Place:
    """Where a service answers and how perfwright is to be run there."""

    port: int
    host: str = HOST
    pid: int = None  # None: perfwright launches it
    prefix: list = field(default_factory=list)
    user: str = None  # owns what perfwright writes
    arguments: list = field(default_factory=list)
    variables: dict = field(default_factory=dict)
    command: list = field(default_factory=list)  # what perfwright launches
    clean_up: list = field(default_factory=list)  # folders a launched command (npm) writes by itself


def as_user(name):
    return ["setpriv", "--reuid=" + name, "--regid=" + _group(name), "--clear-groups"]


def _group(name):
    done = subprocess.run(["id", "-gn", name], capture_output=True, text=True)
    if done.returncode != 0:
        raise SetupFailed("no user called %s\nhint: useradd --system %s" % (name, name))
    return done.stdout.strip()


def open_base(runtime):
    """Variables with which a truth service runs as a user without a home: its packages where all can read them."""
    variables = {"PERFWRIGHT_TESTBED_DIR": str(OPEN_BASE)}
    files = OPEN_BASE / "files"
    files.mkdir(parents=True, exist_ok=True)
    OPEN_BASE.chmod(0o755)
    files.chmod(0o1777)
    subprocess.run([TESTBED / "truth" / "setup", runtime], check=True, env={**os.environ, **variables})
    for name, key in (("scan.pg", "TESTBED_SCAN_PG"), ("scan.mysql", "TESTBED_SCAN_MYSQL")):
        (OPEN_BASE / name).write_text(environment()[key] + "\n")
    return variables


def readable(binary, user):
    """The binary, or a copy of it where `user` can read it."""
    if subprocess.run([*as_user(user), "test", "-x", binary]).returncode == 0:
        return binary
    copy = OPEN_BASE / "perfwright"
    OPEN_BASE.mkdir(exist_ok=True)
    if not copy.exists() or copy.stat().st_mtime < os.stat(binary).st_mtime:
        shutil.copy(binary, copy)
    copy.chmod(0o755)
    return str(copy)


# ------------------------------------------------------------------------------------ the places


@contextmanager
def plain(runtime, log, variables=None):
    """Root beside its own service: what the others are measured against."""
    with running(runtime, PORT, log, variables=variables) as (pid, port):
        yield Place(port, pid=pid)


@contextmanager
def other_user(runtime, log):
    """perfwright as nobody, the service as a user of its own."""
    with running(runtime, PORT, log, as_user(SERVICE_USER), open_base(runtime)) as (pid, port):
        yield Place(port, pid=pid, prefix=as_user(NOBODY), user=NOBODY)


@contextmanager
def root_service(runtime, log):
    """perfwright as nobody, the service as root among many other processes of root."""
    with running(runtime, PORT, log) as (pid, port):
        yield Place(port, pid=pid, prefix=as_user(NOBODY), user=NOBODY)


@contextmanager
def same_user(runtime, log):
    """perfwright and the service as the same user without privileges."""
    with running(runtime, PORT, log, as_user(SERVICE_USER), open_base(runtime)) as (pid, port):
        yield Place(port, pid=pid, prefix=as_user(SERVICE_USER), user=SERVICE_USER)


@contextmanager
def seccomp(runtime, log):
    """perfwright as root under a filter that refuses perf_event_open and bpf."""
    with running(runtime, PORT, log) as (pid, port):
        yield Place(port, pid=pid, prefix=[str(TESTBED / "environments" / "refuse")])


@contextmanager
def seccomp_user(runtime, log):
    """The same filter, and no privileges: the service's own user in a sandbox."""
    with same_user(runtime, log) as place:
        place.prefix = [*place.prefix, str(TESTBED / "environments" / "refuse")]
        yield place


@contextmanager
def network_only(runtime, log):
    """perfwright shares nothing but the network namespace: its own pid, mount and ipc namespaces."""
    with running(runtime, PORT, log, as_user(SERVICE_USER), open_base(runtime)) as (pid, port):
        yield Place(port, pid=pid, prefix=["unshare", "--pid", "--fork", "--kill-child", "--mount-proc", "--mount", "--ipc"])


@contextmanager
def remote(runtime, log):
    """perfwright on another machine, as far as it can tell: own network, pid, mount and ipc namespaces, a cable
    between them, and nothing listening at its end of it but the service."""
    _undo_network()
    try:
        for command in ("netns add " + NAMESPACE,
                        "link add %s type veth peer name %sp netns %s" % (LINK, LINK, NAMESPACE),
                        "addr add %s/30 dev %s" % (NEAR, LINK), "link set %s up" % LINK,
                        "-n %s addr add %s/30 dev %sp" % (NAMESPACE, FAR, LINK),
                        "-n %s link set %sp up" % (NAMESPACE, LINK), "-n %s link set lo up" % NAMESPACE):
            subprocess.run(["ip", *command.split()], check=True)
        with running(runtime, PORT, log, variables={"TESTBED_BIND": NEAR}, host=NEAR) as (pid, port):
            inside = ["ip", "netns", "exec", NAMESPACE,
                      "unshare", "--pid", "--fork", "--kill-child", "--mount-proc", "--mount", "--ipc", "--uts"]
            yield Place(port, NEAR, pid, inside)
    finally:
        _undo_network()


def _undo_network():
    for command in (["ip", "link", "del", LINK], ["ip", "netns", "del", NAMESPACE]):
        subprocess.run(command, capture_output=True)


@contextmanager
def tls(runtime, log):
    """The service speaks TLS to PostgreSQL."""
    with plain(runtime, log, {"TESTBED_PG_TLS": "1"}) as place:
        yield place


@contextmanager
def unix_socket(runtime, log):
    """The service reaches PostgreSQL through a Unix socket; a server of our own where the usual one has none."""
    known, started = environment(), False
    folder, port = known["TESTBED_PG_SOCKETS"], known["TESTBED_PG_PORT"]
    if not os.path.exists("%s/.s.PGSQL.%s" % (folder, port)):
        variables = {"PERFWRIGHT_TESTBED_DIR": str(SOCKET_BASE), "TESTBED_PG_PORT": str(SOCKET_PG_PORT)}
        subprocess.run([TESTBED / "services", "up", "postgres"], check=True, env={**os.environ, **variables},
                       capture_output=True)
        started, folder, port = True, str(SOCKET_BASE / "run"), str(SOCKET_PG_PORT)
    try:
        with plain(runtime, log, {"TESTBED_PG_SOCKET": folder, "TESTBED_PG_PORT": port}) as place:
            yield place
    finally:
        if started:
            subprocess.run([TESTBED / "services", "down", "postgres"], env={**os.environ, **variables},
                           capture_output=True)


PERF_TRIAL = """
import ctypes, struct
attr = ctypes.create_string_buffer(struct.pack("IIQQQQQ", 1, 112, 9, 0, 0, 0, 1 << 5), 112)
number = {"x86_64": 298, "aarch64": 241}[__import__("platform").machine()]
raise SystemExit(ctypes.CDLL(None).syscall(number, attr, 0, -1, -1, 0) < 0)
"""


def paranoid_refuses():
    """Whether perf_event_paranoid 4 forbids perf events to users altogether: only where a distribution's kernel
    knows more levels than mainline's 2."""
    with _sysctls({"perf_event_paranoid": "4"}):
        trial = subprocess.run([*as_user(NOBODY), "/usr/bin/python3", "-c", PERF_TRIAL], capture_output=True)
    return trial.returncode != 0


def _npm(runtime):
    """Command and variables of `npm run dev`: npm, a shell, node."""
    assert runtime == "node"
    # the second word is $0, by which the script finds its folder
    setup = ["bash", "-c", 'source "$0"; setup_node; node_home', str(TESTBED / "truth" / "setup")]
    home = subprocess.run(setup, check=True, capture_output=True, text=True).stdout.strip()
    variables = {**environment(), "PORT": str(PORT), "NODE_PATH": home + "/node_modules",
                 "npm_config_update_notifier": "false", "npm_config_logs_max": "0"}
    return ["npm", "--prefix", str(TESTBED / "truth" / "node"), "run", "dev"], variables


@contextmanager
def npm_launched(runtime, _log):
    """perfwright launches `npm run dev`."""
    command, variables = _npm(runtime)
    yield Place(PORT, variables=variables, command=command, clean_up=[".npm"])


@contextmanager
def npm_running(runtime, log):
    """`npm run dev` runs already."""
    command, variables = _npm(runtime)
    with open(log, "wb") as output:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output,
                                   start_new_session=True, env={**os.environ, **variables})
    try:
        _await_port(PORT, process)
        yield Place(PORT, pid=family(process.pid)[-1])
    finally:
        stop(process)


def _await_port(port, process):
    for _ in range(300):
        with socket.socket() as probe:
            if probe.connect_ex((HOST, port)) == 0:
                return
        if process.poll() is not None:
            break
        time.sleep(0.1)
    raise SetupFailed("npm run dev did not answer on port %d\nhint: is the port taken?" % port)


@contextmanager
def paranoid(runtime, log):
    """kernel.perf_event_paranoid at 4 and kptr_restrict at 2, perfwright without privileges as the service's own
    user."""
    with _sysctls({"perf_event_paranoid": "4", "kptr_restrict": "2"}), same_user(runtime, log) as place:
        yield place


@contextmanager
def _sysctls(wanted):
    """Settings of the kernel, restored whatever happens."""
    before = {name: (SYSCTLS / name).read_text().strip() for name in wanted}
    try:
        for name, value in wanted.items():
            (SYSCTLS / name).write_text(value)
        yield
    finally:
        for name, value in before.items():
            (SYSCTLS / name).write_text(value)
