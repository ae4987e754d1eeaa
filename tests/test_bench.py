"""The bench: it works, leaves nothing behind, and its numbers are honest. Nothing here depends on speed."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from bench import cases, processes, report, summary
from bench.__main__ import joined, measure, read_options
from bench.generator import Generator
from bench.running import Machinery
from bench.servers import DIRECT, OURS, PLAIN, SERVERS, Server, python_server
from bench.target import KINDS
from bench.workers import environment
from support.programs import need
from support.targets import Target

ROOT = Path(__file__).parent.parent
MEASURED = ROOT / "docs" / "measured"


CASES = ("connections", "bulk", "client")
ROWS = ("no authentication", f"{OURS}, by method", "4 up", "1 down", "1 both", "through microsocks")
LABELS = (OURS, PLAIN, DIRECT, "microsocks", "no authentication", "0x97, 4 pairs")


def bench(*arguments):
    """The command line."""
    return [sys.executable, "-m", "bench", *arguments]


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """Those of a run that is too short to say anything: its folder, its results and what it printed."""
    need("microsocks")
    folder = tmp_path_factory.mktemp("bench")
    chosen = [*(f"--only={label}" for label in LABELS), *(f"--row={row}" for row in ROWS)]
    done = subprocess.run(
        bench(*CASES, "--rounds=2", "--scale=0.1", "--patience=60", f"--folder={folder}", *chosen),
        env=environment(),
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return folder, json.loads((folder / "speed.json").read_text()), done.stdout


def test_nothing_failed_and_everything_was_counted(results):
    _, measured, _ = results
    by_label = {(*where, label): samples for where, row in rows_of(measured) for label, samples in row.items()}
    assert {case for case, *_ in by_label} == set(CASES)
    assert {row for _, row, _ in by_label} == set(ROWS)
    for where, samples in by_label.items():
        assert [(each["failed"], each["error"]) for each in samples] == [(0, None)] * 2, where
        for sample in samples:
            # Where there is no proxy it uses nothing.
            expected = {key for key in figures(sample) if where[-1] != DIRECT or not key.startswith("cpu")}
            assert {key for key in figures(sample) if sample[key] > 0} == expected, where


def rows_of(measured):
    return [((case, row), by_label) for case, rows in measured["cases"].items() for row, by_label in rows.items()]


def test_the_tables_and_the_picture_are_of_the_results(results):
    folder, measured, printed = results
    for name, text in report.files(measured).items():
        assert (folder / name).read_text() == text
    assert "falls short" in printed or "met" in printed
    picture = (folder / "speed.svg").read_text()
    row = measured["cases"]["connections"]["no authentication"]
    assert f">{OURS}<" in picture
    assert f">{report.number(summary.spread(row['microsocks'], 'cpu_us').median)}<" in picture


def test_what_the_documentation_shows_was_measured():
    measured = json.loads((ROOT / "docs" / "_static" / "speed.json").read_text())
    written = {path.name: path.read_text() for path in MEASURED.glob("speed-*.txt")}
    assert written == report.files(measured)
    assert measured["rounds"] >= 5


def test_an_interrupted_run_leaves_nothing_behind(tmp_path):
    need("microsocks")
    run = subprocess.Popen(
        bench("connections", "--row=no authentication", "--rounds=500", f"--only={OURS}", "--only=microsocks"),
        env={**environment(), "TMPDIR": str(tmp_path)},
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        text=True,
    )
    with run:
        # The first round is over, so everything has been started.
        line = next((line for line in run.stderr if line.startswith("round")), "")
        started = children(run.pid)
        run.send_signal(signal.SIGTERM)
        run.communicate(timeout=30)
    assert "round 1 of 500" in line
    assert len(started) >= 5
    assert run.returncode == 128 + signal.SIGTERM
    assert [each for each in started if is_alive(each)] == []
    assert list(tmp_path.iterdir()) == []


def children(process):
    return [int(each) for each in Path(f"/proc/{process}/task/{process}/children").read_text().split()]


def is_alive(process):
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_the_cases_with_many_connections(monkeypatch):
    """With few: they are the same."""
    need("microsocks")
    for name, few in (("TUNNELS", (2, 30)), ("EXCHANGES", (1, 2, 30)), ("SLOW", 20), ("BURST", 20)):
        monkeypatch.setattr(cases, name, few)
    with Machinery(patience=20) as machinery:
        measured = {
            each: each(machinery, 0.1, "microsocks")
            for each in (cases.tunnels, cases.latency, cases.latency_of_bytes, cases.burst, cases.slow)
        }
    assert [(each["failed"], each["error"]) for each in measured.values()] == [(0, None)] * 5
    messages = {f"{key}_{count}" for key in ("messages", "message_us") for count in (1, 2, 30)}
    tunnels = measured.pop(cases.tunnels)
    assert {"tunnel_kb_2", "tunnel_kb_30", *messages} == figures(tunnels)
    assert all(tunnels[each] > 0 for each in messages)
    slow = measured.pop(cases.slow)
    assert figures(slow) == {"per_second", "kept"}
    assert slow["kept"] > 0
    for each in measured.values():
        assert 0 < each["p50_ms"] <= each["p99_ms"]


def figures(sample):
    return sample.keys() - {"failed", "error"}


def test_a_server_that_does_not_start_has_failed(tmp_path, monkeypatch, capsys):
    broken = Server(python_server("-c", "raise SystemExit('no good')"))
    monkeypatch.setitem(SERVERS, "broken", broken)
    arguments = ["connections", "--row=no authentication", "--rounds=2", "--only=broken", f"--folder={tmp_path}"]
    results = measure(read_options(arguments))
    assert results["connections"]["no authentication"]["broken"] == [{"failed": 4, "error": "does not run"}] * 2
    assert "no good" in capsys.readouterr().err


def test_the_parts_of_a_measurement_are_one_sample():
    good = {"per_second": 100.0, "cpu_us": 10.0, "failed": 0, "error": None}
    bad = {"failed": 2, "error": "closed"}
    assert joined([good]) is good
    assert joined([good, {**good, "per_second": 300.0}]) == {**good, "per_second": 200.0}
    assert joined([good, bad]) == {"failed": 2, "error": "closed"}
    assert joined([{**good, "failed": 1, "error": "late"}, good, {**good, "failed": 1, "error": "closed"}]) == {
        "per_second": pytest.approx(100),
        "cpu_us": pytest.approx(10),
        "failed": 2,
        "error": "late",
    }


# What is counted.


def server_that(answers):
    """A server that sends one of these whenever something comes, and closes after the last."""

    def serve(sock):
        for each in answers:
            if not sock.recv(512):
                break
            sock.sendall(each)

    return Target(serve)


SCRIPT = [("050100", "0500"), ("0501", "0500"), ("78", "78")]


@pytest.mark.parametrize(
    ("answers", "error"),
    [
        ([b"\x05\xff"], "05ff instead of 0500"),
        ([b"\x05\x00", b"\x05\x05\x00"], "050500 instead of 0500"),
        ([b"\x05\x00", b"\x05\x00", b"y"], "79 instead of 78"),
        ([b"\x05\x00"], "closed"),
    ],
)
def test_what_is_not_answered_well_has_failed(answers, error):
    generator = Generator(patience=20)
    with server_that(answers) as target:
        for got in (
            generator.connections(target.port, SCRIPT, 0.05, 2),
            generator.burst(target.port, SCRIPT, 3),
        ):
            assert got["done"] == 0
            assert got["failed"] >= 2
            assert error in got["error"] or "ConnectionReset" in got["error"] or "BrokenPipe" in got["error"]


def test_what_is_never_answered_has_failed():
    generator = Generator(patience=0.2)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        assert generator.connections(port, SCRIPT, 0.05, 4)["failed"] == 4
        assert generator.burst(port, SCRIPT, 4)["failed"] == 4
        assert generator.hold(port, SCRIPT, 4)["failed"] == 4


def test_a_stream_that_ends_too_soon_has_failed():
    with server_that([b"\x05\x00", b"\x05\x00"]) as target:
        got = Generator(patience=20).bulk(target.port, SCRIPT[:2], 2, "up", 0.3)
    assert got["failed"] == 2


def test_bytes_are_counted_where_they_arrive():
    with Machinery(patience=20) as machinery:
        for direction, kind in (("up", "sink"), ("down", "source"), ("both", "both")):
            machinery.target.call("begin", seconds=0.1)
            got = machinery.generator.call(
                "bulk", port=machinery.targets[kind], script=[], streams=3, direction=direction, seconds=0.1
            )
            counted = machinery.target.call("counted", patience=20)
            assert (got["failed"], counted["failed"]) == (0, 0)
            # One byte of each stream says that it begins.
            assert (got["bytes"] > 3, counted["bytes"] > 3) == (direction != "up", direction != "down")
        assert set(machinery.targets) == set(KINDS)


def test_the_cpu_time_of_children_counts_too():
    burn = "import time\nwhile time.process_time() < 0.3: pass"
    code = (
        f"import subprocess, sys, threading\nsubprocess.run([sys.executable, '-c', {burn!r}])\n"
        f"other = subprocess.Popen([sys.executable, '-c', {burn + chr(10) + 'input()'!r}], stdin=subprocess.PIPE)\n"
        f"thread = threading.Thread(target=lambda: exec({burn.replace('process_time', 'thread_time')!r}))\n"
        "thread.start()\nthread.join()\nprint()\ninput()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
    )
    with process:
        process.stdout.readline()
        deadline = time.monotonic() + 30
        while processes.cpu_seconds(process.pid) < 0.9 and time.monotonic() < deadline:
            time.sleep(0.02)
        used, held = processes.cpu_seconds(process.pid), processes.memory_bytes(process.pid)
        os.killpg(process.pid, signal.SIGKILL)
    assert 0.9 <= used < 3
    assert held > 2_000_000


# What is made of it.


def samples(key, *values):
    return [{key: value, "failed": 0, "error": None} for value in values]


def test_a_ratio_is_of_the_same_round():
    ours, theirs = samples("cpu_us", 10, 20, 40), samples("cpu_us", 20, 20, 20)
    assert summary.ratio(ours, theirs, "cpu_us") == summary.Spread(1.0, 0.5, 2.0)
    assert summary.spread(ours, "cpu_us") == summary.Spread(20, 10, 40)


def results_with(**by_label):
    row = {label.replace("_", " "): samples("cpu_us", *values) for label, values in by_label.items()}
    return {"connections": {"no authentication": row}}


@pytest.mark.parametrize(
    ("ours", "against", "verdict"),
    [([100, 110, 90], [100, 100, 100], "met"), ([100, 130, 120], [100, 100, 100], "falls short")],
)
def test_a_goal_is_met_by_the_median(ours, against, verdict):
    measured = results_with(socks5ext=ours, microsocks=against)
    assert verdict in goals_table(measured)
    measured["connections"]["no authentication"][OURS][1].update(failed=3, error="closed")
    assert "3 failed: closed" in goals_table(measured)


def test_a_goal_without_its_peer_is_not_told():
    assert goals_table(results_with(socks5ext=[100], microsocks=[100])).count("met") == 1


def goals_table(measured):
    (table,) = report.TABLES["goals"]({"cases": measured})
    return table.text()


def test_the_best_python_peer_is_chosen_by_the_figure():
    peers = {"pproxy, uvloop": samples("cpu_us", 3, 3), "asyncio-socks-server": samples("cpu_us", 2, 2)}
    row = {OURS: samples("cpu_us", 1, 1), "microsocks": samples("cpu_us", 1, 1), **peers}
    assert summary.best(row, "cpu_us") == "asyncio-socks-server"
    assert summary.best(row, "cpu_us", most=True) == "pproxy, uvloop"


def test_the_makefile_installs_what_the_bench_runs():
    makefile = (ROOT / "Makefile").read_text()
    (listed,) = re.findall(r"^bench: PROGRAMS = (.*)$", makefile, re.M)
    programs = {each.partition(":")[0] for each in listed.split()}
    assert programs == {each.program for each in SERVERS.values() if each.program}
