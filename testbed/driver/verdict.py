"""Compares a report with the truth, cell by cell, and a finding with a planted fault."""

import math
from dataclasses import dataclass

from .truth import EDGE_LINES, Band

TOLERANCE_MS = 1.0
TOLERANCE_SHARE = 0.10
# below this neither side says anything: the cell is not counted
SILENT_MS = 0.05
# a ledger line that is a part of another one for the truth, which cannot tell them apart
SAME_LINE = {"gc": "cpu", "pool": "lock", **{line: "edges" for line in EDGE_LINES}}
SEVERITIES = ("info", "low", "medium", "high", "critical")


@dataclass(frozen=True)
class Cell:
    """One line of one plan in one runtime."""

    line: str
    truth: Band
    reported: float
    low: float
    high: float
    ok: bool
    covered: bool

    @property
    def material(self):
        return max(self.truth.high, self.reported) >= TOLERANCE_MS


def report_lines(endpoint):
    """Milliseconds, low and high per line of the truth, over the details: their errors add in quadrature."""
    sums, below, above = {}, {}, {}
    for row in endpoint["ledger"]:
        line = SAME_LINE.get(row["line"], row["line"])
        sums[line] = sums.get(line, 0.0) + row["ms"]
        below[line] = math.hypot(below.get(line, 0.0), row["ms"] - row["low"])
        above[line] = math.hypot(above.get(line, 0.0), row["high"] - row["ms"])
    return {line: (ms, ms - below[line], ms + above[line]) for line, ms in sums.items()}


# lines that wait while another thread of the runtime may be on a core
WAITING = ("database", "cache", "downstream", "disk", "timer", "runnable")
CORES = 2


def hidden(truth):
    """Go's runtime hands work from thread to thread and spins: two of them on a core at once are twice in the
    process's CPU clock, which is all that the service can read, and once on the wall. So its CPU on the path is
    between what so many cores could have done at once and the sum, which `demand_cell` looks at."""
    overlap = truth["cpu"].low * (1 - 1 / CORES)
    bands = {line: Band(band.low, band.high + overlap) if line in WAITING and band.high else band
             for line, band in truth.items()}
    return {**bands, "cpu": Band(truth["cpu"].low - overlap, truth["cpu"].high)}


def demand_cell(truth, endpoint):
    """CPU of the service a request, by the counters of the kernel, as the report's demand has it: at least what the
    service saw on its path, and at most that on all cores."""
    found = [row["per_request"] for row in endpoint["demand"] if row["resource"] == "cpu:service"]
    ms, band = found[0] if found else 0.0, Band(truth["cpu"].low, CORES * truth["cpu"].high)
    return Cell("cpu demand", band, ms, ms, ms, within(band, ms), within(band, ms))


def cells(truth, endpoint, runtime=None):
    """The cells that say something, in the order of the truth's lines."""
    if runtime == "go":
        return [*cells(hidden(truth), endpoint), demand_cell(truth, endpoint)]
    reported = report_lines(endpoint)
    unattributed = reported.get("unattributed", (0.0, 0.0, 0.0))[0]
    result = []
    for line in [*truth, *(line for line in reported if line not in truth)]:
        band = truth.get(line, Band(0.0, 0.0))
        ms, low, high = reported.get(line, (0.0, 0.0, 0.0))
        if max(band.high, ms) < SILENT_MS and line != "unattributed":
            continue
        ok = within(band, ms)
        if line == "timer" and not ok:
            ok = within(band, ms + unattributed)  # a sleep may be named or left unattributed
        if line == "unattributed" and not ok:
            missing = truth["timer"].high - reported.get("timer", (0.0,))[0]
            ok = missing > 0 and within(band, max(ms - missing, 0.0))
        covered = low <= band.high and high >= band.low
        result.append(Cell(line, band, ms, low, high, ok, covered))
    return result


def within(band, ms):
    return band.distance(ms) <= max(TOLERANCE_MS, TOLERANCE_SHARE * band.high)


def sum_problem(endpoint, quartiles=None):
    """Why the ledger does not add up to the measured latency, or None. What it adds up to lies between the quartiles
    of the latencies, where these are known, and near the median where they are not."""
    total = sum(row["ms"] for row in endpoint["ledger"])
    latency = endpoint["latency_ms"]
    if latency is None:
        return "no latency"
    if abs(total - latency["typical"]) > 0.005:
        return "lines sum to %.3f ms, typical latency is %.3f" % (total, latency["typical"])
    other = endpoint.get("other_kind")
    if other and abs(sum(row["ms"] for row in other["ledger"]) - other["mean_ms"]) > 0.005:
        return "lines of the other kind do not sum to its %.3f ms" % other["mean_ms"]
    # of two equally frequent kinds the median is neither
    kinds = (total, other["mean_ms"]) if other else (total, total)
    low, high = quartiles or (latency["p50"], latency["p50"])
    if not (0.9 * min(kinds) <= high and low <= 1.1 * max(kinds)):
        return "typical latency %.3f ms is far from the middle half, %.3f to %.3f" % (total, low, high)
    return None


def above_info(report):
    """The findings that a healthy service must not get."""
    return [finding for finding in report["findings"] if SEVERITIES.index(finding["severity"]) > 0]


def first_rule(report):
    return report["findings"][0]["rule"] if report["findings"] else None


PREDICTION_SHARE = 0.20
# our client and perfwright's do not see the same wall time: an interpreter is between
CLIENT_MS = 0.15


@dataclass(frozen=True)
class Prediction:
    """A predicted median beside the one measured without the fault, milliseconds."""

    after: float
    low: float
    high: float
    measured: float

    @property
    def ok(self):
        return abs(self.after - self.measured) <= max(PREDICTION_SHARE * self.measured, CLIENT_MS)

    @property
    def covered(self):
        return self.low <= self.measured <= self.high


def prediction(report, rule, measured_ms):
    """The prediction of the rule's first finding, or None."""
    for finding in report["findings"]:
        if finding["rule"] == rule and finding["prediction"]:
            p50 = finding["prediction"]["p50_ms"]
            return Prediction(p50["after"], p50["low"], p50["high"], measured_ms)
    return None
