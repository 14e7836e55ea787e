"""Sends requests one at a time and reads what the kernel accounted to the service for each of them."""

import json
import os
import random
import socket
import threading
import time
from urllib.parse import parse_qs, urlsplit

from .truth import Sample

HOST = "127.0.0.1"
# after an answer the service still tidies up: its accounting is read when it sleeps again
SETTLE_S = 0.003
TIMEOUT_S = 30


class RequestFailed(Exception):
    """The service answered with an error, or not at all."""


class Connection:
    """A keep-alive HTTP/1.1 connection; it is opened again where the service closes it."""

    def __init__(self, port):
        self.port, self.socket = port, None

    def get(self, path):
        """Wall nanoseconds from the first byte sent to the last one received, and the body."""
        request = ("GET %s HTTP/1.1\r\nHost: %s:%d\r\n\r\n" % (path, HOST, self.port)).encode()
        start = time.monotonic_ns()
        if self.socket is None:
            self.socket = socket.create_connection((HOST, self.port), TIMEOUT_S)
            self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.sendall(request)
        head, body = self._receive()
        wall = time.monotonic_ns() - start
        if b"\r\nconnection: close" in head.lower():
            self.close()
        if not head.startswith(b"HTTP/1.1 200"):
            raise RequestFailed("%s: %s" % (head.split(b"\r\n")[0].decode(), body[:300].decode()))
        return wall, body

    def _receive(self):
        data = b""
        while b"\r\n\r\n" not in data:
            data += self._more()
        head, _, body = data.partition(b"\r\n\r\n")
        length = next(int(line.split(b":")[1]) for line in head.split(b"\r\n")
                      if line.lower().startswith(b"content-length:"))
        while len(body) < length:
            body += self._more()
        return head, body

    def _more(self):
        data = self.socket.recv(65536)
        if not data:
            self.close()
            raise RequestFailed("the service closed the connection")
        return data

    def close(self):
        if self.socket is not None:
            self.socket.close()
            self.socket = None


def family(pid):
    """The process and everything below it."""
    pids = [pid]
    for parent in pids:
        for task in _list("/proc/%d/task" % parent):
            pids += map(int, _read("/proc/%d/task/%s/children" % (parent, task)).split())
    return pids


def accounted(pids):
    """(on-CPU, run-queue) nanoseconds of each thread since it began."""
    threads = {}
    for pid in pids:
        for task in _list("/proc/%d/task" % pid):
            values = _read("/proc/%d/task/%s/schedstat" % (pid, task)).split()
            if values:
                threads[pid, task] = int(values[0]), int(values[1])
    return threads


def spent(before, after):
    """(on-CPU, run-queue, on-CPU of other than first threads) nanoseconds between two accounts. What a
    thread used that ended is lost."""
    cpu = runqueue = workers = 0
    for (pid, task), (thread_cpu, thread_runqueue) in after.items():
        cpu_before, runqueue_before = before.get((pid, task), (0, 0))
        cpu += thread_cpu - cpu_before
        runqueue += thread_runqueue - runqueue_before
        workers += thread_cpu - cpu_before if task != str(pid) else 0
    return cpu, runqueue, workers


def _list(path):
    try:
        return os.listdir(path)
    except OSError:
        return []  # the process or thread is gone


def _read(path):
    try:
        with open(path) as file:
            return file.read()
    except OSError:
        return ""


def solo(port, pid, path, count, warm=3):
    """`count` requests, one at a time, each with the service's answer and the kernel's accounting."""
    connection, pids, samples = Connection(port), family(pid), []
    for i in range(warm + count):
        before = accounted(pids)
        wall, body = connection.get(path)
        time.sleep(SETTLE_S)
        used = spent(before, accounted(pids))
        if i >= warm:
            samples.append(Sample(json.loads(body), wall, *used))
    connection.close()
    return samples


def served(port, path, windows, workers=1):
    """The service's answers to requests for `path` that somebody else sent in these windows, one at a time."""
    wanted, answers = parse_qs(urlsplit(path).query), {}
    for _ in range(1 if workers == 1 else 20 * workers):
        connection = Connection(port)
        _, body = connection.get("/served")
        connection.close()
        page = json.loads(body)
        answers[page["pid"]] = [one["answer"] for one in page["served"] if one["alone"]
                                and _within(windows, one["start"]) and parse_qs(one["url"][1:]) == wanted]
        if len(answers) == workers:
            break
    return [answer for worker in answers.values() for answer in worker]


def _within(windows, time_ns):
    return any(start <= time_ns <= end for start, end in windows)


class Foreign:
    """Other people's requests to the same service, at random moments, until `stop`."""

    def __init__(self, port, path, per_second, seed):
        self.port, self.path, self.rate = port, path, per_second
        self.rng, self.stopping, self.sent, self.failed = random.Random(seed), threading.Event(), 0, 0
        self.thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.stopping.set()
        self.thread.join()

    def _run(self):
        connection, due = Connection(self.port), time.monotonic()
        while True:
            due += self.rng.expovariate(self.rate)
            if self.stopping.wait(max(due - time.monotonic(), 0)):
                break
            try:
                connection.get(self.path)
                self.sent += 1
            except (RequestFailed, OSError):
                self.failed += 1
        connection.close()


def wake_ns(rounds=150):
    """How long a sleeping thread takes to get onto a core after a packet for it was sent, beyond what the
    kernel counts as run-queue: the interrupt to an idle core. On a virtual machine it can exceed a statement."""
    listener = socket.create_server((HOST, 0))
    child = os.fork()
    if child == 0:
        _answer_arrival_times(listener)
    with socket.create_connection(listener.getsockname()) as ours:
        ours.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        delays = []
        for _ in range(rounds):
            time.sleep(0.002)
            before, start = accounted([child]), time.monotonic_ns()
            ours.send(b"x")
            sent = time.monotonic_ns()
            arrival = int.from_bytes(ours.recv(8), "big")
            time.sleep(0.0005)
            # the packet left about half-way through `send`
            delays.append(arrival - (start + sent) // 2 - spent(before, accounted([child]))[1])
    os.waitpid(child, 0)
    listener.close()
    return max(sorted(delays)[len(delays) // 2], 0)


def _answer_arrival_times(listener):
    """The other process of `wake_ns`: answers each byte with the time at which it was awake."""
    peer, _ = listener.accept()
    peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    while peer.recv(64):
        peer.send(time.monotonic_ns().to_bytes(8, "big"))
    os._exit(0)
