"""The configuration file of the how-to: a gateway for a team of 30."""

import socket
import ssl

from argon2 import PasswordHasher
from examples.raw_peers import GREET_LOGIN, login, request_by_name
from support.documentation import EXAMPLES
from support.programs import free_port, twistd
from support.targets import Target, echo, read_exactly
from support.workers import PATIENCE, settles

HASHER = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)
USERS = [f"user{number:02}" for number in range(1, 31)]
FILES = ("key.pem", "cert.pem", "users")


def reply(client, user, host, port):
    """The reply code that a user gets for a target."""
    client.settimeout(PATIENCE)
    client.sendall(GREET_LOGIN)
    assert read_exactly(client, 2) == b"\x05\x02"
    client.sendall(login(user.encode(), user.encode()))
    assert read_exactly(client, 2) == b"\x01\x00"
    client.sendall(request_by_name(host, port))
    return read_exactly(client, 10)[1]


def test_the_team_of_the_how_to_is_served(program, socks5ext, authority, tmp_path):
    # A proxy stands for tor's SOCKS port, and nothing for its control port.
    tor = socks5ext()
    secure, plain = free_port(), free_port()
    text = (EXAMPLES / "team.toml").read_text()
    for name in FILES:
        text = text.replace(name, str(tmp_path / name))
    for shown, port in {"1443": secure, "tcp:1080": f"tcp:{plain}", "9050": tor.port, "9051": free_port()}.items():
        assert shown in text
        text = text.replace(shown, str(port))
    path = tmp_path / "team.toml"
    path.write_text(text)
    pem = authority.issue("localhost")
    (tmp_path / "key.pem").write_bytes(pem)
    (tmp_path / "cert.pem").write_bytes(pem)
    (tmp_path / "users").write_text("".join(f"{name}:{HASHER.hash(name)}\n" for name in USERS))
    (tmp_path / "users").chmod(0o600)
    server = twistd(program, "--config", path, listen=[])
    assert settles(lambda: "; users: hashed; " in server.output)
    trusted = ssl.create_default_context(cadata=authority.pem.decode())
    # Python 3.13 asks for a key identifier, which the tests' certificates do not have.
    trusted.verify_flags &= ~ssl.VERIFY_X509_STRICT
    with Target(echo) as far:
        for user in USERS:
            with (
                socket.create_connection(("127.0.0.1", secure), timeout=PATIENCE) as inner,
                trusted.wrap_socket(inner, server_hostname="localhost") as client,
            ):
                assert reply(client, user, "localhost", far.port) == 0
                client.sendall(b"through")
                assert read_exactly(client, 7) == b"through"

        def reply_to(user, host, port):
            with socket.create_connection(("127.0.0.1", plain), timeout=PATIENCE) as client:
                return reply(client, user, host, port)

        assert settles(lambda: server.output.count("route=tor") == len(USERS))
        assert reply_to("user30", "mail.example", 25) == 2
        assert reply_to("user30", "127.0.0.1", far.port) == 2
        # Not connected directly, unlike what the rule for administrators does.
        assert reply_to("user30", "10.20.255.254", 80) == 2
    assert "warn" not in server.output.split("serves")[1].splitlines()[0]
