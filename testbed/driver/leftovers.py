"""What a run of perfwright may leave behind, looked for before and after."""

import os
from dataclasses import dataclass
from pathlib import Path

from .client import family

MARK = "PERFWRIGHT_TESTBED_MARK"
# nobody but perfwright would change these here
SETTINGS = ("kernel/perf_event_paranoid", "kernel/kptr_restrict", "kernel/perf_event_mlock_kb",
            "kernel/perf_event_max_sample_rate", "kernel/task_delayacct", "kernel/sched_schedstats",
            "net/core/rmem_max", "net/core/bpf_jit_enable")
SCRATCH = ("/tmp", "/var/tmp", "/dev/shm", "/run")
# names that do not follow TMPDIR: what attaching to runtimes and profilers leaves
SUSPECT = ("perf-", "jit-", ".attach_pid", ".java_pid", "dotnet-diagnostic")


@dataclass(frozen=True)
class Before:
    """The state that must be the same afterwards."""

    settings: dict
    mounts: frozenset
    scratch: frozenset
    service: dict


def look(place):
    return Before(_settings(), _mounts(), _scratch(), _service(place.pid))


def _settings():
    return {name: _read("/proc/sys/" + name) for name in SETTINGS}


def _mounts():
    """Mount points; their numbers and order do not matter."""
    lines = _read("/proc/self/mountinfo").splitlines()
    return frozenset(line.split()[4] for line in lines if len(line.split()) > 4)


def _scratch():
    found = set()
    for folder in SCRATCH:
        found |= {"%s/%s" % (folder, name) for name in _list(folder) if name.startswith(SUSPECT)}
    return frozenset(found)


def _link(path):
    """Where a link leads; nothing when it is gone, as descriptors come and go while they are listed."""
    try:
        return os.readlink(path)
    except OSError:
        return ""


def _service(pid):
    """Per process of the service: what it listens on and who traces it."""
    state = {}
    for one in family(pid) if pid else ():
        held = {_link("/proc/%d/fd/%s" % (one, fd)) for fd in _list("/proc/%d/fd" % one)}
        listening = {line.split()[1] for table in ("tcp", "tcp6")
                     for line in _read("/proc/%d/net/%s" % (one, table)).splitlines()[1:]
                     if line.split()[3] == "0A" and "socket:[%s]" % line.split()[9] in held}
        tracer = [line for line in _read("/proc/%d/status" % one).splitlines() if line.startswith("TracerPid")]
        state[one] = (frozenset(listening), tuple(tracer))
    return state


def marked(mark):
    """Processes that carry the mark in their environment: perfwright's own and what it started."""
    wanted = ("%s=%s" % (MARK, mark)).encode()
    return [int(pid) for pid in _list("/proc") if pid.isdigit()
            and wanted in _read_bytes("/proc/%s/environ" % pid).split(b"\0")]


def differences(before, place, mark, home, allowed=()):
    """Sentences, one for each thing that was left or changed."""
    now, found = look(place), []
    found += ["process %d (%s) is still running" % (pid, _read("/proc/%d/comm" % pid).strip()) for pid in marked(mark)]
    found += ["%s was %s and is %s" % (name, before.settings[name], value)
              for name, value in now.settings.items() if before.settings[name] != value]
    found += ["mount %s is new" % mount for mount in now.mounts - before.mounts]
    found += ["%s is new" % path for path in now.scratch - before.scratch]
    found += ["%s is new" % path for path in _written(home, allowed)]
    for pid, state in before.service.items():
        if now.service.get(pid) != state:
            found.append("process %d of the service was %s and is %s" % (pid, state, now.service.get(pid)))
    return found


def _written(home, allowed):
    """Files in perfwright's home, scratch and working folders beside its run folder."""
    kept = [home / "out", *(home / name for name in allowed)]
    return [path for path in sorted(home.rglob("*")) if path.is_file()
            and not any(folder in path.parents for folder in kept)]


def _list(path):
    try:
        return os.listdir(path)
    except OSError:
        return []


def _read(path):
    return _read_bytes(path).decode(errors="replace")


def _read_bytes(path):
    try:
        return Path(path).read_bytes()
    except OSError:
        return b""
