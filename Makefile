# `make demo` and `make test` need Python 3.11+, make and a package registry; everything else they install into .venv.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
WORKERS ?= 2
# Its wheel and node's carry all that it runs; without this it would ask whether there is a newer version.
PYRIGHT := PYRIGHT_PYTHON_IGNORE_WARNINGS=1 $(BIN)/pyright --pythonpath $(BIN)/python

.PHONY: help demo test lint docs fuzz chaos bench bench-quick bench-compare format clean

help:
	@echo "make demo    several processes share state and fire triggers on an embedded Redis"
	@echo "make test    lint, types and all tests, against a real server (about 6 minutes)"
	@echo "make lint    only lint and types"
	@echo "make docs    the documentation site, into build/docs"
	@echo "make fuzz    random updates against an independent model, and a search for the most expensive ones: CASES=200000 SEED=1, or SECONDS=60"
	@echo "make chaos   the long runs of the fault tests: kills, pauses, bad networks, fail-overs, a million keys (about 9 minutes)"
	@echo "make bench   run all benchmarks with their rivals (under 25 minutes), write benchmarks/README.md: ONLY=\"calls triggers\""
	@echo "make bench-quick     all benchmarks in three minutes, printed only"
	@echo "make bench-compare BASE=main     compare the speed with another git revision (about 5 minutes)"
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
	$(PYRIGHT)
	PYTHONPATH=$(CURDIR) PATH="$(abspath $(BIN)):$$PATH" $(PYRIGHT) --verifytypes motia_redis --ignoreexternal
	$(BIN)/lint-imports --no-cache
	@if command -v luacheck >/dev/null; then luacheck -q lua; else echo "luacheck is not installed: Lua not linted"; fi

# Each worker of pytest-xdist has its own server. Tests that measure time, or keep all cores busy, run alone afterwards.
test: lint
	$(BIN)/python -m pytest -rfEs -m 'not alone' -n $(WORKERS) --dist loadfile
	$(BIN)/python -m pytest -rfEs -m alone

$(VENV)/docs: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[docs]'
	touch $@

docs: $(VENV)/docs
	$(BIN)/python -m sphinx -W --keep-going -n -q -b html -d build/doctrees docs build/docs
	@echo "the documentation starts at build/docs/index.html"

# A failing case is shrunk and saved in .fuzz/, with the command that replays it. Then the most expensive update is searched on
# each server of the environment, and fails if it takes more than 50 ms: COSTS=600 for 10 minutes on each.
fuzz: $(VENV)/dev
	$(BIN)/python -m tests.fuzzing $(if $(SECONDS),--seconds $(SECONDS),--cases $(or $(CASES),200000)) $(if $(SEED),--seed $(SEED)) --save .fuzz
	$(BIN)/python -m tests.fuzzing.costs --seconds $(or $(COSTS),60) $(if $(SEED),--seed $(SEED))

chaos: $(VENV)/dev
	MOTIA_CHAOS=full $(BIN)/python -m pytest tests/faults -rP -m 'not alone' -n $(WORKERS) --dist loadfile
	MOTIA_CHAOS=full $(BIN)/python -m pytest tests/faults -rP -m alone

# Rivals that cannot be installed are reported and left out.
$(VENV)/bench: pyproject.toml benchmarks/triggering/contenders.py
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
	rm -rf $(VENV) .venv-rivals .venv-matrix build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
