"""Which control events count for which stream to an onion service, until when, and what is remembered."""

import random

import pytest
from support.tor_scene import SERVICE, Scene, Stream

from txsocksx_ext.errors import (
    ConnectionRefused,
    GeneralServerFailure,
    HostUnreachable,
    OnionAddressInvalid,
    OnionDescriptorNotFound,
    OnionIntroductionFailed,
    OnionRendezvousFailed,
    OnionServiceNotReachable,
    TTLExpired,
)
from txsocksx_ext.tor.tracker import REMEMBERED_SERVICES, key_of_source, key_of_target

OTHER = "djz2pvvqsmdpmjfz6lxxzpxyqwkdr5vifwnyhwyjr2pesvrlr7x7prid"
UNIX = "/run/tor/socks:0"


def test_no_repr_shows_the_token_or_the_target():
    scene = Scene()
    for key in (key_of_target(b"hunter2", SERVICE, 443), key_of_source("192.0.2.7", 4711, SERVICE, 443)):
        shown = repr(scene.tracker.expect(key))
        assert not any(secret in shown for secret in ("hunter2", SERVICE, "192.0.2.7"))


# Windows.


def test_what_an_earlier_fetch_saw_does_not_count():
    scene = Scene()
    assert type(scene.failed("NOT_FOUND")) is OnionDescriptorNotFound
    assert type(scene.failed()) is HostUnreachable
    assert type(scene.failed("RECEIVED")) is OnionIntroductionFailed
    assert type(scene.failed("NOT_FOUND")) is OnionDescriptorNotFound
    # It existed a while ago.
    assert type(scene.failed()) is OnionServiceNotReachable


def test_a_stream_that_comes_late_shares_the_fetch():
    scene = Scene()
    first = scene.begin()
    scene.descriptor("NOT_FOUND")
    second = scene.begin()
    first.fail()
    second.fail()
    assert [type(each.failure()) for each in (first, second)] == [OnionDescriptorNotFound] * 2


def test_a_fetch_goes_on_where_the_stream_that_began_it_leaves():
    scene = Scene()
    first = scene.begin()
    scene.descriptor("BAD_DESC")
    second = scene.begin()
    first.say("CLOSED", 0, "REASON=DONE")
    scene.descriptor("NOT_FOUND")
    second.fail()
    assert type(second.failure()) is OnionServiceNotReachable


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
    assert type(second.failure()) is OnionDescriptorNotFound
    assert type(scene.failed(reason="TIMEOUT", reply=0x06)) is OnionRendezvousFailed


def test_the_next_fetch_does_not_change_what_was_seen_of_the_last():
    """Tor's reply may be read after its events, and another stream may have begun by then."""
    scene = Scene()
    first = scene.begin()
    scene.descriptor("NOT_FOUND")
    first.fail()
    second = scene.begin()
    scene.descriptor("RECEIVED")
    assert type(first.failure()) is OnionDescriptorNotFound
    second.fail()
    assert type(second.failure()) is OnionIntroductionFailed


def test_streams_of_other_programs_are_part_of_the_fetch():
    scene = Scene()
    scene.stream(f"9000 NEW 0 {SERVICE}.onion:80 SOURCE_ADDR=127.0.0.1:9 PURPOSE=USER")
    scene.descriptor("NOT_FOUND")
    ours = scene.begin()
    scene.stream(f"9000 FAILED 0 {SERVICE}.onion:80 REASON=RESOLVEFAILED")
    ours.fail()
    assert type(ours.failure()) is OnionDescriptorNotFound


def test_events_of_services_that_nobody_asked_for_are_nothing_to_us():
    scene = Scene()
    for number in range(50):
        scene.descriptor("NOT_FOUND", f"{number:056}")
    ours = scene.begin()
    scene.descriptor("RECEIVED", OTHER)
    ours.fail()
    assert type(ours.failure()) is HostUnreachable


def test_subdomains_and_capitals_are_the_same_service():
    scene = Scene()
    stream = Stream(scene, f"WWW.{SERVICE.upper()}.ONION")
    scene.descriptor("NOT_FOUND")
    stream.fail()
    assert type(stream.failure()) is OnionDescriptorNotFound


# When the last word is spoken.


def test_it_is_over_when_tor_has_closed_the_stream_and_not_before():
    stream = Scene().begin()
    stream.say("FAILED", 0, "REASON=RESOLVEFAILED")
    assert not stream.has_ended
    stream.say("CLOSED", 0, "REASON=RESOLVEFAILED")
    assert stream.has_ended
    stream.say("CLOSED", 0, "REASON=RESOLVEFAILED")
    assert stream.has_ended


