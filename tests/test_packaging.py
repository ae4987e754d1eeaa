"""The package as its users get it: built and installed in every way, in environments of their own."""

import importlib
import json
import os
import shutil
import socket
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from email.parser import HeaderParser
from importlib import metadata
from pathlib import Path

import pytest
from support.programs import IN_CI, free_port

import txsocksx_ext
from txsocksx_ext.server.passwords import password_line

REPOSITORY = Path(__file__).parent.parent
PLUGIN = "twisted/plugins/txsocksx_ext_plugins.py"
OF_TWISTED = {"twisted", "zope", "txtorcon"}
TWISTD = ("-c", "from twisted.scripts.twistd import run; run()")


def run(*command, cwd):
    """What a command prints, if it succeeds."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        list(map(str, command)),
        cwd=cwd,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def need_distribution(name, least=0):
    """Fail in CI, and skip elsewhere, where a tool of the extras is missing or too old."""
    try:
        enough = int(metadata.version(name).partition(".")[0]) >= least
    except metadata.PackageNotFoundError:
        enough = False
    if not enough:
        message = f"{name} is missing or too old: pip install --upgrade {name}"
        if IN_CI:
            pytest.fail(message)
        pytest.skip(message)


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    return tmp_path_factory.mktemp("packaging")


@pytest.fixture(scope="module")
def source(workplace):
    """A copy of the project, because to build is to write. It holds what must never be packed."""
    need_distribution("setuptools", 77)
    folder = workplace / "source"
    for name in ("txsocksx_ext", "twisted", "tests"):
        shutil.copytree(REPOSITORY / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", "dropin.cache"))
    for name in ("setup.cfg", "setup.py", "LICENSE", "README.rst"):
        shutil.copy(REPOSITORY / name, folder)
    (folder / "twisted" / "plugins" / "dropin.cache").write_bytes(b"of this machine")
    return folder


@pytest.fixture(scope="module")
def wheel(workplace, source):
    return build_wheel(source, workplace / "wheel")


@pytest.fixture(scope="module")
def sdist(workplace, source):
    need_distribution("build")
    folder = workplace / "sdist"
    run(sys.executable, "-m", "build", "--sdist", "--no-isolation", "--outdir", folder, source, cwd=workplace)
    (found,) = folder.iterdir()
    return found


def build_wheel(source, folder):
    folder.mkdir()
    pip("wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", folder, source, cwd=folder)
    (found,) = folder.iterdir()
    return found


def pip(*arguments, cwd, python=sys.executable):
    return run(sys.executable, "-m", "pip", "--python", python, "--quiet", *arguments, cwd=cwd)


def contents(wheel):
    """The files of a wheel, by name."""
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


class Environment:
    """
    A new virtual environment, with a Twisted of its own beside which plugins are installed.

    All else comes from the environment of the tests, without what is installed there in editable form.
    """

    def __init__(self, folder):
        venv.create(folder, symlinks=True)
        self.python = folder / "bin" / "python"
        self.elsewhere = folder / "elsewhere"
        self.elsewhere.mkdir()
        where = run(self.python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=folder)
        self.site_packages = Path(where.strip())
        shutil.copytree(
            importlib.import_module("twisted").__path__[0],
            self.site_packages / "twisted",
            ignore=shutil.ignore_patterns("test", "dropin.cache", "txsocksx_ext*"),
        )
        others = dict.fromkeys(sysconfig.get_path(kind) for kind in ("purelib", "platlib"))
        (self.site_packages / "others.pth").write_text("\n".join(others))

    def pip(self, *arguments):
        pip(*arguments, cwd=self.elsewhere, python=self.python)

    def install(self, *what):
        self.pip("install", "--no-deps", "--no-index", "--no-build-isolation", *what)

    def uninstall(self):
        self.pip("uninstall", "--yes", "txsocksx-ext")

    def run(self, *arguments, cwd=None):
        return run(self.python, *arguments, cwd=cwd or self.elsewhere)

    def files(self):
        """What is installed, without the caches that Python and Twisted write when they are used."""
        return {
            path
            for path in self.site_packages.rglob("*")
            if path.name != "dropin.cache" and "__pycache__" not in path.parts
        }


@pytest.fixture
def environment(tmp_path):
    return Environment(tmp_path / "environment")


def test_the_wheel_holds_all_of_the_package_and_nothing_else(source, wheel):
    expected = {
        path.relative_to(source).as_posix()
        for path in (source / "txsocksx_ext").rglob("*")
        if path.suffix in (".py", ".html") or path.name == "py.typed"
    }
    assert "txsocksx_ext/py.typed" in expected
    packed = {name for name in contents(wheel) if ".dist-info/" not in name}
    # In particular no twisted/__init__.py, no twisted/plugins/__init__.py and no dropin.cache: they are Twisted's.
    assert packed == expected | {PLUGIN}


def test_the_wheel_says_what_it_is(wheel):
    files = contents(wheel)
    (name,) = (name for name in files if name.endswith(".dist-info/METADATA"))
    headers = HeaderParser().parsestr(files[name].decode())
    assert wheel.name == f"txsocksx_ext-{txsocksx_ext.__version__}-py3-none-any.whl"
    assert headers["Requires-Python"] == ">=3.10"
    assert headers["License-File"] == "LICENSE"
    assert any(name.endswith("/LICENSE") for name in files)
    assert headers.get_payload().strip() == (REPOSITORY / "README.rst").read_text("utf-8").strip()


def test_the_sdist_builds_the_same_wheel(workplace, sdist, wheel):
    with tarfile.open(sdist) as archive:
        archive.extractall(workplace / "unpacked", **({"filter": "data"} if hasattr(tarfile, "data_filter") else {}))
    (unpacked,) = (workplace / "unpacked").iterdir()
    assert not list(unpacked.rglob("dropin.cache"))
    assert not list((unpacked / "twisted").rglob("__init__.py"))
    assert contents(build_wheel(unpacked, workplace / "wheel from sdist")) == contents(wheel)


@pytest.mark.parametrize("way", ["wheel", "editable"])
def test_an_installation_is_found_by_twisted_and_leaves_nothing_behind(request, way, environment, tmp_path, program):
    before = environment.files()
    assert "socks5ext" not in environment.run(*TWISTD, "--help")
    if way == "editable":
        checkout = tmp_path / "checkout"
        shutil.copytree(request.getfixturevalue("source"), checkout, ignore=shutil.ignore_patterns("*.egg-info"))
        (checkout / "twisted" / "plugins" / "dropin.cache").unlink()
        environment.install("--editable", checkout)
        home = checkout
        # Where a folder named twisted stands, it must not hide Twisted.
        assert "socks5ext" in environment.run("-m", "twisted", "--help", cwd=checkout)
    else:
        environment.install(request.getfixturevalue(way))
        home = environment.site_packages

    assert "socks5ext" in environment.run(*TWISTD, "--help")
    assert "socks5ext" in environment.run("-m", "twisted", "--help")
    check_that_it_serves(environment, tmp_path, program)
    assert Path(environment.run("-c", ENDPOINT_OF_A_STRING).strip()).is_relative_to(home / "txsocksx_ext")

    environment.uninstall()
    assert environment.files() == before
    assert not list(environment.site_packages.rglob("*txsocksx*"))
    commands = environment.run(*TWISTD, "--help")
    assert "socks5ext" not in commands
    assert " web " in commands


ENDPOINT_OF_A_STRING = r"""
import sys
from twisted.internet import reactor
from twisted.internet.endpoints import clientFromString
endpoint = clientFromString(reactor, r"socks5ext:example.com:80:proxy=tcp\:127.0.0.1\:1080")
print(sys.modules[type(endpoint).__module__].__file__)
"""


def check_that_it_serves(environment, folder, program):
    """The service, with our checker of credentials, answers a client."""
    passwords = folder / "passwords"
    passwords.write_text(password_line("alice", "secret") + "\n")
    port = free_port()
    server = program(
        [
            *(environment.python, *TWISTD, "-n", "--pidfile="),
            *("socks5ext", f"--listen=tcp:{port}:interface=127.0.0.1", f"--auth=hashed:{passwords}"),
        ],
        port=port,
        cwd=environment.elsewhere,
    )
    try:
        for password, status in ((b"secret", b"\x01\x00"), (b"wrong", b"\x01\x01")):
            with socket.create_connection(("127.0.0.1", port), timeout=20) as client:
                client.sendall(b"\x05\x01\x02")
                assert client.recv(2) == b"\x05\x02"
                client.sendall(b"\x01\x05alice" + bytes([len(password)]) + password)
                assert client.recv(2) == status
    finally:
        server.stop()


def modules_loaded_by(code, folder):
    """The names of the modules that a new Python loads when it runs `code`."""
    # Some are there from the start: zope's name space, in older releases.
    framed = f"import json, sys\nbefore = set(sys.modules)\n{code}\nprint(json.dumps(list(set(sys.modules) - before)))"
    return set(json.loads(run(sys.executable, "-c", framed, cwd=folder).splitlines()[-1]))


def test_twistd_does_not_load_the_package_to_list_its_commands(tmp_path):
    code = (
        "from twisted.scripts.twistd import ServerOptions\n"
        "assert 'socks5ext' in str(ServerOptions())\n"
        "import twisted.plugins.txsocksx_ext_plugins"
    )
    # In a new environment, the first that asks imports all plugins, Twisted's too, and notes what they are.
    modules_loaded_by(code, tmp_path)
    modules = modules_loaded_by(code, tmp_path)
    heavy = {"txtorcon", "argon2", "idna", "OpenSSL", "cryptography", "automat"}
    assert not {name for name in modules if name.partition(".")[0] in {*heavy, "txsocksx_ext"}}


def test_importing_the_package_loads_nothing_of_twisted(tmp_path):
    modules = modules_loaded_by("import txsocksx_ext", tmp_path)
    assert not {name for name in modules if name.partition(".")[0] in OF_TWISTED}


def test_the_protocols_without_io_load_nothing_of_twisted(tmp_path):
    modules = modules_loaded_by(
        "import importlib, pkgutil\n"
        "import txsocksx_ext.protocol as package\n"
        "for each in pkgutil.iter_modules(package.__path__, package.__name__ + '.'):\n"
        "    importlib.import_module(each.name)",
        tmp_path,
    )
    assert {"txsocksx_ext.protocol.decoding", "txsocksx_ext.protocol.socks5"} <= modules
    assert not {name for name in modules if name.partition(".")[0] in OF_TWISTED}


def test_every_public_name_is_there():
    for name in txsocksx_ext.__all__:
        assert getattr(txsocksx_ext, name) is not None
    with pytest.raises(AttributeError, match="no_such_name"):
        txsocksx_ext.no_such_name  # noqa: B018


def test_mypy_sees_the_types_of_an_installed_package(environment, wheel, tmp_path):
    need_distribution("mypy")
    environment.install(wheel)
    program = tmp_path / "program.py"
    names = txsocksx_ext.__all__
    lines = ["import txsocksx_ext", *(f"reveal_type(txsocksx_ext.{name})" for name in names)]
    program.write_text("\n".join([*lines, "txsocksx_ext.SOCKS5ClientEndpoint('example.com', '80', None)"]))
    # Not the project's settings: those who use the package have none, and no plugin for zope's interfaces.
    command = ["-m", "mypy", "--config-file=", "--strict", "--python-executable", environment.python]
    caches = ["--cache-dir", tmp_path / "cache"]
    done = subprocess.run(
        list(map(str, [sys.executable, *command, *caches, program])), cwd=tmp_path, capture_output=True, text=True
    )
    assert not done.stderr
    notes = [line.partition("Revealed type is ")[2] for line in done.stdout.splitlines() if ": note: " in line]
    assert len(notes) == len(names), done.stdout
    # What is not imported for type checkers, beside being found at run time, is Any.
    assert not [name for name, note in zip(names, notes, strict=True) if note == '"Any"']
    (error,) = (line for line in done.stdout.splitlines() if ": error: " in line)
    assert error.endswith('incompatible type "str"; expected "int"  [arg-type]')
