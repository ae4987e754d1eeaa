"""A transport whose sides prove that they know one secret, and then mask what they carry. Nothing shows tampering."""
import hashlib
import hmac
import secrets

from txsocksx_ext.errors import TransportProtocolFailure
from txsocksx_ext.pt import Transport, TransportProtocol, run

GREETING, CHALLENGE_SIZE, PROOF_SIZE, LARGEST_CHUNK = b"chunked 1\r\n\r\n", 45, 32, 16 * 1024


class Chunked(TransportProtocol):
    """Both sides. Each sends a challenge, an HMAC, and chunks: two bytes of length, and so many of masked payload."""

    def prepare(self):
        self.secret = self.arguments["secret"].encode("utf-8", "surrogateescape")

    def connectionMade(self):
        self.buffer, self.conversation = b"", self.converse()
        self.wanted = next(self.conversation)

    def dataReceived(self, data):
        self.buffer += data
        while len(self.buffer) >= self.wanted:
            taken, self.buffer = self.buffer[: self.wanted], self.buffer[self.wanted :]
            self.wanted = self.conversation.send(taken)

    def converse(self):
        """All that the peer says, from first to last: yields how many bytes come next, and is sent them."""
        own_challenge = GREETING + secrets.token_bytes(CHALLENGE_SIZE - len(GREETING))
        self.transport.write(own_challenge)
        challenge = yield CHALLENGE_SIZE
        role, role_of_peer = (b"client", b"bridge") if self.side.is_client else (b"bridge", b"client")
        proof = hmac.digest(self.secret, role + own_challenge + challenge, "sha256")
        self.transport.write(proof)
        proof_of_peer = hmac.digest(self.secret, role_of_peer + challenge + own_challenge, "sha256")
        if not hmac.compare_digest((yield PROOF_SIZE), proof_of_peer):
            error = TransportProtocolFailure("the peer has another secret, or is of another kind")
            self.fail(error, b"no")  # With last words: without them our proof may be lost, and the peer not know why.
            raise error
        self.outgoing, incoming = hashlib.shake_256(self.secret + proof), hashlib.shake_256(self.secret + proof_of_peer)
        self.ready()
        while True:
            length = int.from_bytes((yield 2), "big")
            self.write_payload(masked((yield length), incoming))

    def payload_received(self, payload):
        for start in range(0, len(payload), LARGEST_CHUNK):
            chunk = masked(payload[start : start + LARGEST_CHUNK], self.outgoing)
            self.transport.write(len(chunk).to_bytes(2, "big") + chunk)


def masked(chunk, key_stream):
    key_stream.update(b"next chunk")
    return bytes(byte ^ mask for byte, mask in zip(chunk, key_stream.digest(len(chunk)), strict=True))


if __name__ == "__main__":
    run(Transport("chunked", client=Chunked, server=Chunked))
