"""
What loads the proxies: a process of its own.

It takes commands as lines of JSON, and answers each with one; it ends with its standard input. Its sockets are plain
ones: with an event loop it would cost more than what it measures.
"""

import json
import signal
import socket
import sys
import time
from collections import deque
from contextlib import ExitStack, contextmanager

from bench.bulk import Transfer
from bench.burst import burst
from bench.outcome import Failures, UnexpectedAnswer, check, report

TOO_MANY = 50
"""Failures after which a run is over."""


_INTERNET, _STREAM = int(socket.AF_INET), int(socket.SOCK_STREAM)
"""As numbers, for plain sockets: those that the module makes of enumerations take three times as long."""


class Late(Exception):
    pass


@contextmanager
def patience(seconds):
    """End what waits for longer, with `Late`. Sockets that block need no system call for that."""

    def late(*_):
        raise Late("no answer in time")

    signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def decoded(script):
    return [(bytes.fromhex(sent), bytes.fromhex(answer)) for sent, answer in script]


class Ring:
    """
    Connections that take turns: the oldest is answered next, so that no event loop is needed.

    With one at once its times are those of whole connections.
    """

    def __init__(self, port, steps, patience):
        self.patience = patience
        self.address = ("127.0.0.1", port)
        self.steps = steps
        self.failures = Failures()
        self.opened = self.done = 0
        self.times = []
        self.waiting = deque()

    def run(self, seconds, at_once):
        """Open new ones for so many seconds, and end the last."""
        began = time.monotonic()
        try:
            with patience(seconds + self.patience):
                self._turn(began + seconds, at_once)
        except Late as error:
            self.failures.add(error, self.opened - self.done - self.failures.count)
        took = time.monotonic() - began
        for sock, *_ in self.waiting:
            sock.close()
        return report(self.done, self.failures, self.times, took)

    def _turn(self, deadline, at_once):
        waiting, failures = self.waiting, self.failures
        sent, answers = zip(*self.steps, strict=True)
        last = len(sent)
        while True:
            while len(waiting) < at_once:
                now = time.monotonic()
                if not self._goes_on(now < deadline, at_once):
                    break
                self._open(sent[0], now)
            if not waiting:
                return
            sock, step, opened = waiting.popleft()
            try:
                check(sock.recv(512), answers[step - 1])
                if step == last:
                    sock.close()
                    self.done += 1
                    if at_once == 1:
                        self.times.append(time.monotonic() - opened)
                else:
                    sock.send(sent[step])
                    waiting.append((sock, step + 1, opened))
            except (OSError, UnexpectedAnswer) as error:
                failures.add(error)
                sock.close()
            except Late:
                sock.close()
                raise

    def _goes_on(self, is_time, at_once):
        # However short the time was, some were opened.
        return (is_time or self.opened < at_once) and self.failures.count < TOO_MANY

    def _open(self, first, now):
        sock = socket.SocketType(_INTERNET, _STREAM)
        self.opened += 1
        try:
            sock.connect(self.address)
            sock.send(first)
        except OSError as error:
            self.failures.add(error)
            sock.close()
        else:
            self.waiting.append((sock, 1, now))


class Generator:
    """
    What it can be told to do.

    :param patience: seconds after the time of a run in which all has to be answered; what is not has failed.
    """

    def __init__(self, patience):
        self.patience = patience
        self.held = []

    def connections(self, port, script, seconds, at_once):
        """Connections one after another, so many at once, each with the whole script."""
        return Ring(port, decoded(script), self.patience).run(seconds, at_once)

    def hold(self, port, script, count):
        """Open connections, as far as the script goes, until so many are held."""
        steps = decoded(script)
        error = None
        try:
            with patience(self.patience + count / 500):
                # Some at a time: more would wait in the server's queue, and be refused.
                while len(self.held) < count:
                    self._hold(port, steps, min(50, count - len(self.held)))
        except (OSError, UnexpectedAnswer, Late) as first:
            error = f"{type(first).__name__}: {first}"
        return {"failed": count - len(self.held), "error": error}

    def _hold(self, port, steps, count):
        with ExitStack() as stack:
            some = [stack.enter_context(socket.create_connection(("127.0.0.1", port))) for _ in range(count)]
            for sent, answer in steps:
                for sock in some:
                    sock.send(sent)
                for sock in some if answer else ():
                    check(sock.recv(512), answer)
            stack.pop_all()
        self.held += some

    def release(self):
        """Close what is held."""
        for sock in self.held:
            sock.close()
        self.held = []

    def exchange(self, seconds, size, at_once):
        """
        Messages to an echo and back, on each held stream in turn, so many on the way at once.

        With one at once there are their times, of there and back.
        """
        failures = Failures()
        times = []
        began = time.monotonic()
        try:
            with patience(seconds + self.patience):
                self._exchange(began + seconds, bytes(size), at_once, times)
        except (OSError, UnexpectedAnswer, Late) as error:
            failures.add(error)
        return report(len(times), failures, times, time.monotonic() - began)

    def _exchange(self, deadline, message, at_once, times):
        idle = deque(self.held)
        on_the_way = deque()
        while True:
            while len(on_the_way) < at_once and idle and (time.monotonic() < deadline or not times):
                sock = idle.popleft()
                on_the_way.append((sock, time.monotonic()))
                sock.send(message)
            if not on_the_way:
                return
            sock, sent = on_the_way.popleft()
            received = 0
            while received < len(message):
                answer = sock.recv(len(message))
                check(answer, b"\x00")
                received += len(answer)
            times.append(time.monotonic() - sent)
            idle.append(sock)

    def bulk(self, port, script, streams, direction, seconds):
        """Bytes as fast as they go, on so many streams."""
        opened = self.hold(port, script, streams)
        sockets, self.held = self.held, []
        got = Transfer(sockets, direction, seconds).run(self.patience)
        return {**got, "failed": opened["failed"] + got["failed"], "error": opened["error"] or got["error"]}

    def burst(self, port, script, count):
        """So many connections at once."""
        return burst(port, decoded(script), count, self.patience)


def main():
    generator = Generator(float(sys.argv[1]))
    for line in sys.stdin:
        command = json.loads(line)
        print(json.dumps(getattr(generator, command.pop("do"))(**command)), flush=True)


if __name__ == "__main__":
    main()
