"""
Why a stream to an onion service failed: the table of control events, row by row, windows, and concurrency.

Events are fed as tor's own lines.
"""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from txsocksx_ext import errors
from txsocksx_ext.errors import (
    ConnectionRefused,
    GeneralServerFailure,
    HostUnreachable,
    OnionAddressInvalid,
    OnionClientAuthRequired,
    OnionDescriptorNotFound,
    OnionIntroductionFailed,
    OnionRendezvousFailed,
    OnionServiceNotFound,
    OnionServiceNotReachable,
    TTLExpired,
    reply_error,
)
from txsocksx_ext.tor.events import parse_descriptor_event, parse_stream_event
from txsocksx_ext.tor.witness import (
    REMEMBERED_SERVICES,
    Witness,
    key_of_source,
    key_of_target,
    of_timeout,
    onion_address,
    verdict,
)
from txsocksx_ext.wire.codes import Dialect

SERVICE = "oufiwc7giqrrjlb5zhg7vr3jtqxgbwns5ner577ncb6jxnhh2kvr7kqd"
OTHER = "djz2pvvqsmdpmjfz6lxxzpxyqwkdr5vifwnyhwyjr2pesvrlr7x7prid"
DIRECTORY = "NO_AUTH $0F0C25408DDA5A337F7A8CCF6745589F2BDC8AF1~r2 r8gyG7iYlzu6VvQye6Hdw5IaAAJw3ykBkVHgGbx0wL4"
UNIX = "/run/tor/socks:0"


class Scene:
    """One tor: what it says, and the streams that we asked it for."""

    def __init__(self):
        self.witness = Witness()
        self.witness.bootstrapped = True
        self._numbers = iter(range(10_000))

    def stream(self, line):
        self.witness.saw_stream(parse_stream_event(line))

    def descriptor(self, action, address=SERVICE):
        """``RECEIVED``, or the reason for which a directory did not give it."""
        reason = "" if action in ("REQUESTED", "RECEIVED") else f" REASON={action}"
        self.witness.saw_descriptor(
            parse_descriptor_event(f"{'FAILED' if reason else action} {address} {DIRECTORY}{reason}")
        )

    def begin(self, address=SERVICE, **options):
        return Stream(self, f"{address}.onion", **options)

    def failed(self, *descriptors, reply=0x04, address=SERVICE, **ending):
        """Of one stream from its beginning to its end: what is to be said of it."""
        stream = self.begin(address)
        for action in descriptors:
            self.descriptor(action, address)
        stream.fail(**ending)
        return stream.verdict(reply)


class Stream:
    """One stream of ours."""

    def __init__(self, scene, host, *, port=7, key=None, source=None, password=None):
        self.scene = scene
        self.number = next(scene._numbers)
        self.target = f"{host}:{port}"
        source_port = 20_000 + self.number
        self.testimony = scene.witness.expect(key or key_of_source("127.0.0.1", source_port))
        self.ended = []
        self.testimony.ended.addCallback(self.ended.append)
        words = f"SOURCE_ADDR={source or f'127.0.0.1:{source_port}'} PURPOSE=USER"
        if password is not None:
            words += f' SOCKS_USERNAME="<torS0X>0" SOCKS_PASSWORD="{password}"'
        scene.stream(f"{self.number} NEW 0 {self.target} {words}")

    def say(self, status, circuit, words=""):
        self.scene.stream(f"{self.number} {status} {circuit} {self.target} {words}")

    def fail(self, reason="RESOLVEFAILED", *, circuit=0, remote=None, late=()):
        """
        End as a failure.

        :param late: what is said of the descriptor between the last two events.
        """
        words = f"REASON={reason}" if remote is None else f"REASON=END REMOTE_REASON={remote}"
        self.say("FAILED", circuit, words)
        for action in late:
            self.scene.descriptor(action, onion_address(self.target.rpartition(":")[0]))
        self.say("CLOSED", circuit, words)

    def succeed(self, circuit=10):
        self.say("SENTCONNECT", circuit)
        self.say("SUCCEEDED", circuit)

    def verdict(self, reply=0x04):
        return verdict(self.testimony, reply_error(reply, Dialect.TOR), self.scene.witness.bootstrapped)


