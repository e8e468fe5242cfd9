# creche: `make demo` runs the example app, `make test` the tests. Both set everything up that they need, in .venv.

PYTHON ?= python3
PYTEST ?=
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.installed
# With CRECHE_NO_SKIPS set a skipped test is a failed one.
STRICT := $(if $(CRECHE_NO_SKIPS),-p tests.no_skips)

.DEFAULT_GOAL := help
.PHONY: help venv demo test vm long bench check clean

help:
	@echo "make venv    create $(VENV) and install creche into it, with what its tests need"
	@echo "make demo    run configs/hello.toml in the foreground; Ctrl-C ends it (needs root)"
	@echo "make test    run the tests (needs root for those of the real kernel)"
	@echo "make vm      run tests in a virtual machine with pure cgroup v2; VM=\"tests/kernel/… -k word\" chooses which"
	@echo "make long    run the long tests: soaks, attacks, kills"
	@echo "make bench   starts beside runc and unshare, cycles, restarts (needs root, runc, gcc)"
	@echo "make check   run the linter, the formatter's check and the type checker"
	@echo "make clean   remove $(VENV) and caches"

venv: $(READY)

# compat: one directory on the path instead of an import hook, which would cost every command time.
$(READY): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "creche needs Python 3.11 or newer; $$($(PYTHON) --version) was found; try: make PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip' || \
		{ echo "this Python has no ensurepip; on Debian: apt-get install python3-venv" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check \
		--editable '.[test]' --config-settings editable_mode=compat
	@touch $@

# State goes to /var/lib/creche, sockets to /run/creche, so that `.venv/bin/creche ps` elsewhere sees the app.
demo: venv
	@echo "Running configs/hello.toml. In another terminal: curl 127.0.0.1:8080, $(BIN)/creche ps. Ctrl-C ends it."
	@exec $(BIN)/creche up configs/hello.toml

test: venv
	$(BIN)/python -m pytest $(STRICT) -m "not long" $(PYTEST)

# What it runs is in tests/vm/README.md.
vm: venv
	$(BIN)/python -m tests.vm.machine $(VM)

long: venv
	$(BIN)/python -m pytest $(STRICT) -m long $(PYTEST)

bench: venv
	$(BIN)/python tests/bench/starts.py $(BENCH)
	$(BIN)/python tests/bench/cycles.py
	$(BIN)/python tests/bench/restarts.py

check: venv
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/basedpyright

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .ruff_cache .hypothesis .cache