def test_the_first_reason_is_the_reason():
    stream = Scene().begin()
    stream.say("FAILED", 0, "REASON=TORPROTOCOL")
    stream.say("CLOSED", 0, "REASON=DONE")
    assert type(stream.failure(0x01)) is OnionAddressInvalid


def test_a_stream_that_is_detached_and_attached_again_has_not_ended():
    stream = Scene().begin()
    stream.say("DETACHED", 12, "REASON=TIMEOUT")
    assert not stream.has_ended
    stream.fail(remote="DONE", circuit=13)
    assert type(stream.failure(0x05)) is ConnectionRefused


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
            assert type(streams[address].failure()) is OnionDescriptorNotFound
        for address in present:
            assert type(streams[address].failure()) is OnionIntroductionFailed


def test_the_source_address_tells_streams_to_one_target_apart():
    scene = Scene()
    first, second = scene.begin(), scene.begin()
    second.fail(remote="MISC", circuit=3)
    assert not first.has_ended
    assert second.has_ended
    scene.descriptor("NOT_FOUND")
    first.fail()
    assert type(first.failure()) is OnionDescriptorNotFound
    assert type(second.failure(0x01)) is GeneralServerFailure


def test_a_stream_from_the_same_source_to_another_target_is_not_ours():
    """Of another tor, to which the same program connects."""
    scene = Scene()
    ours = scene.tracker.expect(key_of_source("127.0.0.1", 4711, f"{SERVICE}.onion", 7))
    for target in (f"{OTHER}.onion:7", f"{SERVICE}.onion:8"):
        scene.stream(f"9 NEW 0 {target} SOURCE_ADDR=127.0.0.1:4711 PURPOSE=USER")
    assert not ours.is_seen


def test_ipv6_sources():
    scene = Scene()
    stream = scene.begin(key=key_of_source("::1", 4711, f"{SERVICE}.onion", 7), source="[::1]:4711")
    scene.descriptor("NOT_FOUND")
    stream.fail()
    assert type(stream.failure()) is OnionDescriptorNotFound


def test_over_a_unix_socket_the_password_and_the_target_tell_streams_apart():
    scene = Scene()

    def begin(token, address, port):
        key = key_of_target(token, f"{address}.onion", port)
        password = None if token is None else token.decode()
        return scene.begin(address, port=port, key=key, source=UNIX, password=password)

    streams = [begin(token, SERVICE, port) for token in (b"a", b"b", None) for port in (7, 8)]
    assert all(each.record.is_seen for each in streams)
    streams[3].fail(remote="DONE", circuit=3)
    assert [each.has_ended for each in streams] == [False, False, False, True, False, False]


def alike(scene, count):
    """Streams over a unix socket that cannot be told apart."""
    key = key_of_target(b"a", f"{SERVICE}.onion", 7)
    return [scene.begin(key=key, source=UNIX, password="a") for _ in range(count)]


def test_over_a_unix_socket_those_who_leave_do_not_take_the_reasons_of_those_who_stay():
    scene = Scene()
    streams = alike(scene, 6)
    for each in streams[:3]:
        scene.tracker.dismiss(each.record)
    # Tor sees later that they left, and closes their streams in any order.
    for each in (streams[4], streams[0], streams[5]):
        each.say("CLOSED", 0, "REASON=DONE")
    assert not any(each.has_ended for each in streams[3:])
    scene.descriptor("NOT_FOUND")
    for each in (streams[1], streams[2], streams[3]):
        each.fail()
    assert [type(each.failure()) for each in streams[3:]] == [OnionDescriptorNotFound] * 3


def test_over_a_unix_socket_an_end_explains_only_the_replies_that_tor_gives_for_it():
    scene = Scene()
    connected, refused, stays = alike(scene, 3)
    scene.descriptor("RECEIVED")
    connected.succeed()
    refused.fail(remote="DONE", circuit=3)
    connected.say("CLOSED", 10, "REASON=END REMOTE_REASON=DONE")
    assert type(refused.failure(0x05)) is ConnectionRefused
    # Not yet its own: what it heard is 04.
    assert type(stays.failure(0x04)) is HostUnreachable
    stays.fail()
    assert type(stays.failure(0x04)) is OnionIntroductionFailed