def told(error):
    """What clients get: one that asked for Tor's codes, one that offered 97, and one that did not."""
    return (error.row.number, error.row.number if error.row.prop229 is None else error.row.prop229, error.row.plain)


# The table, row by row.


def test_not_found():
    error = Scene().failed(*["NOT_FOUND"] * 6)
    assert type(error) is OnionDescriptorNotFound
    assert told(error) == (0xF0, 0xE0, 0x04)


def test_one_directory_is_enough_where_all_that_were_asked_say_so():
    assert type(Scene().failed("REQUESTED", "NOT_FOUND")) is OnionDescriptorNotFound


@pytest.mark.parametrize("descriptors", [["RECEIVED"], ["REQUESTED", "NOT_FOUND", "NOT_FOUND", "RECEIVED"]])
def test_introduction_failed(descriptors):
    error = Scene().failed(*descriptors)
    assert type(error) is OnionIntroductionFailed
    assert told(error) == (0xF2, 0xE1, 0x04)


def test_the_descriptor_that_comes_between_the_last_two_events_counts():
    error = Scene().failed("NOT_FOUND", late=["RECEIVED"])
    assert type(error) is OnionIntroductionFailed


@pytest.mark.parametrize("reason", ["BAD_DESC", "QUERY_REJECTED", "UNEXPECTED", "QUERY_NO_HSDIR", "NEW_IN_TOR"])
@pytest.mark.parametrize("others", [0, 5])
def test_directories_that_fail_otherwise_are_no_proof_that_there_is_no_service(reason, others):
    for descriptors in ([reason, *["NOT_FOUND"] * others], [*["NOT_FOUND"] * others, reason]):
        error = Scene().failed(*descriptors)
        assert type(error) is OnionServiceNotReachable
        assert told(error) == (0xE1, 0xE1, 0x04)


@pytest.mark.parametrize("descriptors", [[], ["REQUESTED"]])
def test_no_answer_of_a_directory_is_never_not_found(descriptors):
    """Tor may answer 04 without asking any directory again."""
    error = Scene().failed(*descriptors)
    assert type(error) is OnionServiceNotReachable
    assert told(error) == (0xE1, 0xE1, 0x04)


def test_client_authorization():
    error = Scene().failed("RECEIVED", reason="MISC", reply=0x01)
    assert type(error) is OnionClientAuthRequired
    assert told(error) == (0xF4, 0xE1, 0x01)


def test_client_authorization_where_the_descriptor_is_told_late():
    error = Scene().failed("REQUESTED", reason="MISC", reply=0x01, late=["RECEIVED"])
    assert type(error) is OnionClientAuthRequired


@pytest.mark.parametrize("descriptors", [[], ["NOT_FOUND"]])
def test_misc_without_a_descriptor_says_no_more_than_the_reply(descriptors):
    assert type(Scene().failed(*descriptors, reason="MISC", reply=0x01)) is GeneralServerFailure


@pytest.mark.parametrize(("reason", "reply"), [("TIMEOUT", 0x06), ("CANT_ATTACH", 0x01)])
def test_a_rendezvous_that_was_never_completed(reason, reply):
    error = Scene().failed("RECEIVED", reason=reason, reply=reply)
    assert type(error) is OnionRendezvousFailed
    assert told(error) == (0xF3, 0xE1, reply)


@pytest.mark.parametrize(("reason", "reply"), [("TIMEOUT", 0x06), ("CANT_ATTACH", 0x01)])
def test_a_time_out_with_a_descriptor_that_is_still_known(reason, reply):
    scene = Scene()
    earlier = scene.begin()
    scene.descriptor("RECEIVED")
    earlier.succeed()
    earlier.say("CLOSED", 10, "REASON=DONE")
    # The cached descriptor serves: no event tells of it.
    error = scene.failed(reason=reason, reply=reply)
    assert type(error) is OnionRendezvousFailed
    assert told(error) == (0xF3, 0xE1, reply)


def test_a_time_out_of_a_tor_that_has_not_bootstrapped_is_not_the_services():
    scene = Scene()
    scene.witness.bootstrapped = False
    error = scene.failed(reason="TIMEOUT", reply=0x06)
    assert type(error) is TTLExpired
    assert told(error) == (0x06, 0x06, 0x06)


