"""Options and hooks for tests with browsers, Node and applications: see `support.peers`."""

from pathlib import Path

import pytest
from support.peers import Results

RESULTS = pytest.StashKey[Results]()


def pytest_addoption(parser):
    parser.addoption("--write-peers", metavar="FILE", help="write the table of the programs that were tested")


def pytest_configure(config):
    config.addinivalue_line("markers", "peer(name, version): the program that is tested, see support.peers")
    config.stash[RESULTS] = Results()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    mark = item.get_closest_marker("peer")
    if mark and (call.when == "call" or not report.passed):
        item.config.stash[RESULTS].add(mark, report.outcome)
    return report


def pytest_sessionfinish(session):
    if path := session.config.option.write_peers:
        Path(path).write_text(session.config.stash[RESULTS].text())
