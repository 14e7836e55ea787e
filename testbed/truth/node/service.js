'use strict';
// Truth service, Node: executes the plan in `p` and answers with what it cost, measured inside.
// The plan grammar and the answer are described in ../README.md; the statements in ../statements.json.
const cluster = require('node:cluster');
const fs = require('node:fs/promises');
const http = require('node:http');
const path = require('node:path');
const { randomInt } = require('node:crypto');
const Redis = require('ioredis');
const Memcached = require('memcached');
const mysql = require('mysql2/promise');
const { Pool } = require('pg');

const env = process.env;
const PORT = Number(env.PORT || 25100);
const HOST = '127.0.0.1';
const BIND = env.TESTBED_BIND || HOST;
const SUPPLIER_PORT = Number(env.TESTBED_SUPPLIER_PORT || 25080);
const POOL_SIZE = 10;
const SCAN_ROWS_MAX = 300000;
const FILES = path.join(env.PERFWRIGHT_TESTBED_DIR || '/var/tmp', 'files');
const SQL = require('../statements.json');

// ------------------------------------------------------------------------------------ peers

const pg = new Pool({
  connectionString: env.TESTBED_PG_DSN, max: POOL_SIZE, min: POOL_SIZE, idleTimeoutMillis: 0,
});
pg.on('error', (error) => console.error('postgres:', error.message));
const my = mysql.createPool({ uri: env.TESTBED_MYSQL_DSN, connectionLimit: POOL_SIZE, decimalNumbers: true });
const redis = new Redis(env.TESTBED_REDIS_URL, { maxRetriesPerRequest: 1 });
redis.on('error', (error) => console.error('redis:', error.message));
const memcached = new Memcached(`${HOST}:${env.TESTBED_MEMCACHED_PORT}`, { poolSize: POOL_SIZE });
const agent = new http.Agent({ keepAlive: true, keepAliveMsecs: 60000, maxFreeSockets: 64 });

const placeholders = {
  pg: (sql) => { let n = 0; return sql.replaceAll('{}', () => `$${++n}`); },
  mysql: (sql) => sql.replaceAll('{}', '?'),
};

async function query(db, sql, values) {
  if (db === 'pg') return (await pg.query(placeholders.pg(sql), values)).rows;
  return (await my.execute(placeholders.mysql(sql), values))[0];
}

async function queryAny(db, sql, keys) {
  if (db === 'pg') return query(db, sql, [keys]);
  return query(db, sql.replace('= any({})', `in (${keys.map(() => '{}').join(', ')})`), keys);
}

function memcachedGet(keys) {
  return new Promise((resolve, reject) => {
    const done = (error, value) => (error ? reject(error) : resolve(value));
    if (keys.length === 1) memcached.get(keys[0], done); else memcached.getMulti(keys, done);
  });
}

function httpGet(url) {
  return new Promise((resolve, reject) => {
    http.get({ host: HOST, port: SUPPLIER_PORT, path: url, agent }, (response) => {
      response.resume();
      response.on('end', resolve);
    }).on('error', reject);
  });
}

// ------------------------------------------------------------------------------------ operations
// Each returns how many calls it made. `timed` wraps one call.

const cpuMicros = () => { const { user, system } = process.cpuUsage(); return user + system; };
const keyOf = () => 1 + randomInt(200);

/** Burns CPU time, not wall time: on a busy machine it takes longer and still costs `ms`. */
function burnCpu(ms) {
  const until = cpuMicros() + ms * 1000;
  let hash = 2166136261;
  do {
    for (let i = 0; i < 20000; i++) hash = Math.imul(hash ^ (i & 255), 16777619);
  } while (cpuMicros() < until);
  return hash;
}

async function opCpu(step) {
  const slices = step.slices || 1;
  for (let i = 0; i < slices; i++) {
    if (i > 0) await new Promise(setImmediate);
    burnCpu(step.ms / slices);
  }
  return slices;
}

