# All commands of this project. Each target creates what it needs in .venv; only python3 is required.

PYTHON ?= python3
BIN := .venv/bin
INSTALL := pip install --quiet --disable-pip-version-check -c constraints.txt
PIP := $(BIN)/$(INSTALL)
# Four processes on two cores: tests also wait, for servers, schedules and pauses.
PYTEST := python -m pytest -n 4 --dist loadgroup

# The newest CPython of a minor version: of pyenv, or on PATH.
cpython = $(lastword $(shell command -v python$(1)) $(sort $(wildcard $(shell pyenv root 2>/dev/null)/versions/$(1).*/bin/python)))
PYTHONS ?= $(foreach minor,3.11 3.12 3.13,$(if $(call cpython,$(minor)),$(minor)))

.PHONY: demo test test-unit test-wheel test-browser test-emulators test-pythons soak check format bench docs pictures dist clean

demo: .venv/.demo  ## load the last 30 days of a sandbox site, by device, into a DuckDB file
	@$(BIN)/prefect-wix demo

test: .venv/.dev .venv/dbt/.ready  ## all tests that a change must pass
	$(BIN)/$(PYTEST) -m "not emulators and not wheel and not browser"

test-unit: .venv/.dev  ## tests without a server or another process
	$(BIN)/$(PYTEST) tests/unit

test-wheel: .venv/.dev  ## the wheel alone, in a new environment, on a real server and worker
	$(BIN)/python -m pytest tests/e2e/test_wheel.py

test-browser: .venv/.dev .venv/dbt/.ready  ## the run forms, the pages of runs and the report, in Chromium
	$(BIN)/$(PYTEST) -m browser

test-emulators: .venv/.dev .venv/emulators/.ready  ## the warehouse tests on emulators of databases and object stores
	$(BIN)/python -m pytest -m emulators

test-pythons: .venv/dbt/.ready $(PYTHONS:%=.venv/pythons/%/.ready)  ## tests/unit and tests/flows on every Python
	@for minor in $(PYTHONS); do \
		echo "CPython $$minor" && .venv/pythons/$$minor/bin/$(PYTEST) tests/unit tests/flows || exit 1; \
	done

soak: .venv/.dev .venv/dbt/.ready  ## all tests, with many more seeds, rounds and sites
	SOAK=1 $(BIN)/$(PYTEST) -m "not emulators"

check: .venv/.dev  ## linter, formatter, strict type checker
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	MYPYPATH=src:flows $(BIN)/mypy flows blocks examples

format: .venv/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: .venv/.dev benchmarks/.venv/.peers  ## compare costs with other tools (40 minutes; BENCH_QUICK=1: 5 minutes)
	@env -u PREFECT_API_URL $(BIN)/python -m benchmarks

docs: .venv/.dev .venv/docs/.ready  ## the site, in build/site; a warning or a broken link is an error
	$(BIN)/python docs/commands.py > docs/reference/commands.md
	NO_MKDOCS_2_WARNING=1 .venv/docs/bin/mkdocs build --quiet --strict --site-dir build/site

pictures: .venv/.dev  ## make the pictures of the documentation again, in Chromium
	PICTURES=1 $(BIN)/python -m pytest tests/e2e/test_pictures.py

dist: .venv/docs/.ready  ## the sdist and, built from it, the wheel, both checked
	rm -rf dist
	.venv/docs/bin/python -m build --outdir dist
	.venv/docs/bin/twine check --strict dist/*

clean:
	rm -rf .venv benchmarks/.venv .demo dist build .pytest_cache .mypy_cache .ruff_cache

.venv/bin/python:
	$(PYTHON) -m venv .venv

.venv/.demo: .venv/bin/python pyproject.toml constraints.txt
	$(PIP) -e '.[duckdb]'
	@touch $@

.venv/.dev: .venv/bin/python pyproject.toml constraints.txt
	$(PIP) -e '.[duckdb,report,dev]'
	@touch $@ .venv/.demo

.venv/dbt/.ready: .venv/bin/python flows/dbt/requirements.txt  # the environment of flows/dbt
	$(PYTHON) -m venv .venv/dbt
	.venv/dbt/bin/pip install --quiet --disable-pip-version-check -r flows/dbt/requirements.txt
	@touch $@

.venv/docs/.ready: docs/requirements.txt  # what builds the site and checks a release
	$(PYTHON) -m venv .venv/docs
	.venv/docs/bin/pip install --quiet --disable-pip-version-check -r docs/requirements.txt
	@touch $@

.venv/pythons/%/.ready: pyproject.toml constraints.txt
	@test -n "$(call cpython,$*)" || { echo "CPython $* is missing: pyenv install $*"; exit 1; }
	$(call cpython,$*) -m venv .venv/pythons/$*
	.venv/pythons/$*/bin/$(INSTALL) -e '.[duckdb,report,dev]'
	@touch $@

.venv/emulators/.ready: .venv/bin/python tests/emulators.txt
	$(PYTHON) -m venv .venv/emulators
	.venv/emulators/bin/pip install --quiet --disable-pip-version-check -r tests/emulators.txt
	npm install --silent --no-audit --no-fund --prefix .venv/emulators/node azurite@3.35.0 || echo "Azurite is skipped: it needs npm."
	@touch $@

benchmarks/.venv/.peers: benchmarks/peers.txt
	$(PYTHON) -m venv benchmarks/.venv
	benchmarks/.venv/bin/pip install --quiet --disable-pip-version-check -r benchmarks/peers.txt
	@touch $@