def test_a_time_out_without_any_event_of_a_tor_that_has_bootstrapped():
    error = Scene().failed(reason="TIMEOUT", reply=0x06)
    assert type(error) is OnionServiceNotReachable
    assert told(error) == (0xE1, 0xE1, 0x06)


def test_a_malformed_address():
    scene = Scene()
    stream = scene.begin("abc")
    stream.fail("TORPROTOCOL")
    error = stream.verdict(0x01)
    assert type(error) is OnionAddressInvalid
    assert told(error) == (0xF6, 0xE0, 0x01)


@pytest.mark.parametrize(
    ("remote", "reply", "expected"),
    [("DONE", 0x05, ConnectionRefused), ("MISC", 0x01, GeneralServerFailure), ("TIMEOUT", 0x06, TTLExpired)],
)
@pytest.mark.parametrize("descriptors", [[], ["RECEIVED"], ["NOT_FOUND", "RECEIVED"]])
def test_what_the_service_itself_answered_stays_as_it_is(remote, reply, expected, descriptors):
    assert type(Scene().failed(*descriptors, remote=remote, circuit=31, reply=reply)) is expected


@pytest.mark.parametrize(
    ("reason", "reply", "expected"),
    [
        ("NET_UNREACHABLE", 0x03, errors.NetworkUnreachable),
        ("UNKNOWN_264", 0x02, errors.ConnectionNotAllowed),
        ("INTERNAL", 0x01, GeneralServerFailure),
        ("", 0x01, GeneralServerFailure),
    ],
)
@pytest.mark.parametrize("descriptors", [[], ["RECEIVED"], ["NOT_FOUND"]])
def test_other_reasons_say_no_more_than_the_reply(reason, reply, expected, descriptors):
    assert type(Scene().failed(*descriptors, reason=reason, reply=reply)) is expected


# With ExtendedErrors besides.


@pytest.mark.parametrize("reply", range(0xF1, 0xF8))
def test_a_finer_code_of_tors_is_not_lost_where_events_say_less(reply):
    error = Scene().failed(reply=reply)
    assert error.row.number == reply


def test_events_win_over_a_code_that_they_contradict():
    # Tor remembers F0 of the first directory, whatever came after it.
    assert type(Scene().failed("NOT_FOUND", "RECEIVED", reply=0xF0)) is OnionIntroductionFailed
    assert type(Scene().failed(*["NOT_FOUND"] * 6, reply=0xF0)) is OnionDescriptorNotFound


# Never a claim without evidence.


@given(
    st.lists(st.sampled_from(["REQUESTED", "RECEIVED", "NOT_FOUND", "BAD_DESC", "QUERY_REJECTED"]), max_size=6),
    st.sampled_from(["RESOLVEFAILED", "MISC", "TIMEOUT", "CANT_ATTACH", "DESTROY", "INTERNAL", ""]),
    st.sampled_from([0x01, 0x04, 0x05, 0x06]),
    st.booleans(),
)
def test_not_found_is_claimed_only_where_every_directory_that_answered_said_so(descriptors, reason, reply, late):
    error = Scene().failed(*([] if late else descriptors), reason=reason, reply=reply, late=descriptors if late else ())
    answers = set(descriptors) - {"REQUESTED"}
    assert isinstance(error, OnionServiceNotFound) == (reason == "RESOLVEFAILED" and answers == {"NOT_FOUND"})
    # Clients that know plain codes alone get what tor said.
    assert error.row.plain == reply


# Windows.


def test_what_an_earlier_fetch_saw_does_not_count():
    scene = Scene()
    assert type(scene.failed("NOT_FOUND")) is OnionDescriptorNotFound
    assert type(scene.failed()) is OnionServiceNotReachable
    assert type(scene.failed("RECEIVED")) is OnionIntroductionFailed
    assert type(scene.failed("NOT_FOUND")) is OnionDescriptorNotFound
    assert type(scene.failed()) is OnionServiceNotReachable


def test_a_stream_that_comes_late_shares_the_fetch():
    scene = Scene()
    first = scene.begin()
    scene.descriptor("NOT_FOUND")
    second = scene.begin()
    first.fail()
    second.fail()
    assert [type(each.verdict()) for each in (first, second)] == [OnionDescriptorNotFound] * 2


