"""Truth service, Python: executes the plan in `p` and answers with what it cost, measured inside.

Run as a program it is a threading HTTP server; `service:wsgi` is the same for gunicorn.
The plan grammar and the answer are described in ../README.md; the statements in ../statements.json.
"""

import http.client
import json
import os
import random
import socket
import sys
import threading
import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import psycopg2.pool
import pymysql
import redis
from pymemcache.client.base import PooledClient

HOST = "127.0.0.1"
BIND = os.environ.get("TESTBED_BIND", HOST)
PORT = int(os.environ.get("PORT", "25200"))
SUPPLIER_PORT = int(os.environ.get("TESTBED_SUPPLIER_PORT", "25080"))
POOL_SIZE = 10
SCAN_ROWS_MAX = 300_000
FILES = Path(os.environ.get("PERFWRIGHT_TESTBED_DIR", "/var/tmp")) / "files"
SQL = json.loads((Path(__file__).parent.parent / "statements.json").read_text())

# ------------------------------------------------------------------------------------ peers


class Pool:
    """At most POOL_SIZE connections, last used first; waits when all are out."""

    def __init__(self, connect):
        self.connect, self.free = connect, []
        self.slots = threading.Semaphore(POOL_SIZE)

    def query(self, sql, values):
        with self.slots:
            connection = self.free.pop() if self.free else self.connect()
            try:
                with connection.cursor() as cursor:
                    cursor.execute(sql, values)
                    return cursor.fetchall()
            finally:
                self.free.append(connection)

    def warm(self):
        self.free = [self.connect() for _ in range(POOL_SIZE)]


def connect_postgres():
    connection = psycopg2.connect(os.environ["TESTBED_PG_DSN"])
    connection.autocommit = True
    return connection


def connect_mysql():
    url = urlsplit(os.environ["TESTBED_MYSQL_DSN"])
    return pymysql.connect(host=url.hostname, port=url.port, user=url.username,
                           password=url.password, database=url.path[1:], autocommit=True)


POOLS = {"pg": Pool(connect_postgres), "mysql": Pool(connect_mysql)}
REDIS = redis.Redis(port=int(os.environ.get("TESTBED_REDIS_PORT", "26379")))
MEMCACHED = PooledClient((HOST, int(os.environ.get("TESTBED_MEMCACHED_PORT", "21211"))),
                         max_pool_size=POOL_SIZE, no_delay=True)
BRANCHES = ThreadPoolExecutor(64, thread_name_prefix="branch")
LOCAL = threading.local()


def query(db, sql, values):
    return POOLS[db].query(sql.replace("{}", "%s"), values)


def query_any(db, sql, keys):
    if db == "pg":
        return query(db, sql, [keys])
    return query(db, sql.replace("= any({})", "in {}"), [keys])


def http_get(url):
    connection = getattr(LOCAL, "supplier", None)
    if connection is None:
        connection = LOCAL.supplier = http.client.HTTPConnection(HOST, SUPPLIER_PORT)
    connection.request("GET", url)
    connection.getresponse().read()


# ------------------------------------------------------------------------------------ operations
# Each returns how many calls it made. `timed` wraps one call.


def key_of():
    return "k%d" % random.randint(1, 200)


def burn_cpu(ms):
    """Burns this thread's CPU time, not wall time: on a busy machine it takes longer and still costs `ms`."""
    until = time.thread_time_ns() + int(ms * 1e6)
    digest = 2166136261
    while time.thread_time_ns() < until:
        for i in range(200):
            digest = (digest ^ i) * 16777619 & 0xFFFFFFFF
    return digest


def op_cpu(step, timed):
    slices = step.get("slices", 1)
    for i in range(slices):
        if i:
            time.sleep(0)
        burn_cpu(step["ms"] / slices)
    return slices


def family(step):
    """The statements of a list with its details: one row each, or `rows` rows each."""
    return SQL["many" if step.get("rows", 1) > 1 else "one"]


def parents_of(step, timed):
    first = random.randint(1, family(step)["parents"] - step["n"])
    return timed(lambda: query(step.get("db", "pg"), family(step)["parent"], [first, first + step["n"] - 1]))


def sql_n_plus_one(step, timed):
    rows = step.get("rows", 1)
    parents = parents_of(step, timed)
    for _, key in parents:
        values = [key, rows] if rows > 1 else [key]
        timed(lambda: query(step.get("db", "pg"), family(step)["child"], values))
    return 1 + len(parents)


