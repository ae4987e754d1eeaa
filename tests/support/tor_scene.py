"""One tor whose control events a test makes, and our streams through it."""

from txsocksx_ext.errors import reply_error
from txsocksx_ext.protocol.codes import Dialect
from txsocksx_ext.tor.events import parse_descriptor_event, parse_stream_event
from txsocksx_ext.tor.tracker import StreamTracker, classify_failure, key_of_source, onion_address

SERVICE = "oufiwc7giqrrjlb5zhg7vr3jtqxgbwns5ner577ncb6jxnhh2kvr7kqd"
DIRECTORY = "NO_AUTH $0F0C25408DDA5A337F7A8CCF6745589F2BDC8AF1~r2 r8gyG7iYlzu6VvQye6Hdw5IaAAJw3ykBkVHgGbx0wL4"


class Scene:
    """One tor: what it says, and the streams that we asked it for."""

    def __init__(self):
        self.tracker = StreamTracker()
        self.tracker.bootstrapped = True
        self._numbers = iter(range(10_000))

    def stream(self, line):
        self.tracker.saw_stream(parse_stream_event(line))

    def descriptor(self, action, address=SERVICE):
        """``RECEIVED``, or the reason for which a directory did not give it."""
        reason = "" if action in ("REQUESTED", "RECEIVED") else f" REASON={action}"
        self.tracker.saw_descriptor(
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
        return stream.failure(reply)


class Stream:
    """One stream of ours."""

    def __init__(self, scene, host, *, port=7, key=None, source=None, password=None):
        self.scene = scene
        self.number = next(scene._numbers)
        self.target = f"{host}:{port}"
        source_port = 20_000 + self.number
        self.record = scene.tracker.expect(key or key_of_source("127.0.0.1", source_port))
        self.ended = []
        self.record.ended.addCallback(self.ended.append)
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

    def failure(self, reply=0x04):
        return classify_failure(self.record, reply_error(reply, Dialect.TOR), self.scene.tracker.bootstrapped)
