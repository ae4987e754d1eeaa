"""Two transports as one stream, in a real server process: half-close, abort, back-pressure, many at once."""

import hashlib
import queue
import random
import resource
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from itertools import pairwise, product

import pytest
from examples.raw_peers import GREET_ANONYMOUS, descriptors_at_rest, dial, request, settles
from support.programs import descriptors_of, twistd
from support.reactors import BEFORE_TWISTD
from support.relays import RELAYS, WITHOUT_FAST_RELAY
from support.targets import (
    CONTENT,
    MEGABYTE,
    Target,
    answer_the_end,
    content,
    digest,
    echo,
    end_first,
    programs,
    read_exactly,
    read_to_end,
    reset,
    reset_after_some,
    until_it_ends,
)
from support.workers import all_serve

OPTIONS = {"one process": (), "two workers": ("--workers=2",)}
# Workers make their factories themselves: they cannot be told from here to use the slow relay.
SERVERS = [*product(RELAYS, ["one process"]), ("epoll", "two workers")]


@pytest.fixture(scope="module", params=SERVERS, ids=", ".join)
def server(request):
    """A ``twistd socks5ext`` with one of the relays, on the kind of reactor on which the tests run."""
    relay, options = request.param
    before = [BEFORE_TWISTD] + [WITHOUT_FAST_RELAY] * (relay == "producers")
    with programs() as program:
        started = twistd(program, *OPTIONS[options], before="\n".join(before))
        if options == "two workers":
            started.serving = all_serve(started)
        # What the first stream needs stays: the tests count descriptors.
        with Target(echo) as far:
            for _ in range(10):
                dial(started.port, "127.0.0.1", far.port).close()
        assert settles(lambda: f"relay={relay} " in started.output), started.output
        yield started


def test_sixty_half_closes_of_the_client(server):
    before = descriptors_at_rest(server)
    with Target(answer_the_end) as far:
        for number in range(60):
            with dial(server.port, "127.0.0.1", far.port) as client:
                sent = content(number)
                client.sendall(sent)
                client.shutdown(socket.SHUT_WR)
                assert read_to_end(client) == digest(sent)
            assert far.next_result() == sent
    assert settles(lambda: server.descriptors() == before)


def test_sixty_half_closes_of_the_target(server):
    before = descriptors_at_rest(server)
    with Target(end_first) as far:
        for number in range(60):
            with dial(server.port, "127.0.0.1", far.port) as client:
                assert read_to_end(client) == CONTENT
                # The way there is still open.
                sent = content(number)
                client.sendall(sent)
                client.shutdown(socket.SHUT_WR)
                assert far.next_result() == sent
    assert settles(lambda: server.descriptors() == before)


def test_twenty_aborts_of_the_client(server):
    before = descriptors_at_rest(server)
    with Target(until_it_ends) as far:
        for _ in range(20):
            client = dial(server.port, "127.0.0.1", far.port)
            client.sendall(b"some")
            assert read_exactly(client, 4) == b"some"
            reset(client)
            assert far.next_result() == "reset"
    assert settles(lambda: server.descriptors() == before)


def test_twenty_aborts_of_the_target(server):
    before = descriptors_at_rest(server)
    with Target(reset_after_some) as far:
        for _ in range(20):
            with dial(server.port, "127.0.0.1", far.port) as client:
                client.sendall(b"some")
                # The reset may overtake the answer, but an end of the stream is never seen.
                with pytest.raises(ConnectionResetError):
                    read_to_end(client)
    assert settles(lambda: server.descriptors() == before)


@pytest.mark.parametrize("who", ["client", "target"])
def test_a_reset_after_megabytes_is_no_end(server, who):
    """Bytes that come by the megabyte go another way, on which a reset is told only once."""
    before = descriptors_at_rest(server)

    def send_much(connection):
        connection.sendall(BLOCK * 8)

    def read_much(connection):
        assert read_exactly(connection, len(BLOCK) * 8) == BLOCK * 8

    def serve(connection):
        if who == "target":
            send_much(connection)
            connection.recv(1)
            reset(connection)
            return
        read_much(connection)
        connection.sendall(b".")
        with pytest.raises(ConnectionResetError):
            read_to_end(connection)

    with Target(serve) as far:
        with dial(server.port, "127.0.0.1", far.port) as client:
            if who == "target":
                read_much(client)
                client.sendall(b".")
                with pytest.raises(ConnectionResetError):
                    read_to_end(client)
            else:
                send_much(client)
                client.recv(1)
                reset(client)
        far.next_result()
    assert settles(lambda: server.descriptors() == before)