def test_a_fetch_goes_on_where_the_stream_that_began_it_leaves():
    scene = Scene()
    first = scene.begin()
    scene.descriptor("BAD_DESC")
    second = scene.begin()
    first.say("CLOSED", 0, "REASON=DONE")
    scene.descriptor("NOT_FOUND")
    second.fail()
    assert type(second.verdict()) is OnionServiceNotReachable


@pytest.mark.parametrize("how", ["SUCCEEDED", "FAILED"])
def test_a_stream_that_has_connected_waits_for_no_descriptor(how):
    """It may stay open for days: what was true when it began does not speak of others."""
    scene = Scene()
    first = scene.begin()
    scene.descriptor("RECEIVED")
    # An ExtendedErrors port that says F0 and connects says FAILED, without a reason and on a circuit.
    first.say(how, 10)
    second = scene.begin()
    scene.descriptor("NOT_FOUND")
    second.fail()
    assert type(second.verdict()) is OnionDescriptorNotFound
    assert type(scene.failed(reason="TIMEOUT", reply=0x06)) is OnionRendezvousFailed


def test_the_next_fetch_does_not_change_what_was_seen_of_the_last():
    """Tor's reply may be read after its events, and another stream may have begun by then."""
    scene = Scene()
    first = scene.begin()
    scene.descriptor("NOT_FOUND")
    first.fail()
    second = scene.begin()
    scene.descriptor("RECEIVED")
    assert type(first.verdict()) is OnionDescriptorNotFound
    second.fail()
    assert type(second.verdict()) is OnionIntroductionFailed


def test_streams_of_other_programs_are_part_of_the_fetch():
    scene = Scene()
    scene.stream(f"9000 NEW 0 {SERVICE}.onion:80 SOURCE_ADDR=127.0.0.1:9 PURPOSE=USER")
    scene.descriptor("NOT_FOUND")
    ours = scene.begin()
    scene.stream(f"9000 FAILED 0 {SERVICE}.onion:80 REASON=RESOLVEFAILED")
    ours.fail()
    assert type(ours.verdict()) is OnionDescriptorNotFound


def test_events_of_services_that_nobody_asked_for_are_nothing_to_us():
    scene = Scene()
    for number in range(50):
        scene.descriptor("NOT_FOUND", f"{number:056}")
    ours = scene.begin()
    scene.descriptor("RECEIVED", OTHER)
    ours.fail()
    assert type(ours.verdict()) is OnionServiceNotReachable


def test_subdomains_and_capitals_are_the_same_service():
    scene = Scene()
    stream = Stream(scene, f"WWW.{SERVICE.upper()}.ONION")
    scene.descriptor("NOT_FOUND")
    stream.fail()
    assert type(stream.verdict()) is OnionDescriptorNotFound


# When the last word is spoken.


def test_it_is_over_when_tor_has_closed_the_stream_and_not_before():
    stream = Scene().begin()
    stream.say("FAILED", 0, "REASON=RESOLVEFAILED")
    assert stream.ended == []
    stream.say("CLOSED", 0, "REASON=RESOLVEFAILED")
    assert stream.ended == [None]
    stream.say("CLOSED", 0, "REASON=RESOLVEFAILED")
    assert stream.ended == [None]


def test_the_first_reason_is_the_reason():
    stream = Scene().begin()
    stream.say("FAILED", 0, "REASON=TORPROTOCOL")
    stream.say("CLOSED", 0, "REASON=DONE")
    assert type(stream.verdict(0x01)) is OnionAddressInvalid


def test_a_stream_that_is_detached_and_attached_again_has_not_ended():
    stream = Scene().begin()
    stream.say("DETACHED", 12, "REASON=TIMEOUT")
    assert stream.ended == []
    stream.fail(remote="DONE", circuit=13)
    assert type(stream.verdict(0x05)) is ConnectionRefused


# Which stream is whose.


