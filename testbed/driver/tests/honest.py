#!/usr/bin/env python3
"""Stands in for the binary in tests of the driver: `investigate` by asking the service itself.

PERFWRIGHT=testbed/driver/tests/honest.py testbed/run truth --seed 1 --plans 6
PERFWRIGHT_LIE=database doubles that line at the cost of `cpu`: the driver must notice.
"""

import json
import os
import sys
from pathlib import Path
from urllib.parse import urlsplit

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from driver.client import Connection  # noqa: E402
from driver.truth import Sample, middle, typical  # noqa: E402


def investigate(arguments):
    path = arguments[arguments.index("--endpoint") + 1].split(" ", 1)[1]
    connection = Connection(urlsplit(arguments[-1]).port)
    samples = []
    for i in range(23):
        wall, body = connection.get(path)
        if i >= 3:
            samples.append(Sample(json.loads(body), wall))
    chosen = middle(samples)
    wall = sum(sample.wall_ns for sample in chosen) / len(chosen) / 1e6
    lines = {line: band.low for line, band in typical(samples).items() if line != "edges"}
    lie = os.environ.get("PERFWRIGHT_LIE")
    if lie:
        lines["cpu"] -= lines[lie]
        lines[lie] *= 2
    lines["receive"] = wall - sum(lines.values())
    rows = [{"line": line, "detail": "", "ms": ms, "low": 0.9 * ms, "high": 1.1 * ms, "share": ms / wall, "calls": 0}
            for line, ms in lines.items()]
    latency = {"mean": wall, "typical": sum(row["ms"] for row in rows), "p50": wall}
    return {"schema": "perfwright/report/1", "run": {"id": "none"}, "findings": [],
            "endpoints": [{"name": path, "requests": 20, "latency_ms": latency, "ledger": rows}]}


if __name__ == "__main__":
    json.dump(investigate(sys.argv), sys.stdout)
