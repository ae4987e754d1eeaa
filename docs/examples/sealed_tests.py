"""
Test a transport without tor, sockets or waiting.

python -m unittest sealed_tests.py
"""

import tempfile
import unittest
from pathlib import Path

from twisted.internet.task import Clock

from sealed import Sealed
from txsocksx_ext.errors import MissingArgument, TransportProtocolFailure
from txsocksx_ext.testing import connect_transports

KEY = {"key": "5f" * 32}


class SealedTests(unittest.TestCase):
    """Both sides, connected as tor connects them."""

    def connect(self, arguments=KEY, **more):
        return connect_transports(Sealed, Sealed, arguments=arguments, options=KEY, clock=Clock(), **more)

    def test_it_carries_bytes_both_ways(self):
        # Deliver the bytes one by one.
        pair = self.connect(most_at_once=1)
        assert pair.code == 0
        pair.client.write(b"to the bridge")
        assert pair.bridge.received == b"to the bridge"
        pair.bridge.write(b"and back" * 10_000)
        assert pair.client.received == b"and back" * 10_000

    def test_it_carries_the_end(self):
        pair = self.connect()
        pair.client.end()
        assert pair.bridge.read_ended
        pair.bridge.write(b"the last words")
        assert pair.client.received == b"the last words"

    def test_another_key_is_refused(self):
        pair = self.connect({"key": "00" * 32})
        assert isinstance(pair.failure, TransportProtocolFailure)
        assert pair.code == 0xF1
        assert pair.bridge.transport is None

    def test_it_asks_for_its_key(self):
        assert isinstance(self.connect({}).failure, MissingArgument)

    def test_a_bridge_makes_a_key_and_publishes_it(self):
        with tempfile.TemporaryDirectory() as folder:
            pair = connect_transports(Sealed, Sealed, state=Path(folder), clock=Clock())
        assert pair.code == 0
