"""Fixtures for tests with real programs."""

import pytest
from support.programs import need
from support.targets import web_server
from support.tornet import start_network


@pytest.fixture(scope="session")
def tor_network():
    """A private Tor network for the whole session: see `support.tornet`."""
    need("tor")
    need("tor-gencert", "tor")
    network = start_network()
    yield network
    network.stop()


@pytest.fixture(scope="module")
def web_port():
    """The port of a web server: see `support.targets`."""
    with web_server() as port:
        yield port