def test_the_end_that_comes_with_the_last_bytes_is_not_missed(server):
    """A poller may tell of both at once, and then of neither again."""
    before = descriptors_at_rest(server)
    with Target(answer_the_end) as far:
        for number in range(200):
            with dial(server.port, "127.0.0.1", far.port) as client:
                sent = content(number, 1 + number * 37)
                client.sendall(sent)
                client.shutdown(socket.SHUT_WR)
                assert read_to_end(client) == digest(sent)
    assert settles(lambda: server.descriptors() == before)


def test_eighty_half_closes_at_once(server):
    before = descriptors_at_rest(server)
    with Target(answer_the_end) as far, ExitStack() as stack:
        clients = [stack.enter_context(dial(server.port, "127.0.0.1", far.port)) for _ in range(80)]
        for number, client in enumerate(clients):
            client.sendall(content(number, 3000))
        for client in clients:
            client.shutdown(socket.SHUT_WR)
        for number, client in enumerate(clients):
            assert read_to_end(client) == digest(content(number, 3000))
    assert settles(lambda: server.descriptors() == before)


def test_bytes_that_dribble(server):
    with Target(echo) as far, dial(server.port, "127.0.0.1", far.port) as client:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for number in range(500):
            client.sendall(bytes((number % 256,)))
            # Now and then the bytes before are still on their way.
            if not number % 3:
                time.sleep(0.0003)
        client.shutdown(socket.SHUT_WR)
        assert read_to_end(client) == bytes(number % 256 for number in range(500))


def test_what_follows_urgent_data_is_not_held_back(server):
    """As an FTP client ends a transfer (RFC 959, section 4.1.3): the urgent byte is lost, and nothing else."""
    accepted, is_over = queue.Queue(), threading.Event()

    def hold(connection):
        accepted.put(connection)
        is_over.wait(60)

    with Target(hold) as far, dial(server.port, "127.0.0.1", far.port) as client:
        end = accepted.get(timeout=20)
        for sender, receiver in ((client, end), (end, client)):
            sender.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            receiver.settimeout(20)
            for number in range(20):
                sender.sendall(b"\xff\xf4")
                if number % 2:
                    time.sleep(0.001)
                sender.send(b"\xff", socket.MSG_OOB)
                sender.sendall(b"\xf2ABOR\r\n")
                assert read_exactly(receiver, 9) == b"\xff\xf4\xf2ABOR\r\n"
        is_over.set()


def test_both_directions_at_once_in_pieces_of_all_sizes(server):
    before = descriptors_at_rest(server)
    sent = content(4, 20 * MEGABYTE)
    edges = [0, *sorted(random.Random(4).sample(range(len(sent)), 300)), len(sent)]

    def send_in_pieces(connection):
        for begin, end in pairwise(edges):
            connection.sendall(sent[begin:end])
        connection.shutdown(socket.SHUT_WR)

    with Target(echo) as far, ThreadPoolExecutor(1) as thread, dial(server.port, "127.0.0.1", far.port) as client:
        sending = thread.submit(send_in_pieces, client)
        assert read_to_end(client) == sent
        sending.result()
    assert settles(lambda: server.descriptors() == before)


def test_many_streams_at_once_keep_their_bytes_apart(server):
    before = descriptors_at_rest(server)

    def transfer(number):
        sent = content(number, MEGABYTE + number)
        with dial(server.port, "127.0.0.1", far.port) as client, ThreadPoolExecutor(1) as thread:
            sending = thread.submit(client.sendall, sent)
            assert read_exactly(client, len(sent)) == sent
            sending.result()

    with Target(echo) as far, ThreadPoolExecutor(40) as threads:
        for each in [threads.submit(transfer, number) for number in range(40)]:
            each.result()
    assert settles(lambda: server.descriptors() == before)


def rest(connection):
    """Nothing was said."""


def pend(connection):
    """What was said cannot go on: nobody reads at the other end."""
    connection.setblocking(False)
    with suppress(BlockingIOError):
        while True:
            connection.send(BLOCK)
            time.sleep(0.002)


def speak(connection):
    connection.sendall(CONTENT[:1000])


def half_close(connection):
    connection.shutdown(socket.SHUT_WR)


@pytest.mark.parametrize("who", ["client", "target"])
def test_a_reset_at_any_moment_reaches_the_other_side(server, who):
    before = descriptors_at_rest(server)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        for done, done_by_other in 3 * list(product([rest, speak, pend, half_close], [rest, speak, half_close])):
            client = dial(server.port, "127.0.0.1", listener.getsockname()[1])
            end, _ = listener.accept()
            one, other = (client, end) if who == "client" else (end, client)
            done_by_other(other)
            done(one)
            reset(one)
            expected = ["reset"]
            if done is half_close:
                expected.append("end, then reset")
                if done_by_other is half_close:
                    # The stream may have come to its end before.
                    expected.append("end")
            with other:
                assert how_it_ends(other) in expected, (done.__name__, done_by_other.__name__)
    assert settles(lambda: server.descriptors() == before)


