"""Load on a server in another process: streams that carry data for the whole test, and clients that come and go."""

import os
import threading
import time

from support.targets import read_exactly
from support.workers import opened


class Load:
    """Clients that connect, echo something, and connect again. Notes when each began, and how it ended."""

    def __init__(self, port, target_port, clients=8):
        self._address = port, target_port
        self._is_over = threading.Event()
        self._threads = [threading.Thread(target=self._connect_again) for _ in range(clients)]
        self.ends = []

    def __enter__(self):
        for each in self._threads:
            each.start()
        return self

    def __exit__(self, *_):
        self._is_over.set()
        for each in self._threads:
            each.join()

    def _connect_again(self):
        port, target_port = self._address
        while not self._is_over.is_set():
            began = time.monotonic()
            try:
                with opened(port, target_port) as client:
                    client.sendall(b"question")
                    assert read_exactly(client, 8) == b"question"
                end = "served"
            except (OSError, AssertionError) as error:
                end = repr(error)
            self.ends.append((began, end))

    def served_since(self, moment):
        return sum(began > moment and end == "served" for began, end in self.ends)


class Transfer(threading.Thread):
    """Sends through a stream for as long as the test wants, and looks at all that comes back."""

    def __init__(self, client):
        super().__init__()
        self._client = client
        self._is_over = threading.Event()
        self.rounds = 0
        self.error = None

    def run(self):
        try:
            while not self._is_over.is_set():
                content = os.urandom(20_000)
                self._client.sendall(content)
                assert read_exactly(self._client, len(content)) == content
                self.rounds += 1
        except (OSError, AssertionError) as error:
            self.error = error

    def end(self):
        self._is_over.set()
        self.join()