const shapes = {
  async n_plus_one({ db = 'pg', n, rows = 1 }, timed) {
    const sql = rows > 1 ? SQL.many : SQL.one;
    const first = 1 + randomInt(sql.parents - n);
    const parents = await timed(() => query(db, sql.parent, [first, first + n - 1]));
    for (const parent of parents) {
      const key = rows > 1 ? parent.customer_id : parent.order_id;
      await timed(() => query(db, sql.child, rows > 1 ? [key, rows] : [key]));
    }
    return 1 + parents.length;
  },
  async batched({ db = 'pg', n, rows = 1 }, timed) {
    const sql = rows > 1 ? SQL.many : SQL.one;
    const first = 1 + randomInt(sql.parents - n);
    const parents = await timed(() => query(db, sql.parent, [first, first + n - 1]));
    const keys = parents.map((parent) => (rows > 1 ? parent.customer_id : parent.order_id));
    await timed(() => queryAny(db, sql.batched, keys));
    return 2;
  },
  async repeat({ db = 'pg', n, rows = 1 }, timed) {
    const sql = rows > 1 ? SQL.repeat_many : SQL.repeat;
    const values = rows > 1 ? [1 + randomInt(5000), rows] : [1 + randomInt(5000)];
    for (let i = 0; i < n; i++) await timed(() => query(db, sql, values));
    return n;
  },
  async varied({ db = 'pg', n }, timed) {
    for (let i = 0; i < n; i++) {
      const [sql, keys] = SQL.varied[i % SQL.varied.length];
      await timed(() => query(db, sql, [1 + randomInt(keys)]));
    }
    return n;
  },
  async scan({ db = 'pg', n = 1, ms }, timed) {
    const [sql, rows] = scanFor(db, ms);
    for (let i = 0; i < n; i++) {
      await timed(() => query(db, sql, [rows, randomInt(1e9).toString(16)]));
    }
    return n;
  },
};

/** The cheapest unindexed statement that takes about `ms` on the server, and the rows it must visit. */
function scanFor(db, ms) {
  const rates = (db === 'pg' ? env.TESTBED_SCAN_PG : env.TESTBED_SCAN_MYSQL).split(',').map(Number);
  let form = rates.findIndex((rate) => ms * rate <= SCAN_ROWS_MAX);
  if (form < 0) form = rates.length - 1;
  return [SQL.scan[form], Math.min(SCAN_ROWS_MAX, Math.round(ms * rates[form]))];
}

const opSql = (step, timed) => shapes[step.shape](step, timed);

async function opRedis({ n, pipelined }, timed) {
  if (pipelined) {
    const pipeline = redis.pipeline();
    for (let i = 0; i < n; i++) pipeline.get(`k${keyOf()}`);
    await timed(() => pipeline.exec());
  } else {
    for (let i = 0; i < n; i++) await timed(() => redis.get(`k${keyOf()}`));
  }
  return n;
}

async function opMemcached({ n, pipelined }, timed) {
  if (pipelined) {
    const keys = Array.from({ length: n }, (_, i) => `k${1 + (i % 200)}`);
    await timed(() => memcachedGet(keys));
  } else {
    for (let i = 0; i < n; i++) await timed(() => memcachedGet([`k${keyOf()}`]));
  }
  return n;
}

async function opHttp({ n = 1, ms, path: name = 'quote' }, timed) {
  for (let i = 0; i < n; i++) await timed(() => httpGet(`/${name}?ms=${ms}`));
  return n;
}

async function opSleep({ ms }, timed) {
  await timed(() => new Promise((resolve) => setTimeout(resolve, ms)));
  return 1;
}

let fileNumber = 0;
async function opFsync({ n = 1, bytes = 4096 }, timed) {
  const file = await fs.open(path.join(FILES, `node-${process.pid}-${fileNumber++ % 16}`), 'w');
  const block = Buffer.alloc(bytes, 'x');
  try {
    for (let i = 0; i < n; i++) await timed(async () => { await file.write(block); await file.sync(); });
  } finally {
    await file.close();
  }
  return n;
}

const operations = {
  cpu: opCpu, sql: opSql, redis: opRedis, memcached: opMemcached, http: opHttp, sleep: opSleep, fsync: opFsync,
  pieces: async () => 1, // nothing now: the answer will leave in two pieces, see `answer`
};

// ------------------------------------------------------------------------------------ what was served

/** The last answers, for a driver that wants the truth of requests somebody else sent. */
const SERVED_MAX = 4000;
const served = [];
let inFlight = 0;
let arrivals = 0;

function remember(url, start, body, alone) {
  if (served.length === SERVED_MAX) served.shift();
  served.push({ url, start, alone, answer: body });
}

// ------------------------------------------------------------------------------------ the plan

