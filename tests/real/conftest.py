"""Fixtures for tests with real programs."""

import pytest
from support.programs import need
from support.tornet import start_network


@pytest.fixture(scope="session")
def tor_network():
    """A private Tor network for the whole session: see `support.tornet`."""
    need("tor")
    need("tor-gencert", "tor")
    network = start_network()
    yield network
    network.stop()
