"""Many connections at once."""

import select
import socket
import time

from bench.outcome import Failures, UnexpectedAnswer, check, report


def burst(port, steps, count, patience):
    """So many connections, opened before any is answered. When each had its answers, since the first was opened."""
    failures = Failures()
    times = []
    epoll = select.epoll()
    at = {}
    began = time.monotonic()
    for _ in range(count):
        sock = socket.socket()
        sock.setblocking(False)
        sock.connect_ex(("127.0.0.1", port))
        at[sock.fileno()] = [sock, 0]
        epoll.register(sock.fileno(), select.EPOLLOUT)
    while at and time.monotonic() < began + patience:
        for descriptor, events in epoll.poll(1):
            one = at[descriptor]
            sock, step = one
            try:
                if events & select.EPOLLOUT:
                    epoll.modify(descriptor, select.EPOLLIN)
                else:
                    check(sock.recv(512), steps[step][1])
                    one[1] = step = step + 1
                if step < len(steps):
                    sock.send(steps[step][0])
                    continue
                times.append(time.monotonic() - began)
            except (OSError, UnexpectedAnswer) as error:
                failures.add(error)
            del at[descriptor]
            sock.close()
    for sock, _ in at.values():
        failures.add(TimeoutError("no answer in time"))
        sock.close()
    epoll.close()
    return report(len(times), failures, times, time.monotonic() - began)
