"""Importing this package installs no reactor, and handlers of txtorcon's exceptions catch ours."""

import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parent.parent


def run_program(program, folder=REPOSITORY):
    """Run a program in a fresh interpreter; return what it prints."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", program],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


# No reactor.

IMPORT_ALL = """
import importlib, pkgutil, sys
import txsocksx_ext
names = [module.name for module in pkgutil.walk_packages(txsocksx_ext.__path__, "txsocksx_ext.")]
names.append("twisted.plugins.txsocksx_ext_plugins")
assert len(names) > 80, names
for name in names:
    if name.startswith("txsocksx_ext.contrib."):
        continue  # imports an application, which is an extra
    importlib.import_module(name)
    for loaded in ("twisted.internet.reactor", "txtorcon"):
        if loaded in sys.modules:
            sys.exit(f"{name} imports {loaded}")
for name in txsocksx_ext.__all__:
    getattr(txsocksx_ext, name)
from twisted.internet import asyncioreactor
asyncioreactor.install()
from twisted.internet import reactor
print(type(reactor).__name__)
"""


def test_importing_any_module_leaves_the_choice_of_the_reactor():
    assert run_program(IMPORT_ALL) == "AsyncioSelectorReactor"


@pytest.mark.parametrize(
    "module",
    ["txsocksx_ext.errors", "txsocksx_ext.testing", "txsocksx_ext.tor", "txsocksx_ext.pt", "txsocksx_ext.tap"],
)
def test_a_reactor_can_be_installed_after_a_module_was_imported_alone(module):
    install = "from twisted.internet import asyncioreactor; asyncioreactor.install(); print('installed')"
    assert run_program(f"import {module}\n{install}") == "installed"


def test_the_plugin_leaves_the_choice_of_the_reactor():
    program = """
from twisted.plugins.txsocksx_ext_plugins import socks5ext_service
assert "--auth" in socks5ext_service.options().getUsage()
from twisted.internet import asyncioreactor
asyncioreactor.install()
print("installed")
"""
    assert run_program(program) == "installed"


def test_errors_need_no_txtorcon():
    program = """
import sys
sys.modules["txtorcon"] = sys.modules["txtorcon.socks"] = None  # to import them fails
from txsocksx_ext.errors import HostUnreachable
from txsocksx_ext.failures import reply_error
from txsocksx_ext.protocol.codes import Dialect
try:
    raise reply_error(4, Dialect.PLAIN)
except HostUnreachable as error:
    print(error.code)
"""
    assert run_program(program).removeprefix("0x0") == "4"


# txtorcon's handlers.

SIBLINGS = """
SIBLINGS = {
    "GeneralServerFailure": "GeneralServerFailureError",
    "ConnectionNotAllowed": "ConnectionNotAllowedError",
    "NetworkUnreachable": "NetworkUnreachableError",
    "HostUnreachable": "HostUnreachableError",
    "ConnectionRefused": "ConnectionRefusedError",
    "TTLExpired": "TtlExpiredError",
    "CommandNotSupported": "CommandNotSupportedError",
    "AddressTypeNotSupported": "AddressTypeNotSupportedError",
    "OnionServiceNotFound": "HostUnreachableError",
    "OnionClientAuthRequired": "HostUnreachableError",
    "TransportTemporaryFailure": "GeneralServerFailureError",
    "MissingArgument": "GeneralServerFailureError",
    "AuthenticationFailed": "SocksError",
    "ProxyUnreachable": "SocksError",
}
"""
CATCH_ALL = (
    SIBLINGS
    + """
for ours, theirs in SIBLINGS.items():
    for handled in (theirs, "SocksError"):
        try:
            raise getattr(errors, ours)("said", code=7) if ours == "TTLExpired" else getattr(errors, ours)("said")
        except getattr(txtorcon.socks, handled) as error:
            assert (str(error), error.message) == ("said", "said"), error
    assert issubclass(getattr(errors, ours), getattr(txtorcon.socks, theirs))
others = {name for name in vars(txtorcon.socks) if name.endswith("Error")} - {"SocksError"}
assert others == set(SIBLINGS.values()) - {"SocksError"}, others
assert not issubclass(errors.ConnectionRefused, txtorcon.socks.HostUnreachableError)
print("all caught")
"""
)


@pytest.mark.parametrize(
    "imports",
    [
        "import txtorcon\nfrom txsocksx_ext import errors",
        "from txsocksx_ext import errors\nimport txtorcon",
        "from txsocksx_ext import errors\nimport txtorcon.socks",
        "from txsocksx_ext import errors\nfrom txtorcon.socks import SocksError\nimport txtorcon",
    ],
    ids=["txtorcon first", "ours first", "ours, then its socks", "ours, then one of its names"],
)
def test_handlers_of_txtorcons_exceptions_catch_ours(imports):
    assert run_program(imports + CATCH_ALL) == "all caught"


def test_txtorcon_may_be_imported_by_whoever_handles_the_exception():
    program = """
from txsocksx_ext import errors
async def application():
    # Made, and on its way, before this program has imported txtorcon.
    raise errors.HostUnreachable("before")
