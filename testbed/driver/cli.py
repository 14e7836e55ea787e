"""The command line of `testbed/run`."""

import argparse
import signal
import sys

from . import check, compare_apps, compare_rules, compare_truth, crowds, days, environments, one
from .services import PORTS, RUNTIMES, SetupFailed

EXAMPLES = """\
EXAMPLES
  testbed/run check                            the truth services do what a plan says (no perfwright needed)
  testbed/run one                              one N+1 in each runtime, found or not, in a minute
  testbed/run truth --seed 7                   200 plans over three runtimes, ledger against truth
  testbed/run truth --seed 7 --plans 12 --runtimes go --budget 5s
  testbed/run truth --seed 7 --foreign 20      under 20 other requests/s: do the intervals cover the truth?
  testbed/run rules --seed 7                   100 planted faults, 60 healthy requests, predictions
  testbed/run environments --seed 7            without rights, in namespaces, behind TLS: level, answer, manners (root)
  testbed/run environments --seed 7 --only remote,seccomp
  testbed/run crowds --seed 7                  100,000 connections, 20,000 threads, lost packets: time, memory, answer
  testbed/run days --seed 7                    20 replays, 50 kills, 20 interrupts: what is left of them
  testbed/run apps                             Directus and django-oscar: statements against the server's log
  testbed/run apps --applications oscar --ways proxy
  testbed/run --all --seed 7                   all of it
  PERFWRIGHT=path/to/perfwright testbed/run …  another binary than target/release/perfwright

Exit code 0: the bar is met. 1: it is not. 2: something did not start.
"""


def runtimes(text):
    chosen = text.split(",")
    for runtime in chosen:
        if runtime not in PORTS or runtime == "supplier":
            raise argparse.ArgumentTypeError("no runtime called %s; one of %s"
                                             % (runtime, ", ".join(r for r in PORTS if r != "supplier")))
    return chosen


def listed(known):
    """A comma-separated list of known words."""
    def read(text):
        for word in text.split(","):
            if word not in known:
                raise argparse.ArgumentTypeError("no %s; one of %s" % (word, ", ".join(known)))
        return text.split(",")
    return read


def parser():
    top = argparse.ArgumentParser(prog="testbed/run", epilog=EXAMPLES,
                                  formatter_class=argparse.RawDescriptionHelpFormatter)
    top.add_argument("--all", action="store_true",
                     help="check, truth, truth --foreign 20, rules, environments, crowds, days and apps")
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--runtimes", type=runtimes, default=list(RUNTIMES), metavar="LIST",
                        help="default node,python,go; also node-cluster, gunicorn")
    seeded = argparse.ArgumentParser(add_help=False)
    seeded.add_argument("--seed", type=int, required=True, help="the draw is repeatable by it")
    seeded.add_argument("--budget", default="8s", help="of each perfwright run (default 8s)")
    seeded.add_argument("--requests", type=int, default=30, help="solo requests for each truth (default 30)")
    commands = top.add_subparsers(dest="command")
    commands.add_parser("check", parents=[common])
    truth = commands.add_parser("truth", parents=[common, seeded])
    truth.add_argument("--plans", type=int, default=200)
    truth.add_argument("--foreign", type=float, default=0, metavar="PER_SECOND",
                       help="other people's requests to the same service; judges coverage of the intervals")
    truth.add_argument("--recorded", metavar="DIR", help="judge an earlier comparison again, start nothing")
    rules = commands.add_parser("rules", parents=[common, seeded])
    rules.add_argument("--cases", type=int, default=100)
    rules.add_argument("--healthy", type=int, default=60)
    places = commands.add_parser("environments")
    places.add_argument("--seed", type=int, required=True, help="the draw of faults is repeatable by it")
    places.add_argument("--budget", default="10s", help="of each perfwright run (default 10s)")
    places.add_argument("--cases", type=int, default=2, help="faults in each environment (default 2)")
    places.add_argument("--only", type=lambda text: text.split(","), metavar="LIST",
                        help=", ".join(one.name for one in environments.ENVIRONMENTS))
    many = commands.add_parser("crowds")
    many.add_argument("--seed", type=int, required=True, help="sizes of requests and fates of packets are repeatable by it")
    many.add_argument("--budget", default="12s", help="of each perfwright run (default 12s)")
    many.add_argument("--connections", type=int, default=100000)
    many.add_argument("--threads", type=int, default=20000)
    many.add_argument("--children", type=int, default=5000)
    many.add_argument("--percent", type=float, default=2, help="packets lost each way (default 2)")
    many.add_argument("--only", type=listed([one.name for one in crowds.CASES]), metavar="LIST",
                      help=", ".join(one.name for one in crowds.CASES))
    single = commands.add_parser("one", parents=[common])
    single.add_argument("--budget", default="12s", help="of each perfwright run (default 12s)")
    bad = commands.add_parser("days", parents=[common, seeded])
    bad.add_argument("--replays", type=int, default=20)
    bad.add_argument("--kills", type=int, default=50)
    bad.add_argument("--interrupts", type=int, default=20)
    apps = commands.add_parser("apps")
    apps.add_argument("--applications", type=listed(compare_apps.PORTS), default=list(compare_apps.PORTS), metavar="LIST")
    apps.add_argument("--ways", type=listed(("capture", "proxy")), default=["capture", "proxy"], metavar="LIST")
    apps.add_argument("--endpoints", type=int, help="only the first N of each application")
    apps.add_argument("--budget", default="15s", help="of each perfwright run (default 15s)")
    top.add_argument("--seed", type=int, help="with --all")
    return top


COMMANDS = {"check": check.run, "truth": compare_truth.run, "rules": compare_rules.run,
            "environments": environments.run, "crowds": crowds.run, "days": days.run, "one": one.run,
            "apps": compare_apps.run}


def main(arguments):
    top = parser()
    options = top.parse_args(arguments)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # what was started is stopped then too
    try:
        if options.all:
            return run_all(top, options)
        if options.command is None:
            top.print_help(sys.stderr)
            return 2
        return COMMANDS[options.command](options)
    except SetupFailed as failure:
        print("testbed: %s" % failure, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


def run_all(top, options):
    """Everything, to the end; the worst exit code."""
    if options.seed is None:
        top.error("--all needs --seed")
    seed = ["--seed", str(options.seed)]
    worst = 0
    for arguments in (["check"], ["truth", *seed], ["truth", *seed, "--foreign", "20"], ["rules", *seed],
                      ["environments", *seed], ["crowds", *seed], ["days", *seed], ["apps"]):
        print("\n## testbed/run %s\n" % " ".join(arguments), flush=True)
        worst = max(worst, COMMANDS[arguments[0]](top.parse_args(arguments)))
    return worst
