# `make help` says what there is.

VENV ?= .venv
# What is there already stays, unless another Python is asked for.
PYTHON ?= $(if $(wildcard $(VENV)/bin/python),$(VENV)/bin/python,python3)
# Further options of `twistd socks5ext`, for `make serve`.
OPTIONS ?=
# Which tests, and options of pytest, for `make test`.
TESTS ?=
# How many processes run them, much of which is waiting; 0: none but pytest's own.
JOBS ?= 3
# What to measure, all by default, and how many times, for `make bench`.
CASES ?=
ROUNDS ?= 5

PYTHON_VERSIONS = 3.10 3.11 3.12 3.13

# PROGRAM:PACKAGE, the real programs that tests run, and the Debian packages that have them.
PROGRAMS = curl:curl tor:tor tor-gencert:tor obfs4proxy:obfs4proxy snowflake-client:snowflake-client \
	microsocks:microsocks danted:dante-server haproxy:haproxy nc.openbsd:netcat-openbsd sshd:openssh-server ssh:openssh-client dot:graphviz \
	fail2ban-regex:fail2ban openssl:openssl ip:iproute2 logrotate:logrotate \
	ncat:ncat socat:socat connect-proxy:connect-proxy corkscrew:corkscrew proxychains4:proxychains4 wget:wget git:git tinyproxy:tinyproxy privoxy:privoxy

# The same of the programs that only `make test-peers` runs. PyPI's and npm's are listed in tests/peers.
PEERS = chromium:chromium curl:curl node:nodejs npm:npm plink:putty-tools connect-proxy:connect-proxy microsocks:microsocks \
	redis-server:redis-server sshd:openssh-server ssh-keygen:openssh-client

# A daemon's program is often outside the PATH of a plain user.
export PATH := $(PATH):/usr/local/sbin:/usr/sbin:/sbin
export PIP_DISABLE_PIP_VERSION_CHECK := 1

# pyenv puts a python3.X on PATH for each version that it has, and lets only the chosen ones run.
define find_python
find_python() { \
	if "$$1" -c "" 2>/dev/null; then echo "$$1"; \
	elif command -v pyenv >/dev/null 2>&1; then \
		for each in $$(pyenv versions --bare | grep "^$${1#python}\."); do \
			PYENV_VERSION=$$each pyenv which "$$1" 2>/dev/null; \
		done | tail -n 1; \
	fi; \
}
endef

INTERPRETER := $(shell $(find_python); find_python "$(PYTHON)")
PRINT_VERSION = 'import sys; print("%d.%d" % sys.version_info[:2])'
PYTHON_VERSION := $(if $(INTERPRETER),$(shell $(INTERPRETER) -c $(PRINT_VERSION)))

# Each stamp is an empty file that is as old as the step that it stands for.
MADE = $(VENV)/.made-with-python$(PYTHON_VERSION)
INSTALLED = $(VENV)/.installed-python$(PYTHON_VERSION)
INSTALLED_FOR_TESTS = $(VENV)/.installed-for-tests-python$(PYTHON_VERSION)
INSTALLED_FOR_PEERS = $(VENV)/.installed-for-peers-python$(PYTHON_VERSION)
INSTALLED_FOR_BENCH = $(VENV)/.installed-for-bench-python$(PYTHON_VERSION)

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help serve test test-all test-peers peers programs lint pytest coverage bench docs clean

help:
	@echo "make serve     run a proxy on 127.0.0.1:1080; make serve OPTIONS=\"--route '*.onion=refuse'\""
	@echo "make test      lint, types and all tests; make test TESTS=\"tests/test_packaging.py -k wheel\""
	@echo "make test-all  the tests, with each Python of $(PYTHON_VERSIONS) that is here"
	@echo "make test-peers  tests with browsers, Node and applications, which it installs; writes docs/measured/peers.txt"
	@echo "make coverage  the tests, and what they do not reach"
	@echo "make lint      ruff, mypy and import-linter alone"
	@echo "make bench     the speed, beside others; make bench CASES=\"connections bulk\" ROUNDS=7"
	@echo "make docs      the documentation, in docs/_build/html"
	@echo "make clean     remove all that these commands made, $(VENV) too"
	@echo
	@echo "Everything is installed in $(VENV), which is made when it is missing. PYTHON=python3.12 make ..."
	@echo "chooses another Python. As root, make test also installs the Debian packages whose programs the"
	@echo "tests run; on a machine with systemd, installing those starts tor, dante, haproxy and sshd as"
	@echo "services, which the tests do not need: there, install them yourself first."

serve: $(INSTALLED)
	exec $(VENV)/bin/twistd -n --pidfile= socks5ext $(OPTIONS)

test: programs lint pytest

lint: $(INSTALLED_FOR_TESTS)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy -p txsocksx_ext
	$(VENV)/bin/lint-imports