def test_many_streams_at_once_get_their_own_answers():
    """Half of them to services that do not exist, in any order of events."""
    rng = random.Random(7)
    for _ in range(20):
        scene = Scene()
        missing = [f"m{number:055}" for number in range(10)]
        present = [f"p{number:055}" for number in range(10)]
        addresses = missing + present
        rng.shuffle(addresses)
        streams = {address: scene.begin(address) for address in addresses}
        rng.shuffle(addresses)
        for address in addresses:
            for _ in range(rng.randrange(1, 6)):
                scene.descriptor("NOT_FOUND", address)
            if address in present:
                scene.descriptor("RECEIVED", address)
        rng.shuffle(addresses)
        for address in addresses:
            streams[address].fail()
        for address in missing:
            assert type(streams[address].verdict()) is OnionDescriptorNotFound
        for address in present:
            assert type(streams[address].verdict()) is OnionIntroductionFailed


def test_the_source_address_tells_streams_to_one_target_apart():
    scene = Scene()
    first, second = scene.begin(), scene.begin()
    second.fail(remote="MISC", circuit=3)
    assert (first.ended, second.ended) == ([], [None])
    scene.descriptor("NOT_FOUND")
    first.fail()
    assert type(first.verdict()) is OnionDescriptorNotFound
    assert type(second.verdict(0x01)) is GeneralServerFailure


def test_ipv6_sources():
    scene = Scene()
    stream = scene.begin(key=key_of_source("::1", 4711), source="[::1]:4711")
    scene.descriptor("NOT_FOUND")
    stream.fail()
    assert type(stream.verdict()) is OnionDescriptorNotFound


def test_over_a_unix_socket_the_password_and_the_target_tell_streams_apart():
    scene = Scene()

    def begin(token, address, port):
        key = key_of_target(token, f"{address}.onion", port)
        password = None if token is None else token.decode()
        return scene.begin(address, port=port, key=key, source=UNIX, password=password)

    streams = [begin(token, SERVICE, port) for token in (b"a", b"b", None) for port in (7, 8)]
    for each in streams:
        assert each.testimony.stream == str(each.number)
    streams[3].fail(remote="DONE", circuit=3)
    assert [each.ended for each in streams] == [[], [], [], [None], [], []]


def test_over_a_unix_socket_streams_that_are_alike_each_get_one():
    scene = Scene()
    key = key_of_target(b"a", f"{SERVICE}.onion", 7)
    streams = [scene.begin(key=key, source=UNIX, password="a") for _ in range(3)]
    assert {each.testimony.stream for each in streams} == {str(each.number) for each in streams}


def test_a_password_that_tor_quotes():
    scene = Scene()
    token = 'a"b\\c\x01é'.encode()
    key = key_of_target(token, f"{SERVICE}.onion", 7)
    stream = scene.begin(key=key, source=UNIX, password=r"a\"b\\c\001\303\251")
    assert stream.testimony.stream == str(stream.number)


def test_streams_of_other_programs_are_not_taken_for_ours():
    scene = Scene()
    ours = scene.witness.expect(key_of_target(None, f"{SERVICE}.onion", 7))
    theirs = [
        "SOURCE_ADDR=127.0.0.1:9 PURPOSE=USER",
        f'SOURCE_ADDR={UNIX} PURPOSE=USER SOCKS_PASSWORD="theirs"',
    ]
    for number, words in enumerate(theirs, 9000):
        scene.stream(f"{number} NEW 0 {SERVICE}.onion:7 {words}")
    scene.stream(f"9002 NEW 0 {SERVICE}.onion:8 SOURCE_ADDR={UNIX} PURPOSE=USER")
    scene.stream(f"9003 NEW 0 {OTHER}.onion:7 SOURCE_ADDR={UNIX} PURPOSE=USER")
    assert ours.stream == ""
    scene.stream(f"9004 NEW 0 {SERVICE}.onion:7 SOURCE_ADDR={UNIX} PURPOSE=USER")
    assert ours.stream == "9004"


def test_a_source_address_that_comes_again_belongs_to_the_new_stream():
    scene = Scene()
    key = key_of_source("127.0.0.1", 4711)
    first = scene.begin(key=key, source="127.0.0.1:4711")
    scene.descriptor("NOT_FOUND")
    first.fail()
    scene.witness.dismiss(first.testimony)
    second = scene.begin(key=key, source="127.0.0.1:4711")
    second.fail(remote="DONE", circuit=3)
    assert type(first.verdict()) is OnionDescriptorNotFound
    assert type(second.verdict(0x05)) is ConnectionRefused


