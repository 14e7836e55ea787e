"""PostgreSQL's own statement log: what a database really executed, and a normal form of statements."""

import re
import subprocess
import time
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime

from .client import HOST

# a statement is logged when its execution begins, its time cut to whole milliseconds
HEAD = re.compile(r"^(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3}) (\S+) (\d+) (\w+):  (.*)$")
STATEMENT = re.compile(r"^(?:statement|execute (?:fetch from )?[^:]*): (.*)$", re.DOTALL)
TOKEN = re.compile(r"""
    (?P<comment>--[^\n]*|/\*.*?\*/)
  | (?P<escaped>[eE]'(?:[^'\\]|\\.|'')*')
  | (?P<string>[bBxXnN]?'(?:[^']|'')*')
  | (?P<dollar>\$(?P<tag>[A-Za-z_]*)\$.*?\$(?P=tag)\$)
  | (?P<quoted>"(?:[^"]|"")*")
  | (?P<place>\$\d+|\?)
  | (?P<number>(?<![\w$])\.?\d[\w.]*(?:(?<=[eE])[+-]\d+)?)
  | (?P<word>[^\W\d][\w$]*)
  | (?P<space>\s+)
  | (?P<other>.)
""", re.VERBOSE | re.DOTALL)
CONSTANTS = ("null", "true", "false", "default")


@dataclass
class Logged:
    """One statement of the server's log."""

    at_ms: int  # since the epoch
    pid: int
    text: str


class LogBroken(Exception):
    """The log cannot be an oracle; the message ends with a hint."""


def admin(environment, sql, database="postgres"):
    """One statement as the administrator; its rows."""
    done = subprocess.run(["psql", "-X", "-q", "-At", "-v", "ON_ERROR_STOP=1", "-h", HOST, "-p",
                           environment["TESTBED_PG_PORT"], "-U", "postgres", "-d", database, "-c", sql],
                          capture_output=True, text=True)
    if done.returncode != 0:
        raise LogBroken("%s\nhint: testbed/services up" % done.stderr.strip())
    return done.stdout.splitlines()


@contextmanager
def logging(environment, database):
    """Statements of sessions that `database` opens inside are logged; nobody else's are."""
    _nobody_else(environment)
    admin(environment, "alter database %s set log_statement = 'all'" % database)
    try:
        yield
        _nobody_else(environment)
    finally:
        admin(environment, "alter database %s reset log_statement" % database)


def _nobody_else(environment):
    if admin(environment, "show log_statement") != ["none"]:
        raise LogBroken("every database's statements are being logged\nhint: testbed/services log off")


class Log:
    """What is appended to the log from now on."""

    def __init__(self, environment):
        self.path = environment["TESTBED_PG_LOG"]
        with open(self.path, "rb") as file:
            self.offset = file.seek(0, 2)

    def statements(self):
        """All statements so far, in the order of the log."""
        time.sleep(0.3)  # the server's logger writes behind
        with open(self.path, "rb") as file:
            file.seek(self.offset)
            text = file.read().decode(errors="replace")
        return list(parse(text))


def parse(text):
    """Statements of a log whose prefix is `%m %p `; further lines of one begin with a tab."""
    entries = []
    for line in text.splitlines():
        if line.startswith("\t") and entries:
            entries[-1][1] += "\n" + line[1:]
            continue
        head = HEAD.match(line)
        if head:
            entries.append([head, head.group(5)])
    for head, message in entries:
        found = STATEMENT.match(message) if head.group(4) == "LOG" else None
        if not found:
            continue
        for one in split(found.group(1)):
            yield Logged(_epoch_ms(head.group(1), head.group(2)), int(head.group(3)), one)


def _epoch_ms(stamp, zone):
    if zone not in ("UTC", "GMT", "Etc/UTC"):
        raise LogBroken("the log's times are in %s\nhint: log_timezone = 'UTC'" % zone)
    seconds, millis = stamp.split(".")
    return int(datetime.fromisoformat(seconds + "+00:00").timestamp()) * 1000 + int(millis)


def split(text):
    """The normal forms of the statements of a text."""
    return [form for form in (_normal(tokens) for tokens in _statements(text)) if form]


def normal(text):
    """Normal form of one statement: no literals, no comments, lists folded. Of a fingerprint: itself."""
    return "; ".join(split(text))


def _statements(text):
    tokens = []
    for match in TOKEN.finditer(text):
        kind = match.lastgroup if match.lastgroup != "tag" else "dollar"
        if kind == "tag" or kind in ("comment", "space"):
            continue
        if kind in ("escaped", "string", "dollar", "place", "number"):
            tokens.append("?")
        elif match.group() == ";":
            yield tokens
            tokens = []
        else:
            word = match.group().lower() if kind == "word" else match.group()
            tokens.append("?" if word in CONSTANTS else word)
    yield tokens


def _normal(tokens):
    out = []
    for token in tokens:
        if token == "?":
            while out and out[-1] in "+-":
                out.pop()  # a sign, or an operation: the same on both sides
        out.append(token)
    text = " ".join(out)
    for pattern, short in ((r"\?(?: , \?)+", "?"), (r"\( \? \)(?: , \( \? \))+", "( ? )")):
        text = re.sub(pattern, short, text)
    return text