def test_a_password_that_tor_quotes():
    scene = Scene()
    token = 'a"b\\c\x01é'.encode()
    key = key_of_target(token, f"{SERVICE}.onion", 7)
    stream = scene.begin(key=key, source=UNIX, password=r"a\"b\\c\001\303\251")
    assert stream.record.is_seen


def test_streams_of_other_programs_are_not_taken_for_ours():
    scene = Scene()
    ours = scene.tracker.expect(key_of_target(None, f"{SERVICE}.onion", 7))
    theirs = [
        "SOURCE_ADDR=127.0.0.1:9 PURPOSE=USER",
        f'SOURCE_ADDR={UNIX} PURPOSE=USER SOCKS_PASSWORD="theirs"',
    ]
    for number, words in enumerate(theirs, 9000):
        scene.stream(f"{number} NEW 0 {SERVICE}.onion:7 {words}")
    scene.stream(f"9002 NEW 0 {SERVICE}.onion:8 SOURCE_ADDR={UNIX} PURPOSE=USER")
    scene.stream(f"9003 NEW 0 {OTHER}.onion:7 SOURCE_ADDR={UNIX} PURPOSE=USER")
    assert not ours.is_seen
    scene.stream(f"9004 NEW 0 {SERVICE}.onion:7 SOURCE_ADDR={UNIX} PURPOSE=USER")
    assert ours.is_seen


def test_a_source_address_that_comes_again_belongs_to_the_new_stream():
    scene = Scene()
    key = key_of_source("127.0.0.1", 4711, f"{SERVICE}.onion", 7)
    first = scene.begin(key=key, source="127.0.0.1:4711")
    scene.descriptor("NOT_FOUND")
    first.fail()
    scene.tracker.dismiss(first.record)
    second = scene.begin(key=key, source="127.0.0.1:4711")
    second.fail(remote="DONE", circuit=3)
    assert type(first.failure()) is OnionDescriptorNotFound
    assert type(second.failure(0x05)) is ConnectionRefused


def test_nobody_is_told_of_a_stream_that_was_dismissed():
    scene = Scene()
    before = scene.tracker.expect(key_of_source("127.0.0.1", 1, f"{SERVICE}.onion", 7))
    scene.tracker.dismiss(before)
    scene.stream(f"9000 NEW 0 {SERVICE}.onion:7 SOURCE_ADDR=127.0.0.1:1 PURPOSE=USER")
    assert not before.is_seen
    begun = scene.begin()
    scene.tracker.dismiss(begun.record)
    begun.fail()
    assert not begun.has_ended
    scene.tracker.dismiss(begun.record)


# The control connection is lost.


def test_after_the_connection_is_lost_nothing_of_before_counts():
    scene = Scene()
    earlier = scene.begin()
    scene.descriptor("RECEIVED")
    earlier.succeed()
    waiting = scene.begin()
    assert scene.tracker.has_recognized
    scene.tracker.forget()
    # The next connection may be to another tor than the one behind the SOCKS port.
    assert not scene.tracker.has_recognized
    # A tor that was started anew counts its streams from the beginning.
    scene.stream(f"{waiting.number} CLOSED 0 {waiting.target} REASON=RESOLVEFAILED")
    assert not waiting.has_ended
    assert type(waiting.failure()) is HostUnreachable
    assert type(scene.failed(reason="TIMEOUT", reply=0x06)) is TTLExpired


def test_a_stream_that_was_lost_with_the_connection_says_no_more_than_tors_reply():
    scene = Scene()
    stream = scene.begin()
    scene.descriptor("NOT_FOUND")
    scene.tracker.forget()
    assert type(stream.failure()) is HostUnreachable


# What is remembered.


def test_nothing_is_kept_of_streams_that_are_over():
    scene = Scene()
    for number in range(REMEMBERED_SERVICES + 500):
        stream = scene.begin(f"{number:056}")
        scene.descriptor("NOT_FOUND", f"{number:056}")
        stream.fail()
        scene.tracker.dismiss(stream.record)
    held = {name: len(held) for name, held in vars(scene.tracker).items() if hasattr(held, "__len__")}
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
    assert len(last.record.fetch.answers) < 2010
    assert len(last.record.fetch.streams) == 1


def test_a_service_that_is_forgotten_while_a_stream_waits_for_it_does_no_harm():
    scene = Scene()
    waiting = scene.begin()
    for number in range(REMEMBERED_SERVICES):
        scene.begin(f"{number:056}")
    scene.descriptor("NOT_FOUND")
    waiting.fail()
    assert waiting.has_ended
    # The evidence is gone, and so is the claim.
    assert type(waiting.failure()) is HostUnreachable
