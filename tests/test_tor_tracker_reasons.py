"""Why a stream to an onion service failed: the table of control events, row by row, as tor's own lines."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.tor_scene import SERVICE, Scene, Stream

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
)
from txsocksx_ext.tor.failures import of_timeout
from txsocksx_ext.tor.tracker import DIRECTORY_ASKED_AGAIN_AFTER, onion_address


def told(error):
    """What clients get: one that asked for Tor's codes, one that offered 97, and one that did not."""
    code = error.reply_code
    return (code.number, code.number if code.prop229 is None else code.prop229, code.plain)


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


@pytest.mark.parametrize("reason", ["QUERY_REJECTED", "UNEXPECTED", "QUERY_NO_HSDIR", "NEW_IN_TOR"])
@pytest.mark.parametrize("others", [0, 5])
def test_directories_that_fail_otherwise_prove_neither_that_there_is_a_service_nor_that_there_is_none(reason, others):
    for descriptors in ([reason, *["NOT_FOUND"] * others], [*["NOT_FOUND"] * others, reason]):
        assert type(Scene().failed(*descriptors)) is HostUnreachable


@pytest.mark.parametrize("others", [0, 5])
def test_a_descriptor_that_cannot_be_read_is_one_of_a_service(others):
    for descriptors in (["BAD_DESC", *["NOT_FOUND"] * others], [*["NOT_FOUND"] * others, "BAD_DESC"]):
        error = Scene().failed(*descriptors)
        assert type(error) is OnionServiceNotReachable
        assert told(error) == (0xE1, 0xE1, 0x04)


@pytest.mark.parametrize("descriptors", [[], ["REQUESTED"], ["REQUESTED", "REQUESTED", "NOT_FOUND"]])
def test_nothing_is_claimed_where_a_directory_has_not_answered(descriptors):
    """Tor may answer 04 without asking any directory again, or where the connection to one is lost."""
    assert type(Scene().failed(*descriptors)) is HostUnreachable


def test_a_directory_that_did_not_answer_an_earlier_stream_counts_until_tor_would_ask_it_again():
    scene = Scene()

    def failed(action, directory):
        stream = scene.begin()
        scene.descriptor(action, directory=directory)
        stream.fail()
        return type(stream.failure())

    assert failed("REQUESTED", 1) is HostUnreachable
    assert failed("NOT_FOUND", 2) is HostUnreachable
    scene.now += DIRECTORY_ASKED_AGAIN_AFTER
    assert failed("NOT_FOUND", 3) is OnionDescriptorNotFound


def test_a_directory_that_is_asked_again_has_its_last_answer():
    scene = Scene()
    stream = scene.begin()
    for action in ("REQUESTED", "UNEXPECTED", "REQUESTED", "NOT_FOUND"):
        scene.descriptor(action, directory=5)
    stream.fail()
    assert type(stream.failure()) is OnionDescriptorNotFound


@pytest.mark.parametrize(("reason", "reply", "expected"), [("RESOLVEFAILED", 4, 0xE1), ("TIMEOUT", 6, 0xF3)])
def test_a_descriptor_that_tor_had_before_we_came(reason, reply, expected):
    scene = Scene()
    scene.tracker.saw_cached_descriptor(SERVICE)
    assert told(scene.failed(reason=reason, reply=reply)) == (expected, 0xE1, reply)


def test_a_service_that_was_found_and_is_gone_from_the_directories():
    scene = Scene()
    scene.failed("RECEIVED")
    assert type(scene.failed("NOT_FOUND", "NOT_FOUND")) is OnionDescriptorNotFound
    assert type(scene.failed("NOT_FOUND", reason="TIMEOUT", reply=0x06)) is OnionServiceNotReachable


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


@pytest.mark.parametrize("descriptors", [[], ["REQUESTED"], ["NOT_FOUND"]])
def test_a_time_out_is_not_the_services_where_nobody_knows_of_one(descriptors):
    """Tor may not have bootstrapped, or not reach the directories."""
    error = Scene().failed(*descriptors, reason="TIMEOUT", reply=0x06)
    assert type(error) is TTLExpired
    assert told(error) == (0x06, 0x06, 0x06)


def test_a_malformed_address():
    scene = Scene()
    stream = scene.begin("abc")
    stream.fail("TORPROTOCOL")
    error = stream.failure(0x01)
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
    assert error.reply_code.number == reply


def test_events_win_over_a_code_that_they_contradict():
    # Tor remembers F0 of the first directory, whatever came after it.
    assert type(Scene().failed("NOT_FOUND", "RECEIVED", reply=0xF0)) is OnionIntroductionFailed
    assert type(Scene().failed(*["NOT_FOUND"] * 6, reply=0xF0)) is OnionDescriptorNotFound


@pytest.mark.parametrize(
    ("remote", "expected"),
    [
        ("DONE", ConnectionRefused),
        ("CONNECTREFUSED", ConnectionRefused),
        ("MISC", GeneralServerFailure),
        ("TIMEOUT", TTLExpired),
        ("NEW_IN_TOR", GeneralServerFailure),
    ],
)
@pytest.mark.parametrize("reply", [0xF0, 0xF2])
def test_what_the_service_answered_wins_over_the_code_of_a_directory(remote, expected, reply):
    error = Scene().failed("NOT_FOUND", "RECEIVED", remote=remote, circuit=31, reply=reply)
    assert type(error) is expected


@pytest.mark.parametrize(
    ("reason", "expected"), [("INTERNAL", GeneralServerFailure), ("RESOLVEFAILED", HostUnreachable)]
)
def test_f0_is_not_claimed_where_the_events_do_not_show_it(reason, expected):
    assert type(Scene().failed("NOT_FOUND", "UNEXPECTED", reason=reason, reply=0xF0)) is expected


# Never a claim without evidence.


@given(
    st.lists(st.sampled_from(["REQUESTED", "RECEIVED", "NOT_FOUND", "BAD_DESC", "QUERY_REJECTED"]), max_size=6),
    st.sampled_from(["RESOLVEFAILED", "MISC", "TIMEOUT", "CANT_ATTACH", "DESTROY", "INTERNAL", ""]),
    st.sampled_from([0x01, 0x04, 0x05, 0x06]),
    st.booleans(),
)
def test_each_claim_has_its_evidence(descriptors, reason, reply, late):
    error = Scene().failed(*([] if late else descriptors), reason=reason, reply=reply, late=descriptors if late else ())
    answers = set(descriptors) - {"REQUESTED"}
    if isinstance(error, OnionServiceNotFound):
        assert (reason, answers) == ("RESOLVEFAILED", {"NOT_FOUND"})
    elif isinstance(error, OnionServiceNotReachable):
        assert answers & {"RECEIVED", "BAD_DESC"}
    # Clients that know plain codes alone get what tor said.
    assert error.reply_code.plain == reply


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


def test_other_names_have_no_record_of_directories():
    scene = Scene()
    stream = Stream(scene, "example.com", port=80)
    stream.fail(remote="RESOLVEFAILED", circuit=3)
    assert type(stream.failure()) is HostUnreachable


def test_a_time_out_of_which_nothing_was_seen():
    assert of_timeout(None) is None