/** What one request did: its operations, and (time, CPU) at each of their edges. */
class Truth {
  constructor() {
    this.start = process.hrtime.bigint();
    this.cpu = cpuMicros();
    this.ops = [];
    this.marks = [];
    this.mark();
  }
  now() { return Number(process.hrtime.bigint() - this.start); }
  mark() {
    const time = this.now();
    this.marks.push([time, (cpuMicros() - this.cpu) * 1000]);
    return time;
  }
}

async function run(step, truth, overlapped) {
  if (step.op === 'serial') {
    for (const inner of step.steps) await run(inner, truth, overlapped);
    return;
  }
  if (step.op === 'parallel') {
    await Promise.all(step.steps.map((inner) => run(inner, truth, true)));
    return;
  }
  // the single calls are needed only where another operation may overlap them
  const calls = overlapped ? [] : null;
  const timed = calls === null ? (call) => call() : async (call) => {
    const start = truth.now();
    const result = await call();
    calls.push(start, truth.now());
    return result;
  };
  const op = { kind: step.op, db: step.db, shape: step.shape, pipelined: step.pipelined, start: truth.mark() };
  truth.ops.push(op);
  const cpu = cpuMicros();
  op.n = await operations[step.op](step, timed);
  if (step.op === 'cpu' && (step.slices || 1) === 1) op.cpu = (cpuMicros() - cpu) * 1000;
  if (calls !== null && step.op !== 'cpu') op.calls = calls;
  op.end = truth.mark();
}

/** `size` is the page size a caller asks for: it replaces n of every list-shaped operation. */
function resize(step, size) {
  if (step.steps) step.steps.forEach((inner) => resize(inner, size));
  if (step.shape === 'n_plus_one' || step.shape === 'batched') step.n = size;
}

async function servePlan(url, response) {
  const truth = new Truth();
  const alone = inFlight === 1;
  const before = arrivals;
  const plan = JSON.parse(url.searchParams.get('p'));
  if (url.searchParams.has('size')) resize(plan, Number(url.searchParams.get('size')));
  await run(plan, truth, false);
  const total = truth.mark();
  const body = { runtime: 'node', pid: process.pid, total, ops: truth.ops, marks: truth.marks };
  answer(response, 200, body, truth.ops.some((op) => op.kind === 'pieces'));
  remember(url.search, Number(truth.start), body, alone && arrivals === before);
}

function answer(response, status, body, pieces = false) {
  const bytes = JSON.stringify(body);
  response.writeHead(status, { 'content-type': 'application/json', 'content-length': Buffer.byteLength(bytes) });
  if (pieces) {
    response.socket.setNoDelay(false);
    response.flushHeaders();
    setImmediate(() => response.end(bytes)); // in the same turn both would leave in one write
    return;
  }
  response.end(bytes);
}

async function serve(request, response) {
  const url = new URL(request.url, `http://${HOST}`);
  arrivals++;
  inFlight++;
  try {
    if (url.pathname === '/plan') await servePlan(url, response);
    else if (url.pathname === '/nop' || url.pathname === '/health') answer(response, 200, { ok: true });
    else if (url.pathname === '/served') answer(response, 200, { pid: process.pid, served });
    else answer(response, 404, { error: 'no such page' });
  } catch (error) {
    console.error(error);
    answer(response, 500, { error: String(error.message) });
  } finally {
    inFlight--;
  }
}

/** Opens every pooled connection, so that no request pays for one. A missing peer is only reported. */
async function warm() {
  burnCpu(100); // until it is optimised, the compiler's own thread is counted as ours
  await fs.mkdir(FILES, { recursive: true });
  const each = (n, f) => Promise.all(Array.from({ length: n }, f));
  const peers = {
    postgres: () => each(POOL_SIZE, () => pg.query('select pg_sleep(0.05)')),
    mariadb: () => each(POOL_SIZE, () => my.query('select sleep(0.05)')),
    redis: () => redis.ping(),
    memcached: () => each(POOL_SIZE, () => memcachedGet(['k1'])),
    supplier: () => each(POOL_SIZE, () => httpGet('/quote?ms=20')),
  };
  for (const [name, open] of Object.entries(peers)) {
    await open().catch((error) => console.error(`${name} is not reachable: ${error.message}`));
  }
}

async function main() {
  if (Number(env.WORKERS) > 1 && cluster.isPrimary) {
    for (let i = 0; i < Number(env.WORKERS); i++) cluster.fork();
    return;
  }
  await warm();
  http.createServer({ keepAliveTimeout: 60000 }, serve).listen(PORT, BIND);
}

main();
