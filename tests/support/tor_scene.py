"""One tor whose control events a test makes, and our streams through it."""

import itertools

from txsocksx_ext.failures import reply_error
from txsocksx_ext.protocol.codes import Dialect
from txsocksx_ext.tor.events import parse_descriptor_event, parse_stream_event
from txsocksx_ext.tor.failures import classify_failure
from txsocksx_ext.tor.tracker import StreamTracker, key_of_source, onion_address

SERVICE = "oufiwc7giqrrjlb5zhg7vr3jtqxgbwns5ner577ncb6jxnhh2kvr7kqd"


class Scene:
    """One tor: what it says, and the streams that we asked it for."""

    def __init__(self):
        self.now = 1000.0
        self.tracker = StreamTracker(lambda: self.now)
        self._numbers = itertools.count()
        self._directories = itertools.count()
        self._asked = None

    def stream(self, line):
        self.tracker.saw_stream(parse_stream_event(line))

    def descriptor(self, action, address=SERVICE, directory=None):
        """
        ``REQUESTED``, ``RECEIVED``, or the reason for which a directory did not give it.

        :param directory: its number; by default that of the last request, if it is not answered, else a new one.
        """
        if directory is None:
            directory = next(self._directories) if action == "REQUESTED" or self._asked is None else self._asked
            self._asked = directory if action == "REQUESTED" else None
        reason = "" if action in ("REQUESTED", "RECEIVED") else f" REASON={action}"
        self.tracker.saw_descriptor(
            parse_descriptor_event(
                f"{'FAILED' if reason else action} {address} NO_AUTH ${directory:040X}~r{directory}"
                f" r8gyG7iYlzu6VvQye6Hdw5IaAAJw3ykBkVHgGbx0wL4{reason}"
            )
        )

    def begin(self, address=SERVICE, **options):
        return Stream(self, f"{address}.onion", **options)

    def failed(self, *descriptors, reply=0x04, address=SERVICE, **ending):
        """Of one stream from its beginning to its end: what is to be said of it."""
        stream = self.begin(address)
        for action in descriptors:
            self.descriptor(action, address)
        stream.fail(**ending)
        return stream.failure(reply)


class Stream:
    """One stream of ours."""

    def __init__(self, scene, host, *, port=7, key=None, source=None, password=None):
        self.scene = scene
        self.number = next(scene._numbers)
        self.target = f"{host}:{port}"
        source_port = 20_000 + self.number
        self.record = scene.tracker.expect(key or key_of_source("127.0.0.1", source_port, host, port))
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

    @property
    def has_ended(self):
        """Whether its last event was seen."""
        return self._end_for(0xF0) is not None

    def failure(self, reply=0x04):
        """What is to be said of it where tor's reply was this one."""
        end = self._end_for(reply)
        said = reply_error(reply, Dialect.TOR)
        return said if end is None else classify_failure(end, said)

    def _end_for(self, reply):
        ended = self.record.end_for(reply_error(reply, Dialect.TOR))
        return ended.result if ended.called else None