def how_it_ends(connection):
    connection.settimeout(20)
    try:
        read_to_end(connection)
    except ConnectionResetError:
        return "reset"
    is_reset = settles(lambda: connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR), 1)
    return "end, then reset" if is_reset else "end"


def test_streams_that_end_while_others_begin_do_not_meet(server):
    """Descriptors get the numbers of those that were just closed."""
    before = descriptors_at_rest(server)

    def come_and_go(seed):
        chance = random.Random(seed)
        for number in range(25):
            sent = content(seed * 1000 + number, chance.randint(1, 50_000))
            client = dial(server.port, "127.0.0.1", far.port)
            client.sendall(sent)
            if chance.random() < 0.4:
                reset(client)
                continue
            with client:
                client.shutdown(socket.SHUT_WR)
                assert read_to_end(client) == digest(sent)

    with Target(answer_the_end) as far, ThreadPoolExecutor(8) as threads:
        for each in [threads.submit(come_and_go, seed) for seed in range(8)]:
            each.result()
    assert settles(lambda: server.descriptors() == before)


def test_no_more_descriptors_is_a_reply_and_others_are_served(server):
    before = descriptors_at_rest(server)
    with Target(echo) as far, dial(server.port, "127.0.0.1", far.port) as client:
        for pid in server.serving:
            resource.prlimit(pid, resource.RLIMIT_NOFILE, (descriptors_of(pid) + 1, 4096))
        with socket.create_connection(("127.0.0.1", server.port), timeout=20) as refused:
            refused.sendall(GREET_ANONYMOUS + request("127.0.0.1", far.port))
            # 01: the fault is the server's own.
            assert read_to_end(refused)[:4] == b"\x05\x00\x05\x01"
        client.sendall(CONTENT)
        assert read_exactly(client, len(CONTENT)) == CONTENT
        for pid in server.serving:
            resource.prlimit(pid, resource.RLIMIT_NOFILE, (1024, 4096))
        with dial(server.port, "127.0.0.1", far.port) as another:
            another.sendall(b"back again")
            assert read_exactly(another, 10) == b"back again"
    assert settles(lambda: server.descriptors() == before)


PENDING = 50 * MEGABYTE
BLOCK = content(0, MEGABYTE)
BOUND = 8 * MEGABYTE
"""How much the server's memory may grow while all that is pending: the buffers of sockets are the system's."""


def send_pending(connection, progress):
    for _ in range(PENDING // MEGABYTE):
        connection.sendall(BLOCK)
        progress.append(None)
    connection.shutdown(socket.SHUT_WR)


def has_stalled(progress):
    """Whether a sender stands still: nothing moved while we looked on."""
    seen = len(progress)
    for _ in range(10):
        time.sleep(0.02)
        if len(progress) != seen:
            return False
    return True


def assert_all_pending_arrives(connection):
    expected = hashlib.sha256(BLOCK * (PENDING // MEGABYTE)).digest()
    received = hashlib.sha256()
    while data := connection.recv(MEGABYTE):
        received.update(data)
    assert received.digest() == expected


def test_a_client_that_does_not_read_stops_the_target_and_costs_no_memory(server):
    progress = []
    sending = Target(lambda connection: send_pending(connection, progress))
    with sending as far, dial(server.port, "127.0.0.1", far.port) as client:
        before = server.memory()
        assert settles(lambda: has_stalled(progress))
        assert len(progress) < PENDING // MEGABYTE
        assert server.memory() - before < BOUND
        # Others are served meanwhile.
        with dial(server.port, "127.0.0.1", far.port) as another:
            assert read_exactly(another, 100) == BLOCK[:100]
        assert_all_pending_arrives(client)


def test_a_target_that_does_not_read_stops_the_client_and_costs_no_memory(server):
    progress = []

    def read_late(connection):
        before = server.memory()
        assert settles(lambda: has_stalled(progress))
        assert len(progress) < PENDING // MEGABYTE
        assert server.memory() - before < BOUND
        assert_all_pending_arrives(connection)
        connection.sendall(b"thanks")

    with Target(read_late) as far, dial(server.port, "127.0.0.1", far.port) as client:
        send_pending(client, progress)
        assert read_to_end(client) == b"thanks"
        assert far.next_result() is None
