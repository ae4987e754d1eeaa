"""
The visitors of a soak: a process of its own, with the target that they want to reach.

It takes commands as lines of JSON, and answers each with one; it ends with its standard input. What a visitor does
depends on its number, so one that failed can be sent again.
"""

import asyncio
import json
import socket
import sys
import time
from collections import Counter, deque
from random import Random

from examples.raw_peers import request

from bench.outcome import Failures, UnexpectedAnswer
from bench.sayings import INVALID, METHODS, SUCCEEDED, all_refused
from bench.visited import HEAD, LONGEST, RESET, Connection, Target, content

PATIENCE = 60.0
"""Seconds that one visitor may take."""


class Visitor:
    """
    One connection.

    :ivar end: what the log has to say of it: the relay, the code and the end; ``None`` where that is a matter of time.
    :ivar up: bytes sent to the target, if the stream was closed in order.
    :ivar down: bytes that came from it.
    """

    def __init__(self, number, proxy_port, target):
        self.number = number
        self.random = random = Random(number)
        self.end = None
        self.up = self.down = 0
        self._proxy_port = proxy_port
        self._target = target
        self._said = random.choice(METHODS)
        self._host = "localhost" if random.random() < 0.15 else "127.0.0.1"

    async def visit(self, act, *arguments):
        """
        Come, do this, and go.

        :param act: a method of this class.
        """
        self._connection = await Connection.to(self._proxy_port)
        try:
            await act(self, *arguments)
        finally:
            self._connection.close()

    # What each of them is made of.

    def _handshake(self):
        return (*self._said, (request(self._host, self._target.port), SUCCEEDED))

    async def _say(self, said, slowly=False):
        send = self._connection.send_slowly if slowly else self._connection.send
        for message, answer in said:
            await send(message)
            await self._hear(answer)

    async def _hear(self, answer):
        self._expect(await self._connection.read(len(answer)), answer)

    async def _open(self, slowly=False):
        """A stream to the target."""
        await self._say(self._handshake(), slowly)
        await self._hear_address()

    async def _hear_address(self):
        """The rest of a reply."""
        (kind,) = await self._connection.read(1)
        await self._connection.read({1: 6, 4: 18}[kind])

    def _expect(self, came, expected):
        if came == RESET or expected == RESET:
            if came != expected:
                raise UnexpectedAnswer(f"the target's connection ended in the wrong way: {came[:5]!r}")
        elif came != expected:
            at = next((i for i, (a, b) in enumerate(zip(came, expected, strict=False)) if a != b), "the end")
            raise UnexpectedAnswer(
                f"{len(came)} bytes instead of {len(expected)}, wrong from {at} on: {came[:8].hex()}"
            )

    def _size(self):
        kind = self.random.random()
        return self.random.randrange(1, 2000 if kind < 0.9 else 65536 if kind < 0.995 else LONGEST)

    def _content(self, size=None):
        return content(self.number, self._size() if size is None else size)

    def _head(self, order, size=0):
        return HEAD.pack(order, self.number, size)

    async def _ended(self, came):
        """Wait for the end of the target's connection, on which just this came."""
        self._expect(await self._target.end_of(self.number), came)

    def _done(self, up, down):
        self.end, self.up, self.down = "epoll 00 done", up, down

    async def _is_reset(self):
        """Wait for a reset."""
        try:
            came = await self._connection.read(1)
        except ConnectionResetError:
            return
        raise UnexpectedAnswer(f"{came!r} instead of a reset")

    # What visitors do.

    async def exchange(self, slowly=False):
        """Send something, and read it from the echo at the same time."""
        await self._open(slowly)
        await self._echo(slowly)

    async def _echo(self, slowly=False):
        data = self._content(self.random.randrange(1, 200) if slowly else None)
        head = self._head(b"e")
        send = self._connection.send_slowly if slowly else self._connection.send
        _, came = await asyncio.gather(send(head + data), self._connection.read(len(data)))
        self._expect(came, data)
        self._connection.close()
        await self._ended(data)
        self._done(len(head) + len(data), len(data))

    async def talk(self):
        """Send and read in turn."""
        await self._open()
        data = self._content(3000)
        head = self._head(b"e")
        await self._connection.send(head)
        for at in range(0, 3000, 1000):
            part = data[at : at + 1000]
            await self._connection.send(part)
            await self._hear(part)
        self._connection.close()
        await self._ended(data)
        self._done(len(head) + 3000, 3000)

    async def dribble(self):
        await self.exchange(slowly=True)

    async def say_all_at_once(self):
        """Do not wait for answers, but send the content with the request."""
        handshake = self._handshake()
        data = self._content()
        head = self._head(b"e")

        async def hear():
            for _, answer in handshake:
                await self._hear(answer)
            await self._hear_address()
            await self._hear(data)

        await asyncio.gather(self._connection.send(b"".join(sent for sent, _ in handshake) + head + data), hear())
        self._connection.close()
        await self._ended(data)
        self._done(len(head) + len(data), len(data))

    async def end_output_first(self):
        """Close the sending side, and read what is still on its way."""
        await self._open()
        data = self._content()
        head = self._head(b"e")

        async def send():
            await self._connection.send(head + data)
            self._connection.end_output()

        _, came = await asyncio.gather(send(), self._connection.read_to_end())
        self._expect(came, data)
        await self._ended(data)
        self._done(len(head) + len(data), len(data))

    async def be_late(self):
        """Read late what the target sends; answer when that has ended."""
        await self._open()
        size, answer = self.random.randrange(LONGEST), self._content()
        head = self._head(b"g", size)
        await self._connection.send(head)
        await asyncio.sleep(0.05)
        self._expect(await self._connection.read_to_end(), content(self.number, size))
        await self._connection.send(answer)
        self._connection.close()
        await self._ended(answer)
        self._done(len(head) + len(answer), size)

    async def abort(self):
        """Reset the connection after an exchange."""
        await self._open()
        data = self._content(1000)
        await self._connection.send(self._head(b"e") + data)
        await self._hear(data)
        self._connection.reset()
        await self._ended(RESET)
        self.end = "epoll 00 client aborted"

    async def abort_in_a_flood(self):
        """Go while much is on its way: by a reset, by closing, or by a reset after the end of output."""
        await self._open()
        await self._connection.send(self._head(b"p"))
        await self._connection.read(self.random.randrange(1, 300_000))
        way = self.random.randrange(3)
        if way == 0:
            self._connection.end_output()
            await self._connection.read_some()
        if way == 1:
            self._connection.close()
        else:
            self._connection.reset()
        await self._ended(RESET)
        self.end = "epoll 00 client aborted"

    async def be_dropped(self):
        """The target resets its connection."""
        await self._open()
        data = self._content(1000)
        await self._connection.send(self._head(b"d", len(data)) + data)
        await self._hear(data)
        await self._connection.send(b".")
        await self._is_reset()
        await self._ended(data)
        self.end = "epoll 00 target aborted"

    async def leave_early(self):
        """Go in the middle of the handshake, without a look at the answers."""
        whole = b"".join(sent for sent, _ in self._handshake())
        await self._connection.send(whole[: self.random.randrange(len(whole))])
        if self.random.random() < 0.5:
            await asyncio.sleep(self.random.random() / 100)
        self._leave()
        self.end = "- - the client left"

    async def leave_while_it_connects(self):
        """Go as soon as the request is sent."""
        await self._connection.send(b"".join(sent for sent, _ in self._handshake()))
        self._leave()

    def _leave(self):
        if self.random.random() < 0.5:
            self._connection.reset()

    async def be_refused(self, refusal):
        """Ask for what cannot be had, and read the answer to its end."""
        await self._say(refusal.said)
        rest = await self._connection.read_to_end()
        # What says more than the code: a pair that names the fault, an address that was found, the headers of HTTP.
        answer = refusal.said[-1][1]
        if len(rest) > (500 if answer.startswith(b"HTTP/") else 250 if answer in (INVALID, SUCCEEDED) else 0):
            raise UnexpectedAnswer(f"{len(rest)} bytes after the answer to {refusal.end}")
        self.end = f"- {refusal.end}"