def sql_batched(step, timed):
    keys = [key for _, key in parents_of(step, timed)]
    timed(lambda: query_any(step.get("db", "pg"), family(step)["batched"], keys))
    return 2


def sql_repeat(step, timed):
    rows, customer = step.get("rows", 1), random.randint(1, 5000)
    sql, values = (SQL["repeat_many"], [customer, rows]) if rows > 1 else (SQL["repeat"], [customer])
    for _ in range(step["n"]):
        timed(lambda: query(step.get("db", "pg"), sql, values))
    return step["n"]


def sql_varied(step, timed):
    for i in range(step["n"]):
        sql, keys = SQL["varied"][i % len(SQL["varied"])]
        timed(lambda: query(step.get("db", "pg"), sql, [random.randint(1, keys)]))
    return step["n"]


def sql_scan(step, timed):
    db = step.get("db", "pg")
    sql, rows = scan_for(db, step["ms"])
    for _ in range(step.get("n", 1)):
        timed(lambda: query(db, sql, [rows, "%x" % random.getrandbits(30)]))
    return step.get("n", 1)


def scan_for(db, ms):
    """The cheapest unindexed statement that takes about `ms` on the server, and the rows it must visit."""
    rates = [int(rate) for rate in os.environ["TESTBED_SCAN_" + db.upper()].split(",")]
    form = next((i for i, rate in enumerate(rates) if ms * rate <= SCAN_ROWS_MAX), len(rates) - 1)
    return SQL["scan"][form], min(SCAN_ROWS_MAX, round(ms * rates[form]))


SHAPES = {"n_plus_one": sql_n_plus_one, "batched": sql_batched, "repeat": sql_repeat,
          "varied": sql_varied, "scan": sql_scan}


def op_sql(step, timed):
    return SHAPES[step["shape"]](step, timed)


def op_redis(step, timed):
    if step.get("pipelined"):
        pipeline = REDIS.pipeline(transaction=False)
        for _ in range(step["n"]):
            pipeline.get(key_of())
        timed(pipeline.execute)
    else:
        for _ in range(step["n"]):
            timed(lambda: REDIS.get(key_of()))
    return step["n"]


def op_memcached(step, timed):
    if step.get("pipelined"):
        keys = ["k%d" % (1 + i % 200) for i in range(step["n"])]
        timed(lambda: MEMCACHED.get_many(keys))
    else:
        for _ in range(step["n"]):
            timed(lambda: MEMCACHED.get(key_of()))
    return step["n"]


def op_http(step, timed):
    for _ in range(step.get("n", 1)):
        timed(lambda: http_get("/%s?ms=%s" % (step.get("path", "quote"), step["ms"])))
    return step.get("n", 1)


def op_sleep(step, timed):
    timed(lambda: time.sleep(step["ms"] / 1e3))
    return 1


def op_fsync(step, timed):
    block = b"x" * step.get("bytes", 4096)
    with open(FILES / ("python-%d-%d" % (os.getpid(), threading.get_native_id() % 64)), "wb", buffering=0) as file:
        for _ in range(step.get("n", 1)):
            timed(lambda: (file.write(block), os.fsync(file.fileno())))
    return step.get("n", 1)


def op_pieces(_step, _timed):
    """Nothing now: the answer will leave in two pieces, see `Handler`."""
    WAYS.pieces = True
    return 1


OPERATIONS = {"cpu": op_cpu, "sql": op_sql, "redis": op_redis, "memcached": op_memcached,
              "http": op_http, "sleep": op_sleep, "fsync": op_fsync, "pieces": op_pieces}
WAYS = threading.local()

# ------------------------------------------------------------------------------------ the plan


class Truth:
    """What one request did: its operations, and (time, CPU) at each of their edges."""

    def __init__(self):
        self.start, self.cpu = time.monotonic_ns(), time.process_time_ns()
        self.ops, self.marks = [], []
        self.mark()

    def now(self):
        return time.monotonic_ns() - self.start

    def mark(self):
        now = self.now()
        self.marks.append([now, time.process_time_ns() - self.cpu])
        return now


def run(step, truth, overlapped):
    if step["op"] == "serial":
        for inner in step["steps"]:
            run(inner, truth, overlapped)
    elif step["op"] == "parallel":
        # the last branch runs here: nested plans must not wait for a free thread of the pool
        branches = [BRANCHES.submit(run, inner, truth, True) for inner in step["steps"][:-1]]
        run(step["steps"][-1], truth, True)
        for branch in branches:
            branch.result()
    else:
        run_operation(step, truth, overlapped)