def test_nobody_is_told_of_a_stream_that_was_dismissed():
    scene = Scene()
    before = scene.witness.expect(key_of_source("127.0.0.1", 1))
    scene.witness.dismiss(before)
    scene.stream(f"9000 NEW 0 {SERVICE}.onion:7 SOURCE_ADDR=127.0.0.1:1 PURPOSE=USER")
    assert before.stream == ""
    begun = scene.begin()
    scene.witness.dismiss(begun.testimony)
    begun.fail()
    assert begun.ended == []
    scene.witness.dismiss(begun.testimony)


# The control connection is lost.


def test_after_the_connection_is_lost_nothing_of_before_counts():
    scene = Scene()
    earlier = scene.begin()
    scene.descriptor("RECEIVED")
    earlier.succeed()
    waiting = scene.begin()
    scene.witness.forget()
    # A tor that was started anew counts its streams from the beginning.
    scene.stream(f"{waiting.number} CLOSED 0 {waiting.target} REASON=RESOLVEFAILED")
    assert waiting.ended == []
    assert not scene.witness.bootstrapped
    assert type(waiting.verdict()) is HostUnreachable
    assert type(scene.failed(reason="TIMEOUT", reply=0x06)) is TTLExpired


def test_a_stream_that_was_lost_with_the_connection_says_no_more_than_tors_reply():
    scene = Scene()
    stream = scene.begin()
    scene.descriptor("NOT_FOUND")
    scene.witness.forget()
    assert type(stream.verdict()) is HostUnreachable


# What is remembered.


def test_nothing_is_kept_of_streams_that_are_over():
    scene = Scene()
    for number in range(REMEMBERED_SERVICES + 500):
        stream = scene.begin(f"{number:056}")
        scene.descriptor("NOT_FOUND", f"{number:056}")
        stream.fail()
        scene.witness.dismiss(stream.testimony)
    held = {name: len(held) for name, held in vars(scene.witness).items() if hasattr(held, "__len__")}
    assert max(held.values()) == REMEMBERED_SERVICES
    assert sorted(held.values())[:-1] == [0] * (len(held) - 1)


def test_one_service_that_is_asked_for_again_and_again_stays_small():
    scene = Scene()
    last = scene.begin()
    for _ in range(2000):
        following = scene.begin()
        scene.descriptor("NOT_FOUND")
        last.fail()
        last = following
    assert len(last.testimony.fetch.failures) == 1
    assert len(last.testimony.fetch.streams) == 1


def test_a_service_that_is_forgotten_while_a_stream_waits_for_it_does_no_harm():
    scene = Scene()
    waiting = scene.begin()
    for number in range(REMEMBERED_SERVICES):
        scene.begin(f"{number:056}")
    scene.descriptor("NOT_FOUND")
    waiting.fail()
    assert waiting.ended == [None]
    # The evidence is gone, and so is the claim.
    assert type(waiting.verdict()) is OnionServiceNotReachable


# Names.


@pytest.mark.parametrize(
    ("host", "address"),
    [
        (f"{SERVICE}.onion", SERVICE),
        (f"{SERVICE.upper()}.Onion", SERVICE),
        (f"a.b.{SERVICE}.onion", SERVICE),
        (f"{SERVICE}.onion.", SERVICE),
        ("abc.onion", "abc"),
        ("onion", None),
        ("example.com", None),
        ("onion.example.com", None),
        ("127.0.0.1", None),
        ("", None),
    ],
)
def test_the_address_in_a_name(host, address):
    assert onion_address(host) == address


def test_other_names_have_no_testimony_of_directories():
    scene = Scene()
    stream = Stream(scene, "example.com", port=80)
    stream.fail(remote="RESOLVEFAILED", circuit=3)
    assert type(stream.verdict()) is HostUnreachable


def test_a_time_out_of_which_nothing_was_seen():
    assert of_timeout(None, is_bootstrapped=False) is None
    assert type(of_timeout(None, is_bootstrapped=True)) is OnionServiceNotReachable