TROUBLES = (
    Visitor.talk,
    Visitor.dribble,
    Visitor.say_all_at_once,
    Visitor.end_output_first,
    Visitor.be_late,
    Visitor.abort,
    Visitor.abort_in_a_flood,
    Visitor.be_dropped,
    Visitor.leave_early,
    Visitor.leave_while_it_connects,
)


class FailedVisit(Exception):
    """Which visitor failed, and how."""


class Crowd:
    """Sends visitors."""

    def __init__(self):
        self._loop = asyncio.new_event_loop()
        self._target = Target()
        # Bound, and not listening: so nobody else can have that port.
        self._closed = socket.socket()
        self._closed.bind(("127.0.0.1", 0))
        self._refusals = all_refused(self._target.port, self._closed.getsockname()[1])

    def send(self, port, first, count, at_once, every):
        """
        Send visitors to a proxy.

        :param first: the number of the first.
        :param every: in so many there is one that does not simply come, exchange and go; half of those are refused.
        :returns: how many failed, and why the first did; how many there were of each end that the log has to tell, and
            of ends that are a matter of time; and the bytes of streams that were closed in order.
        """
        return self._loop.run_until_complete(self._send(port, deque(range(first, first + count)), at_once, every))

    async def _send(self, port, waiting, at_once, every):
        began = time.monotonic()
        failures, ends, total = Failures(), Counter(), Counter()

        async def one_after_another():
            while waiting:
                number = waiting.popleft()
                visitor = Visitor(number, port, self._target)
                act = self._act(number, every)
                try:
                    await asyncio.wait_for(visitor.visit(*act), PATIENCE)
                except Exception as error:  # of whatever kind: one more that failed
                    failures.add(FailedVisit(f"{number}, {act[0].__name__}: {type(error).__name__} {error}"))
                else:
                    ends[visitor.end or "?"] += 1
                    total.update(up=visitor.up, down=visitor.down)

        serving = self._loop.create_task(self._target.serve())
        await asyncio.gather(*(one_after_another() for _ in range(at_once)))
        serving.cancel()
        await asyncio.gather(serving, return_exceptions=True)
        return {"seconds": time.monotonic() - began, "ends": ends, **total, **failures.report()}

    def _act(self, number, every):
        """What a visitor does: each kind in its turn."""
        turn, is_ordinary = divmod(number, every)
        if is_ordinary:
            return (Visitor.exchange,)
        turn, is_refused = divmod(turn, 2)
        if is_refused:
            return Visitor.be_refused, self._refusals[turn % len(self._refusals)]
        return (TROUBLES[turn % len(TROUBLES)],)


def main():
    crowd = Crowd()
    for line in sys.stdin:
        command = json.loads(line)
        print(json.dumps(getattr(crowd, command.pop("do"))(**command)), flush=True)


if __name__ == "__main__":
    main()
