# make run    a daemon on embedded defaults with status page, on a fresh Debian 12 or 13 with git, make and python3
# make test   everything: lint, types, tests with real Postfix (as root), coverage
# make test-system  the Debian package on a booted Debian 13 (as root; minutes)
# make test-pythons  tests with the lowest and the newest versions of the libraries, and with Debian 13's (as root; minutes)
# make test-image  the interop scenarios with the daemon of the container image (as root, with buildah; minutes)
# make test-unit   the tests that start no process
# make generated   rewrite the files that are made from the code (manual, schema, example, completions)
# make lint, make bench, make clean
#
# ARGS is passed on: make run ARGS='-c my.yml', make test-unit ARGS='-k dane', make bench ARGS=--help

# For an empty environment: without PATH, python3 does not find its own files.
export PATH ?= /usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin

PYTHON ?= python3
VENV := .venv
VERSION := $(shell $(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null)
PIP = $(VENV)/bin/python -m pip --disable-pip-version-check -q

# Each stamp says what the virtual environment holds. A new Python or pyproject.toml makes it anew.
MADE := $(VENV)/made-with-python-$(VERSION)
RUNS := $(VENV)/runs
TESTS := $(VENV)/tests

.PHONY: run test test-unit test-system test-pythons test-image lint generated bench clean
.DELETE_ON_ERROR:

# Without ARGS, the admin socket and the status page are opened too, for trying the program out.
ADMIN_SOCKET := $(CURDIR)/$(VENV)/admin.sock
TRY := MTASTS_ADMIN__SOCKET='$(ADMIN_SOCKET)' MTASTS_ADMIN__LISTEN=127.0.0.1:8463

run: $(RUNS)
	@[ -n '$(ARGS)' ] || printf '%s\n' 'Status page: http://127.0.0.1:8463/' 'Try in another terminal:' \
	  '  $(VENV)/bin/mtastsctl query gmail.com' \
	  '  $(VENV)/bin/mtastsctl --socket $(VENV)/admin.sock explain --live gmail.com' \
	  '  $(VENV)/bin/mtastsctl --socket $(VENV)/admin.sock status'
	@[ -z '$(ARGS)' ] || exec $(VENV)/bin/python -m mtasts_daemon serve $(ARGS); \
	  exec env $(TRY) $(VENV)/bin/python -m mtasts_daemon serve

# The machines with real Postfix take minutes the first time, so not inside a test. Where they cannot be built
# (not root, not Debian), those tests are skipped and say so; CI goes without none.
test: lint $(VENV)/packages
	$(VENV)/bin/python -m tests.interop.prepare || [ -z "$$CI" ]
	$(VENV)/bin/coverage run -m pytest
	@$(VENV)/bin/coverage report --include='mtasts_daemon/policy/*,mtasts_daemon/postfix/socketmap.py,mtasts_daemon/postfix/tcp_table.py,mtasts_daemon/postfix/policy_table.py,mtasts_daemon/postfix/fixed_reply.py,mtasts_daemon/postfix/reply.py,mtasts_daemon/dns/message.py' --show-missing --skip-covered --fail-under=100

# What some tests show their results with. Without it they are skipped and say so; CI goes without none.
$(VENV)/packages: Makefile $(MADE)
	@$(call apt,mandoc man-db iproute2 chromium postgresql) || [ -z "$$CI" ]
	@$(promtool) || [ -z "$$CI" ]
	@touch $@

# DEB_TESTS=1: the unit suite, too, while the package is built from Debian 13's libraries.
test-system: $(TESTS)
	$(VENV)/bin/python -m pytest -s --timeout=1800 tests/system $(ARGS)

# ARGS=--all: all unit tests.
test-pythons: $(TESTS)
	$(VENV)/bin/python -m tests.system.pythons $(ARGS)

# BASE=... takes another Debian 13 image.
BASE = debian:trixie-slim
SCENARIOS = tests/interop/test_lookups.py tests/interop/test_scenarios.py tests/interop/test_honesty.py
test-image: $(TESTS)
	buildah build --isolation chroot --format docker --build-arg BASE=$(BASE) --tag mtasts-daemon .
	container=$$(buildah from mtasts-daemon) && trap "buildah rm $$container" EXIT && \
	  INTEROP_IMAGE=$$(buildah mount $$container) $(VENV)/bin/python -m pytest $(or $(ARGS),$(SCENARIOS))

# In two processes at once, each with half of the modules.
UNIT = $(VENV)/bin/python -m pytest -q -m 'not process and not interop'
test-unit: $(TESTS)
	@$(if $(ARGS),$(UNIT) $(ARGS),$(UNIT) -p no:cacheprovider --half 0 >$(VENV)/unit.log 2>&1 & first=$$!; \
	  trap "kill $$first" INT TERM; \
	  $(UNIT) -p no:cacheprovider --half 1; second=$$?; \
	  wait $$first; first=$$?; cat $(VENV)/unit.log; exit $$((first | second)))

lint: $(TESTS)
	$(VENV)/bin/ruff check
	$(VENV)/bin/ruff format --check
	$(VENV)/bin/mypy

generated: $(TESTS)
	PYTHONPATH=. $(VENV)/bin/python packaging/config_example.py >config.example.yml
	PYTHONPATH=. $(VENV)/bin/python packaging/man/config_manual.py >packaging/man/mtasts-daemon.yml.5
	PYTHONPATH=. $(VENV)/bin/python packaging/completions/make.py
	$(VENV)/bin/python -m mtasts_daemon schema >packaging/schema/mtasts-daemon.schema.json
	PYTHONPATH=. $(VENV)/bin/python packaging/findings_page.py >docs/findings.md

bench: $(TESTS)
	$(VENV)/bin/python -m tests.bench $(ARGS)

# The cache may hold interop machines: never follow what is mounted in them.
clean:
	rm -rf --one-file-system $(VENV) .cache .coverage .hypothesis .mypy_cache .pytest_cache .ruff_cache build dist
	find . -name __pycache__ -prune -exec rm -rf {} +

# pip 25.1 is the first with --group; Debian 12 has 23.0.
$(TESTS): $(RUNS)
	$(PIP) install --upgrade 'pip>=25.1'
	$(PIP) install --group test --group lint
	@touch $@

$(RUNS): pyproject.toml $(MADE)
	$(PIP) install --editable '.[uvloop]'
	@touch $@

$(MADE):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "make: mtasts-daemon needs Python 3.11 or later; $(PYTHON) is $(or $(VERSION),not there)." >&2; \
	    echo "make: with another one: make PYTHON=python3.13 ..." >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || $(call apt,python3-venv)
	$(PYTHON) -m venv --clear $(VENV)
	@touch $@

# promtool alone, out of its package: to install that would start a server before Debian 13, which has one for it.
define promtool
{ command -v promtool >/dev/null || [ -x .cache/tools/usr/bin/promtool ] || { \
  echo "make: unpacking promtool"; mkdir -p .cache/tools; cd .cache/tools; \
  { apt-get -qq download promtool || apt-get -qq download prometheus; } 2>/dev/null && \
  for package in prom*_*.deb; do dpkg -x "$$package" .; done; }; }
endef

# $(call apt,PACKAGES): install them, or say what to type.
define apt
{ as_root=; [ "$$(id -u)" = 0 ] || as_root="sudo -n"; \
  if ! command -v apt-get >/dev/null || ! $$as_root true 2>/dev/null; then \
    echo "make: $1 is missing. As root: apt-get update && apt-get install -y $1" >&2; exit 1; fi; \
  echo "make: installing $1"; \
  apt="$$as_root env DEBIAN_FRONTEND=noninteractive apt-get -qq -y"; \
  $$apt install $1 >/dev/null 2>&1 || { $$apt update && $$apt install $1 >/dev/null; }; }
endef
