# All commands of this project. Each target creates what it needs in .venv; only python3 is required.

PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: demo test check format bench clean

demo: .venv/.demo  ## load the last 30 days of a sandbox site, by device, into a DuckDB file
	@env -u PREFECT_API_URL PREFECT_HOME=.demo PREFECT_SERVER_ALLOW_EPHEMERAL_MODE=true \
	 PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS=120 \
	 DO_NOT_TRACK=1 PREFECT_SERVER_ANALYTICS_ENABLED=false $(BIN)/python -m flows.demo

test: .venv/.dev .venv/dbt/.ready  ## all tests
	$(BIN)/python -m pytest -n 2 --dist loadgroup

check: .venv/.dev  ## linter, formatter, strict type checker
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

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

.venv/dbt/.ready: .venv/bin/python examples/dbt/requirements.txt  # the environment of the dbt example
	$(PYTHON) -m venv .venv/dbt
	.venv/dbt/bin/pip install --quiet --disable-pip-version-check -r examples/dbt/requirements.txt
	@touch $@

benchmarks/.venv/.peers: benchmarks/peers.txt
	$(PYTHON) -m venv benchmarks/.venv
	benchmarks/.venv/bin/pip install --quiet --disable-pip-version-check -r benchmarks/peers.txt
	@touch $@
