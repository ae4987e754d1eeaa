"""The pages of the documentation: they build, and say of the code what the code says."""

import configparser
import doctest
import importlib
import inspect
import re
import shlex
import subprocess
import sys
from itertools import combinations
from pathlib import Path
from xml.etree import ElementTree

import pytest
from support.documentation import DOCS, EXAMPLES, README, ROOT, TEXTS, relative
from support.programs import IN_CI, need
from twisted.internet.ssl import KeyPair

import txsocksx_ext
from txsocksx_ext import errors
from txsocksx_ext.cli import main
from txsocksx_ext.failures import reply_class
from txsocksx_ext.protocol.codes import REPLY_CODES, SUCCEEDED
from txsocksx_ext.protocol.socks5 import TRANSITIONS
from txsocksx_ext.server.passwords import password_line
from txsocksx_ext.tap import Options

OF_OTHER_PROGRAMS = {
    "--connection-string",
    *("--socks5-hostname", "--proxy-user"),  # curl
    *("--proxytunnel", "--proxy", "--silent", "--include", "--request", "--request-target"),
    *("--bind",),  # http.server
    *("--pidfile", "--logfile", "--logger", "--syslog", "--log-format"),  # twistd, twist
}


def need_package(name):
    """In CI a missing package is a failure; elsewhere the test is skipped."""
    try:
        return importlib.import_module(name)
    except ImportError:
        if IN_CI:
            pytest.fail(f"the package {name} is missing")
        pytest.skip(f"the package {name} is missing")


# The pages.


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The folder of the built pages."""
    need_package("sphinx")
    need_package("furo")
    folder = tmp_path_factory.mktemp("docs")
    finished = subprocess.run(
        [
            *(sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-E", "-b", "html"),
            *("-d", folder / "doctrees", DOCS, folder / "html"),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert finished.returncode == 0, finished.stdout
    return folder / "html"


def test_every_page_is_built(built):
    expected = {page.relative_to(DOCS).with_suffix(".html") for page in TEXTS if page != README}
    assert {page for page in expected if not (built / page).exists()} == set()


SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture(scope="module")
def diagram(built):
    """The diagram of the conversation."""
    page = (built / "protocol.html").read_text()
    return ElementTree.fromstring(re.search(r"<svg [^>]*The states of the conversation.*?</svg>", page, re.S)[0])


def test_the_diagram_shows_every_state_and_outcome(diagram):
    words = [text.text for text in diagram.iter(f"{SVG}text")]
    reached = {to for turn in TRANSITIONS.values() for to in turn.outcomes.values()}
    assert {state.value for state in {*TRANSITIONS, *reached}} <= set(words)
    assert {f"{turn.sender.value}: {turn.message.__name__}" for turn in TRANSITIONS.values()} <= set(words)
    outcomes = [name for turn in TRANSITIONS.values() for name in turn.outcomes]
    arrows = [path for path in diagram.iter(f"{SVG}path") if path.get("class") == "outcome"]
    assert len(arrows) == len(outcomes)
    assert sorted(word for word in words if word in outcomes) == sorted(name for name in outcomes if name != "sent")


def test_no_two_boxes_of_the_diagram_overlap(diagram):
    boxes = [[float(rect.get(name)) for name in ("x", "y", "width", "height")] for rect in diagram.iter(f"{SVG}rect")]
    overlapping = [
        (one, other)
        for one, other in combinations(boxes, 2)
        if all(one[axis] < other[axis] + other[axis + 2] and other[axis] < one[axis] + one[axis + 2] for axis in (0, 1))
    ]
    assert len(boxes) > len(TRANSITIONS)
    assert overlapping == []


def test_the_errors_page_has_every_exception(built):
    page = (built / "errors.html").read_text()
    exceptions = [
        name
        for name, value in vars(errors).items()
        if inspect.isclass(value) and issubclass(value, Exception) and value.__module__ == errors.__name__
    ]
    assert len(exceptions) > 30
    assert [name for name in exceptions if f">{name}<" not in page] == []


def test_the_page_on_http_has_the_answer_to_every_failure(built):
    page = re.sub(r"<[^>]+>", "", (built / "howto/http.html").read_text())
    for row in set(REPLY_CODES) - {SUCCEEDED}:
        assert f"({row.name})" in page
        assert f"\n{reply_class(row.number, row.dialect).__name__}\n" in page


def test_the_options_page_has_every_option(built):
    page = re.sub(r"<[^>]+>", "", (built / "options.html").read_text())
    assert [name for name in Options().longOpt if name not in ("help", "version") and f"--{name}" not in page] == []


@pytest.mark.parametrize("module", ["txsocksx_ext", "txsocksx_ext.pt", "txsocksx_ext.testing", "txsocksx_ext.tor"])
def test_the_reference_has_every_public_name(built, module):
    page = (built / "api.html").read_text()
    names = importlib.import_module(module).__all__
    missing = [name for name in names if f'id="{module}.{name}"' not in page and name.upper() != name]
    assert missing == []


def options_in(text):
    return set(re.findall(r"(?<![\w-])--[a-z][a-z0-9-]+", text))


def test_only_options_that_exist_are_named(capsys):
    with pytest.raises(SystemExit):
        main(["run", "--help"])
    of_run = options_in(capsys.readouterr().out)
    known = {f"--{name.rstrip('=')}" for name in Options().longOpt} | of_run | OF_OTHER_PROGRAMS
    for text in TEXTS:
        named = options_in(text.read_text())
        assert named - known == set(), relative(text)


def test_the_dependencies_page_names_exactly_what_is_required():
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    requirements = [setup["options"]["install_requires"], *setup["options.extras_require"].values()]
    required = {re.match(r"[\w.-]+", line)[0] for lines in requirements for line in lines.split("\n") if line.strip()}
    page = (DOCS / "dependencies.rst").read_text()
    rows = re.findall(r"^   \* - (.*)", page, re.M)
    named = {re.match(r"[\w.-]+", name)[0] for row in rows for name in re.findall(r"``([^`]+)``", row)}
    assert named == required


def test_the_changelog_has_one_entry_until_something_is_released():
    page = (DOCS / "changelog.rst").read_text()
    assert re.findall(r"^(.+)\n-+$", page, re.M) == [f"{txsocksx_ext.__version__} (unreleased)"]


# The README.


def test_the_readme_is_plain_restructuredtext():
    """As package indexes want it: no directive of Sphinx's, no warning."""
    core = need_package("docutils.core")
    said = []
    core.publish_doctree(
        README.read_text(),
        settings_overrides={
            "report_level": 1,
            "halt_level": 5,
            "file_insertion_enabled": False,
            "raw_enabled": False,
            "warning_stream": type("Warnings", (), {"write": lambda _, text: said.append(text)})(),
        },
    )
    assert said == []