class OfTheApplication(errors.HostUnreachable, KeyError):
    pass
early = OfTheApplication("early")
coroutine = application()
try:
    try:
        coroutine.send(None)
    finally:
        from txtorcon.socks import HostUnreachableError
except HostUnreachableError as error:
    assert isinstance(error, errors.HostUnreachable)
    print(error, isinstance(early, HostUnreachableError))
"""
    assert run_program(program) == "before True"


@pytest.mark.parametrize(
    "bases",
    [
        "errors.HostUnreachable",
        "errors.HostUnreachable, KeyError",
        "KeyError, errors.OnionServiceNotReachable",
        "errors.HostUnreachable, OSError",
        "errors.OnionServiceNotFound, Mixin",
    ],
)
def test_subclasses_of_applications_are_caught_too(bases):
    program = f"""
from txsocksx_ext import errors
class Mixin:
    pass
class OfTheApplication({bases}):
    more = "kept"
import txtorcon
try:
    raise OfTheApplication("said")
except txtorcon.socks.HostUnreachableError as error:
    print(error.args[0], error.more)
"""
    assert run_program(program) == "said kept"


PICKLED = """
import pickle
from twisted.internet.error import ConnectionRefusedError
from txsocksx_ext import errors
from txsocksx_ext.failures import authentication_error, proxy_unreachable, reply_error
from txsocksx_ext.protocol.codes import Dialect, Method
from txsocksx_ext.protocol.pairs import Pairs
made = [
    errors.HostUnreachable("said"),
    reply_error(0xE0, Dialect.PROP229),
    reply_error(0x77, Dialect.PLAIN),
    errors.OnionServiceNotReachable(code=6).with_plain_code(6),
    errors.MissingArgument("said"),
    authentication_error(Method.EXTENDED, 2, Pairs({"ERROR": "why"})),
    proxy_unreachable(ConnectionRefusedError(111), "127.0.0.1:9"),
    errors.ProxyNotFound("said"),
]
def show(error):
    said = error.message, error.code, error.reply_code, error.retry, error.osError
    return type(error), str(error), error.args, getattr(error, "pairs", None), said
"""


@pytest.mark.parametrize("first", ["", "import txtorcon"], ids=["without txtorcon", "with txtorcon"])
@pytest.mark.parametrize("then", ["", "import txtorcon"], ids=["without txtorcon", "with txtorcon"])
def test_errors_are_pickled_and_copied_whole(first, then):
    program = f"""
{first}
{PICKLED}
import copy
pickled = pickle.dumps(made)
{then}
for before, after in zip(made, pickle.loads(pickled), strict=True):
    assert show(before) == show(after)
    assert show(before) == show(copy.copy(before))
print("equal")
"""
    assert run_program(program) == "equal"


def test_errors_of_a_program_with_txtorcon_are_unpickled_in_one_without():
    pickled = run_program(f"import txtorcon\n{PICKLED}\nprint(pickle.dumps(made).hex())")
    program = f"{PICKLED}\nprint([show(a) == show(b) for a, b in zip(made, pickle.loads(bytes.fromhex('{pickled}')))])"
    assert run_program(program) == str([True] * 8)


def test_a_stub_of_txtorcon_does_no_harm():
    program = """
import sys
from unittest.mock import MagicMock
sys.modules["txtorcon"] = sys.modules["txtorcon.socks"] = MagicMock()
from txsocksx_ext.errors import HostUnreachable
print(HostUnreachable("said"))
"""
    assert run_program(program) == "said"


def test_txtorcon_loads_as_it_does_without_us():
    program = """
from txsocksx_ext import errors
import importlib, inspect, txtorcon
spec = txtorcon.socks.__spec__
print(type(spec.loader).__name__, spec.loader is txtorcon.socks.__loader__, spec.name)
assert "class SocksError" in inspect.getsource(txtorcon.socks)
importlib.reload(txtorcon.socks)
try:
    raise errors.HostUnreachable
except txtorcon.socks.HostUnreachableError:
    print("caught")
"""
    assert run_program(program) == "SourceFileLoader True txtorcon.socks\ncaught"


def test_an_import_system_that_passes_over_ours_still_links():
    program = """
import sys
from importlib.machinery import PathFinder
from txsocksx_ext import errors
sys.meta_path.insert(0, PathFinder)
import txtorcon
try:
    raise errors.HostUnreachable("said")
except txtorcon.socks.HostUnreachableError as error:
    print(error)
"""
    assert run_program(program) == "said"


def test_a_failing_import_of_txtorcon_fails_as_it_does_without_us(tmp_path):
    package = tmp_path / "txtorcon"
    package.mkdir()
    (package / "__init__.py").write_text("from . import socks")
    (package / "socks.py").write_text("class SocksError(Exception): pass\nraise RuntimeError('broken')")
    program = """
import sys
from txsocksx_ext import errors
sys.path.insert(0, ".")
try:
    import txtorcon
except RuntimeError as error:
    print(error, "txtorcon.socks" in sys.modules, errors.HostUnreachable("said"))
"""
    assert run_program(program, tmp_path) == "broken False said"
