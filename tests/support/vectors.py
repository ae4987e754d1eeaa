"""The raw vectors of `vectors/wire.json`, the ways to split bytes, and how properties are tried."""

import json
import random
from itertools import combinations, pairwise
from pathlib import Path
from typing import Any, NamedTuple

from hypothesis import settings

from txsocksx_ext.protocol import decoding
from txsocksx_ext.protocol.codes import AddressType, Command, Method, Status
from txsocksx_ext.protocol.decoding import MessageReader
from txsocksx_ext.protocol.messages import (
    NO_ADDRESS,
    Address,
    ExtendedRequest,
    ExtendedResponse,
    Greeting,
    MethodSelection,
    Reply,
    Request,
    UsernamePassword,
    UsernamePasswordResponse,
)
from txsocksx_ext.protocol.pairs import Pairs

thorough = settings(max_examples=200)
"""For properties of what anybody may send."""

FILE = Path(__file__).parent.parent / "vectors" / "wire.json"


class Vector(NamedTuple):
    """One line of the file; `parts` are the messages of an observed dialogue."""

    id: str
    name: str
    kind: str
    expected: str
    parts: tuple[bytes, ...]
    row: dict[str, Any]

    @property
    def data(self):
        return b"".join(self.parts)

    @property
    def rest(self):
        return bytes.fromhex(self.row["rest"])


def _read():
    vectors = []
    for row in json.loads(FILE.read_text()):
        name = row["name"]
        if any(name == vector.id for vector in vectors):
            # Two programs were observed at the same thing.
            name = f"{name}-{row['direction']}"
        parts = tuple(bytes.fromhex(part) for part in row["hex"].split("|"))
        vectors.append(Vector(name, row["name"], row["msg"], row["expected"], parts, row))
    return vectors


VECTORS = _read()


def vectors_of(*kinds):
    return [vector for vector in VECTORS if vector.kind in kinds]


def by_id(vectors):
    """What `pytest.mark.parametrize` needs to name each case after its vector."""
    return {"argvalues": vectors, "ids": [vector.id for vector in vectors]}


def split_at(data, *positions):
    edges = [0, *positions, len(data)]
    return [data[begin:end] for begin, end in pairwise(edges)]


def byte_by_byte(data):
    return split_at(data, *range(1, len(data)))


def every_split(data):
    """All 2^(n-1) ways to cut n bytes."""
    for count in range(len(data)):
        for positions in combinations(range(1, len(data)), count):
            yield split_at(data, *positions)


def cuts_in_two(data):
    """Whole, in two parts at every position, and byte by byte."""
    yield [data]
    for position in range(1, len(data)):
        yield split_at(data, position)
    if len(data) > 2:
        yield byte_by_byte(data)


def splits(data, exhaustive=12, samples=60):
    """
    Every split of few bytes; of up to 300 every cut in two, and byte by byte; beyond that a sample.

    :param exhaustive: how many are few: n bytes can be split in 2^(n-1) ways.
    """
    if len(data) <= exhaustive:
        yield from every_split(data)
    elif len(data) <= 300:
        yield from cuts_in_two(data)
    else:
        chosen = random.Random(len(data))  # the same sample each time
        yield [data]
        yield [*byte_by_byte(data[:300]), data[300:]]
        for _ in range(samples):
            count = chosen.randint(1, 20)
            yield split_at(data, *sorted(chosen.sample(range(1, len(data)), count)))


def decode_pieces(pieces, decoder, *limits):
    """Feed pieces to a reader: the message, or ``None`` if bytes are missing, and what follows it."""
    messages = MessageReader()
    message = None
    for piece in pieces:
        messages.feed(piece)
        if message is None:
            message = messages.decode(decoder, *limits)
    return message, b"" if message is None else messages.take_read_ahead()


def whole_reply(data, limits):
    """Decode a reply as a client does that wants to know the address of a failing one too."""
    decoded = decoding.reply_or_its_code(data, limits)
    if isinstance(decoded, int) or not decoded[0].code:
        return decoded
    reply, begin = decoded
    rest = decoding.rest_of_failed_reply(data[begin:], limits)
    return rest + begin if isinstance(rest, int) else (Reply(reply.code, rest[0]), begin + rest[1])


def address_of(decoded):
    """The address that a vector says was decoded."""
    if decoded["addr"] is None:
        return NO_ADDRESS
    return Address(AddressType(decoded["atyp"]), decoded["addr"], decoded["port"])


MESSAGES = {
    "greeting": lambda decoded: Greeting(tuple(map(Method, decoded["methods"]))),
    "select": lambda decoded: MethodSelection(Method(decoded["method"])),
    "request": lambda decoded: Request(Command(decoded["cmd"]), address_of(decoded)),
    "reply": lambda decoded: Reply(decoded["rep"], address_of(decoded)),
    "userpass": lambda decoded: UsernamePassword(decoded["user"].encode(), decoded["passwd"].encode()),
    "userpass_resp": lambda decoded: UsernamePasswordResponse(Status(decoded["status"])),
    "ext_req": lambda decoded: ExtendedRequest(Pairs(decoded["pairs"])),
    "ext_resp": lambda decoded: ExtendedResponse(Status(decoded["status"]), Pairs(decoded["pairs"])),
}
"""By its kind, the message of which a vector says what was decoded."""

OPENINGS = {
    "greeting": None,
    "socks4": None,
    "request": Method.NO_AUTHENTICATION,
    "userpass": Method.USERNAME_PASSWORD,
    "toruser": Method.USERNAME_PASSWORD,
    "ptauth": Method.USERNAME_PASSWORD,
    "ext_req": Method.EXTENDED,
}
"""The method on whose conversation a vector of this kind is said to a server, if any."""
TO_SERVER = [vector for vector in vectors_of(*OPENINGS) if vector.row["direction"] in ("client->server", "tor->pt")]
TO_CLIENT = [vector for vector in vectors_of(*MESSAGES) if vector.row["direction"] == "server->client"]
