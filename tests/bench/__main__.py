"""The command of ``make bench``; ``--help`` says its options."""

import argparse
import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

from bench import report
from bench.cases import CASES, ON_REQUEST, PART, PARTS
from bench.chart import draw
from bench.circumstances import circumstances
from bench.processes import raise_descriptor_limit
from bench.running import PATIENCE, DidNotStart, Machinery
from bench.servers import SERVERS, add_checkout

BUILD = Path("build", "bench")
DOCS = Path(__file__).parents[2] / "docs"
KNOWN = {**CASES, **ON_REQUEST}
SIGNALS = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)
SECONDS = 0.6
"""What each measurement takes."""


def read_options(arguments):
    parser = argparse.ArgumentParser(
        prog="bench",
        description="Measure the server and the client beside others. All are measured once a round, in another order"
        " each time; figures are medians over the rounds, and ratios those of figures of the same round.",
    )
    which = f"{', '.join(CASES)}; by default all of these; or {', '.join(ON_REQUEST)}"
    parser.add_argument("cases", nargs="*", metavar="CASE", help=which)
    parser.add_argument("--rounds", type=int, default=5, help="how many (default: 5)")
    parser.add_argument("--row", action="append", help="only this row of the cases; can be given several times")
    parser.add_argument("--only", action="append", help="only this server or client; can be given several times")
    parser.add_argument("--against", type=Path, metavar="FOLDER", help="measure the server of this checkout too")
    parser.add_argument("--scale", type=float, default=1.0, help="of the time that each measurement takes")
    parser.add_argument(
        "--patience", type=float, default=PATIENCE, help="seconds that a server has to answer the last (default: 3)"
    )
    parser.add_argument("--folder", type=Path, default=BUILD, help=f"for the results (default: {BUILD})")
    parser.add_argument("--write", action="store_true", help="write the results into the documentation too")
    options = parser.parse_args(arguments)
    if options.against:
        add_checkout(options.against.resolve(strict=True))
    if options.write and (options.cases or options.row or options.only):
        parser.error("the documentation has all cases: --write goes with no choice of them")
    for name in options.cases:
        if name not in KNOWN:
            parser.error(f"there is no case {name!r}: {', '.join(KNOWN)}")
    return options


def plan(options):
    """What is to be measured: (case, row, {label: what measures it})."""
    chosen = []
    for case in options.cases or CASES:
        for row, entries in KNOWN[case]().items():
            entries = {label: each for label, each in entries.items() if not options.only or label in options.only}
            if entries and (not options.row or row in options.row):
                chosen.append((case, row, entries))
    return chosen


def measure(options):
    """Measure what is asked for; the samples of each round, by case, row and label."""
    chosen = plan(options)
    samples = {}
    # What one leaves behind, such as connections that wait for their ports to be free, falls to the next: so who is
    # measured after whom changes each time, and is the same in each run.
    order = random.Random(1928)
    with Machinery(options.patience) as machinery:
        for number in range(options.rounds):
            for case, row, entries in chosen:
                began = time.monotonic()
                parts, seconds = PARTS.get(case, 1), SECONDS * options.scale
                taken = {label: [] for label in entries}
                for _ in range(parts):
                    for label in order.sample(list(entries), len(entries)):
                        each = attempt(entries[label], machinery, seconds * PART if parts > 1 else seconds)
                        taken[label].append(each)
                for label, of_parts in taken.items():
                    samples.setdefault(case, {}).setdefault(row, {}).setdefault(label, []).append(joined(of_parts))
                say(f"round {number + 1} of {options.rounds}: {case}, {row}: {time.monotonic() - began:.0f} s")
    return samples


def joined(parts):
    """The sample of a measurement that was made in parts: the mean of each figure that all of them have."""
    if len(parts) == 1:
        return parts[0]
    errors = [part["error"] for part in parts if part["error"]]
    figures = set.intersection(*(set(part) for part in parts)) - {"failed", "error"}
    means = {name: sum(part[name] for part in parts) / len(parts) for name in figures}
    return {**means, "failed": sum(part["failed"] for part in parts), "error": errors[0] if errors else None}


def attempt(function, machinery, seconds):
    """A sample, which says that it failed where a program does not run at all: the others are measured still."""
    try:
        return function(machinery, seconds)
    except (DidNotStart, subprocess.SubprocessError) as error:
        say(str(error))
        return {"failed": 1, "error": "does not run"}


def say(what):
    print(what, file=sys.stderr)


def interrupted(number, _):
    for each in SIGNALS:
        signal.signal(each, signal.SIG_IGN)
    # So that what was started is ended.
    sys.exit(128 + number)


def main(arguments=None):
    options = read_options(arguments)
    for each in SIGNALS:
        signal.signal(each, interrupted)
    raise_descriptor_limit()
    missing = [name for name, server in SERVERS.items() if not server.is_here()]
    if missing:
        say(f"not here, and so not measured: {', '.join(missing)}")
    samples = measure(options)
    results = rounded({**circumstances(options.rounds), "cases": in_order(samples, options)})
    print(report.text(results))
    options.folder.mkdir(parents=True, exist_ok=True)
    write(results, options.folder, options.folder)
    if options.write:
        write(results, DOCS / "_static", DOCS / "measured")


def in_order(samples, options):
    """As the plan has them, whatever the order was in which they were measured."""
    ordered = {}
    for case, row, entries in plan(options):
        ordered.setdefault(case, {})[row] = {label: samples[case][row][label] for label in entries}
    return ordered


def write(results, folder, folder_of_tables):
    """The results, the picture, and the tables."""
    (folder / "speed.json").write_text(json.dumps(results, indent=1) + "\n")
    draw(results, folder / "speed.svg")
    for name, text in report.files(results).items():
        (folder_of_tables / name).write_text(text)


def rounded(value):
    """Without digits that say nothing."""
    if isinstance(value, dict):
        return {key: rounded(each) for key, each in value.items()}
    if isinstance(value, list):
        return [rounded(each) for each in value]
    return float(f"{value:.5g}") if isinstance(value, float) else value


if __name__ == "__main__":
    main()
