"""
Our client of HTTP CONNECT at real proxies: a page's worth of bytes, and the exception of each failure.

The table of the documentation is held against what is measured. To write it anew:
``WRITE_TABLES=1 make test TESTS=tests/real/test_http_proxies.py``, and the same of ``make test-peers`` with
``tests/peers/test_http_proxies.py`` for its columns.
"""

import pytest
from support.http_proxies import SITUATIONS, TABLE, measure, ours, ports_of, privoxy, tinyproxy
from support.measured_tables import each_of, write
from support.targets import programs

PROXIES = {"tinyproxy": tinyproxy, "privoxy": privoxy, "this package": ours}


@pytest.fixture(scope="module", autouse=True)
def written_table():
    yield
    write([TABLE])


@pytest.fixture(scope="module", params=PROXIES)
def proxy(request, tmp_path_factory):
    with programs() as start:
        folder = tmp_path_factory.mktemp("proxy")
        yield request.param, ports_of(PROXIES[request.param], start, folder, request.param)


@pytest.mark.parametrize("situation", SITUATIONS)
async def test_what_a_proxy_answers(proxy, situation):
    name, ports = proxy
    TABLE.hold(situation, {name: await measure(ports, situation)})


@each_of([TABLE])
def test_the_table_is_what_is_measured(table):
    table.hold_rows()