# Commands and texts.


def server_commands():
    """Every command line of our server in the texts: where it stands, and its options."""
    commands = []
    for text in [*TEXTS, EXAMPLES / "socks5ext.service"]:
        for line in text.read_text().splitlines():
            found = re.match(r"\s*(?:\$ |ExecStart=)\S*twistd? (?:-\S+ )*socks5ext(.*)", line)
            if found:
                commands.append((relative(text), found[1].partition(" #")[0]))
            found = re.match(r'\s+make serve OPTIONS="(.*)"$', line)
            if found:
                commands.append((relative(text), found[1]))
    return commands


@pytest.fixture(scope="module")
def named_files():
    """What the files have in them that commands name."""
    pair = KeyPair.generate(size=2048)
    return {
        "users": password_line("alice", "secret").encode(),
        "password": b"secret\n",
        "team.toml": (EXAMPLES / "team.toml").read_bytes(),
        "key.pem": pair.dump(1),
        "cert.pem": pair.selfSignedCert(1, commonName="localhost").dumpPEM(),
    }


@pytest.mark.parametrize(("text", "options"), server_commands())
def test_the_command_is_one(text, options, tmp_path, monkeypatch, named_files):
    for program in re.findall(r"exec=(?:/usr/bin/)?(\w+)", options):
        need(program)
    monkeypatch.chdir(tmp_path)
    for name, content in named_files.items():
        Path(name).write_bytes(content)
    parsed = Options()
    if "--check" in options:
        with pytest.raises(SystemExit) as ended:
            parsed.parseOptions(shlex.split(options))
        assert ended.value.code == 0
    else:
        parsed.parseOptions(shlex.split(options))
        assert parsed.service


def test_commands_are_found():
    assert {relative(README), "docs/howto/server.rst", "docs/routes.rst"} <= {text for text, _ in server_commands()}


@pytest.mark.parametrize(
    "page", [page for page in TEXTS if re.search(r"^ +>>> ", page.read_text(), re.M)], ids=relative
)
def test_the_dialogues_of_the_page(page):
    failed, tried = doctest.testfile(str(page), module_relative=False, optionflags=doctest.ELLIPSIS)
    assert tried
    assert not failed