pytest: $(INSTALLED_FOR_TESTS)
	@# Tests start hundreds of programs, and the environment may keep Python from writing this itself.
	@$(VENV)/bin/python -m compileall -q txsocksx_ext twisted/plugins tests
	$(VENV)/bin/python -m pytest --numprocesses=$(JOBS) --dist=loadfile --no-loadscope-reorder $(MEASURE) $(TESTS)

# Not in `make test`: to measure takes about as long as the tests themselves.
coverage: MEASURE = --cov --cov-report=
coverage: pytest
	$(VENV)/bin/coverage report --show-missing --skip-covered --fail-under=93

# Goes on after a failure, and says at the end which versions failed.
test-all: programs $(MADE)
	@$(find_python); failed=; tested=; \
	for version in $(PYTHON_VERSIONS); do \
		python=$$(find_python python$$version); \
		if [ -z "$$python" ]; then echo "there is no python$$version here"; continue; fi; \
		echo "== Python $$version"; \
		tested="$$tested $$version"; \
		$(MAKE) --no-print-directory pytest PYTHON="$$python" VENV="$(VENV)/all/$$version" || failed="$$failed $$version"; \
	done; \
	echo "tested with:$$tested; failed with:$${failed:- none}"; \
	test -n "$$tested" -a -z "$$failed"

# In an environment of their own: some applications need other versions of Twisted than the newest. The table is
# written by a run of all of them.
test-peers: programs
	@$(MAKE) --no-print-directory peers VENV="$(VENV)/peers"

test-peers: PROGRAMS = $(PEERS)

peers: $(INSTALLED_FOR_PEERS)
	$(VENV)/bin/python -m pytest $(or $(TESTS),tests/peers --write-peers=docs/measured/peers.txt)

# The documentation is written with WRITE_TABLES=1.
bench: PROGRAMS = microsocks:microsocks danted:dante-server haproxy:haproxy
bench: programs $(INSTALLED_FOR_BENCH)
	PYTHONPATH=tests $(VENV)/bin/python -m bench $(CASES) --rounds $(ROUNDS) $(if $(WRITE_TABLES),--write)

docs: $(INSTALLED_FOR_TESTS)
	$(VENV)/bin/python -m sphinx -W --keep-going -b html docs docs/_build/html

clean:
	rm -rf $(VENV) build dist *.egg-info docs/_build .coverage .hypothesis .mypy_cache .pytest_cache .ruff_cache
	rm -f twisted/plugins/dropin.cache twistd.pid twistd.log*
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(MADE):
	@test -n "$(PYTHON_VERSION)" || { echo "$(PYTHON) does not run here: name a Python from 3.10 on, as in" \
		"PYTHON=python3.12 make $(MAKECMDGOALS)" >&2; exit 1; }
	@# Of another Python: made anew.
	@test "$$($(VENV)/bin/python -c $(PRINT_VERSION) 2>/dev/null)" = "$(PYTHON_VERSION)" || \
		{ echo "making $(VENV) with $$($(INTERPRETER) --version)"; $(INTERPRETER) -m venv --clear $(VENV); }
	$(VENV)/bin/python -m pip install --quiet --quiet --upgrade pip
	@touch $@

$(INSTALLED): $(MADE) setup.cfg setup.py
	$(VENV)/bin/python -m pip install --quiet --quiet --editable ".[examples]"
	@touch $@

$(INSTALLED_FOR_TESTS): $(MADE) setup.cfg setup.py
	$(VENV)/bin/python -m pip install --quiet --quiet --editable ".[test,dev,docs]"
	@touch $(INSTALLED) $@

$(INSTALLED_FOR_PEERS): $(MADE) setup.cfg setup.py tests/peers/requirements.txt tests/peers/package.json
	$(VENV)/bin/python -m pip install --quiet --quiet --editable ".[test]" --requirement tests/peers/requirements.txt
	cp tests/peers/package.json $(VENV)
	npm install --prefix $(VENV) --no-package-lock --no-audit --no-fund --loglevel=error
	@touch $(INSTALLED) $@

$(INSTALLED_FOR_BENCH): $(MADE) setup.cfg setup.py
	$(VENV)/bin/python -m pip install --quiet --quiet --editable ".[test,bench]"
	@touch $(INSTALLED) $@

# Where it cannot install, it only says what is missing: tests skip a missing program, and fail where CI is set.
programs:
	@missing() { for each in $(PROGRAMS); do command -v $${each%%:*} >/dev/null || echo $${each#*:}; done | sort -u | xargs; }; \
	packages=$$(missing); \
	if [ -n "$$packages" ] && [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
		export DEBIAN_FRONTEND=noninteractive; \
		install="apt-get install --quiet --yes --no-install-recommends $$packages"; \
		echo "$$install"; \
		$$install </dev/null || { apt-get update --quiet; $$install </dev/null; } || true; \
		packages=$$(missing); \
	fi; \
	if [ -n "$$packages" ]; then \
		echo "Programs are missing that tests or the bench run. To install them: sudo apt-get install $$packages"; \
	fi