def run_operation(step, truth, overlapped):
    calls = []

    def timed(call):
        # the single calls are needed only where another operation may overlap them
        if not overlapped:
            return call()
        start = truth.now()
        result = call()
        calls.extend((start, truth.now()))
        return result

    op = {name: step[name] for name in ("db", "shape", "pipelined") if name in step}
    op.update(kind=step["op"], start=truth.mark())
    truth.ops.append(op)
    cpu = time.thread_time_ns()
    op["n"] = OPERATIONS[step["op"]](step, timed)
    if step["op"] == "cpu":
        op["cpu"] = time.thread_time_ns() - cpu
    if calls:
        op["calls"] = calls
    op["end"] = truth.mark()


def resize(step, size):
    """`size` is the page size a caller asks for: it replaces n of every list-shaped operation."""
    for inner in step.get("steps", ()):
        resize(inner, size)
    if step.get("shape") in ("n_plus_one", "batched"):
        step["n"] = size


class Served:
    """The last answers, for a driver that wants the truth of requests somebody else sent."""

    def __init__(self):
        self.last, self.in_flight, self.arrivals, self.lock = deque(maxlen=4000), 0, 0, threading.Lock()

    def begin(self):
        """The arrivals so far if nobody else is being served, else None."""
        with self.lock:
            self.in_flight += 1
            self.arrivals += 1
            return self.arrivals if self.in_flight == 1 else None

    def end(self):
        with self.lock:
            self.in_flight -= 1

    def remember(self, url, start, answer, ticket):
        self.last.append({"url": url, "start": start, "alone": ticket == self.arrivals, "answer": answer})


SERVED = Served()


def serve_plan(query_string, ticket):
    truth, parameters = Truth(), parse_qs(query_string)
    plan = json.loads(parameters["p"][0])
    if "size" in parameters:
        resize(plan, int(parameters["size"][0]))
    run(plan, truth, False)
    total = truth.mark()
    answer = {"runtime": "python", "pid": os.getpid(), "total": total,
              "ops": truth.ops, "marks": sorted(truth.marks)}
    SERVED.remember("?" + query_string, truth.start, answer, ticket)
    return answer


def serve(path, query_string):
    """Status and body of one request."""
    ticket = SERVED.begin()
    try:
        if path == "/plan":
            status, body = 200, serve_plan(query_string, ticket)
        elif path in ("/nop", "/health"):
            status, body = 200, {"ok": True}
        elif path == "/served":
            status, body = 200, {"pid": os.getpid(), "served": list(SERVED.last)}
        else:
            status, body = 404, {"error": "no such page"}
    except Exception as error:  # the answer says what happened; the service lives on
        print(repr(error), file=sys.stderr)
        status, body = 500, {"error": str(error)}
    finally:
        SERVED.end()
    return status, json.dumps(body, separators=(",", ":")).encode()


def warm():
    """Opens every pooled connection, so that no request pays for one. A missing peer is only reported."""
    FILES.mkdir(parents=True, exist_ok=True)
    list(BRANCHES.map(lambda _: time.sleep(0.05), range(64)))
    peers = {"postgres": POOLS["pg"].warm, "mariadb": POOLS["mysql"].warm, "redis": REDIS.ping,
             "memcached": lambda: MEMCACHED.get("k1"), "supplier": lambda: http_get("/quote?ms=1")}
    for name, open_peer in peers.items():
        try:
            open_peer()
        except Exception as error:
            print("%s is not reachable: %s" % (name, error), file=sys.stderr)


# ------------------------------------------------------------------------------------ servers


def wsgi(environ, start_response):
    status, body = serve(environ["PATH_INFO"], environ.get("QUERY_STRING", ""))
    start_response("%d %s" % (status, http.client.responses[status]),
                   [("content-type", "application/json"), ("content-length", str(len(body)))])
    return [body]


def post_fork(_server, _worker):
    """gunicorn's hook: connections belong to a worker, not to its parent."""
    warm()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1
    disable_nagle_algorithm = True

    def do_GET(self):
        url = urlsplit(self.path)
        WAYS.pieces = False
        status, body = serve(url.path, url.query)
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        if WAYS.pieces:
            self.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 0)
            self.wfile.flush()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


if __name__ == "__main__":
    warm()
    ThreadingHTTPServer((BIND, PORT), Handler).serve_forever()
