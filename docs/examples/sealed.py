"""
A transport that encrypts its payload with a shared key.

This is an example. It hides nothing from a censor, who recognizes it by its
cleartext lengths and by the sizes and times of its frames. It has no forward
secrecy: whoever gets the key later can decrypt recorded traffic.
"""

import secrets

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from txsocksx_ext.errors import TransportProtocolFailure
from txsocksx_ext.pt import Transport, TransportProtocol, run

SALT = 32
MOST = 16 * 1024
TAG = 16


class Sealed(TransportProtocol):
    """Both sides. Each sends a salt, then frames: two bytes of length, then an encrypted part of that length."""

    @classmethod
    def set_up(cls, side):
        """Generate, store and publish a key if the bridge's operator gave none."""
        if side.is_client or "key" in side.arguments:
            return None
        file = side.state / "key"
        if not file.exists():
            file.write_text(secrets.token_hex(32))
        return {"key": file.read_text()}

    def prepare(self):
        self.key = bytes.fromhex(self.arguments["key"])
        if len(self.key) != 32:
            raise ValueError("key must be 64 hexadecimal digits")
        self.salt = secrets.token_bytes(SALT)
        self.buffer = b""
        self.sealing = self.opening = None
        self.is_ready = self.has_ended = False

    def connectionMade(self):
        self.transport.write(self.salt)

    def dataReceived(self, data):
        self.buffer += data
        if self.opening is None:
            if len(self.buffer) < SALT:
                return
            self.begin(self.take(SALT))
        while len(self.buffer) >= 2:
            length = int.from_bytes(self.buffer[:2], "big")
            if length > MOST + TAG:
                raise TransportProtocolFailure("the peer sent a frame that is too long")
            if len(self.buffer) < 2 + length:
                return
            self.frame_received(self.take(2), self.take(length))

    def take(self, count):
        taken, self.buffer = self.buffer[:count], self.buffer[count:]
        return taken

    def begin(self, salt_of_peer):
        salts = self.salt + salt_of_peer if self.side.is_client else salt_of_peer + self.salt
        ours, theirs = (b"client", b"server") if self.side.is_client else (b"server", b"client")
        self.sealing, self.opening = Direction(self.key, salts, ours), Direction(self.key, salts, theirs)
        # An empty frame proves that this side knows the key.
        self.transport.write(self.sealing.seal(b""))

    def frame_received(self, length, sealed):
        try:
            content = self.opening.open(length, sealed)
        except InvalidTag:
            raise TransportProtocolFailure("the peer has another key or is not a peer of this kind") from None
        if not self.is_ready:
            self.is_ready = True
            self.ready()
        elif content:
            self.write_payload(content)
        else:
            self.has_ended = True
            self.end_payload()

    def payload_received(self, payload):
        for start in range(0, len(payload), MOST):
            self.transport.write(self.sealing.seal(payload[start : start + MOST]))

    def payload_ended(self):
        self.transport.write(self.sealing.seal(b""))
        super().payload_ended()

    def peer_ended(self):
        if not self.has_ended:
            raise TransportProtocolFailure("the stream was truncated")


class Direction:
    """Encrypts or decrypts the frames of one direction, with its own key and a counter as nonce."""

    def __init__(self, key, salts, sender):
        self.cipher = ChaCha20Poly1305(HKDF(SHA256(), 32, salt=salts, info=b"sealed " + sender).derive(key))
        self.count = 0

    def nonce(self):
        self.count += 1
        return self.count.to_bytes(12, "big")

    def seal(self, content):
        length = (len(content) + TAG).to_bytes(2, "big")
        return length + self.cipher.encrypt(self.nonce(), content, length)

    def open(self, length, sealed):
        return self.cipher.decrypt(self.nonce(), sealed, length)


if __name__ == "__main__":
    run(Transport("sealed", client=Sealed, server=Sealed), version="1")
