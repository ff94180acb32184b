# All commands of this project. Each target creates what it needs in .venv; only python3 is required.

PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: demo test test-emulators check format bench clean

demo: .venv/.demo  ## load the last 30 days of a sandbox site, by device, into a DuckDB file
	@$(BIN)/prefect-wix demo

test: .venv/.dev .venv/dbt/.ready  ## all tests but those on emulators
	$(BIN)/python -m pytest -n 2 --dist loadgroup -m "not emulators"

test-emulators: .venv/.dev .venv/emulators/.ready  ## the warehouse tests on emulators of Snowflake and BigQuery
	$(BIN)/python -m pytest -m emulators

check: .venv/.dev  ## linter, formatter, strict type checker
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	MYPYPATH=src:flows $(BIN)/mypy flows blocks

format: .venv/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: .venv/.dev benchmarks/.venv/.peers  ## compare costs with other tools (half an hour; BENCH_QUICK=1: 4 minutes)
	@env -u PREFECT_API_URL $(BIN)/python -m benchmarks

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

.venv/emulators/.ready: .venv/bin/python tests/emulators.txt
	$(PYTHON) -m venv .venv/emulators
	.venv/emulators/bin/pip install --quiet --disable-pip-version-check -r tests/emulators.txt
	@touch $@

benchmarks/.venv/.peers: benchmarks/peers.txt
	$(PYTHON) -m venv benchmarks/.venv
	benchmarks/.venv/bin/pip install --quiet --disable-pip-version-check -r benchmarks/peers.txt
	@touch $@
