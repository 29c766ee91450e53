# Needs only Python 3.11+ and make. The virtual environment is made once and again only when the lock changes.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.stamp
WORKERS ?= 3
SOAK := $(BIN)/python -m pytest -o faulthandler_timeout=0

.PHONY: help demo test lint lock clean bench load soak docs
.DEFAULT_GOAL := help

help:  ## show this list
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /  make \1\t/'

$(STAMP): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed: make PYTHON=/path/to/python3.11" if sys.version_info < (3, 11) else 0)'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing (once, about a minute)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --requirement requirements.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --editable .
	@touch $@

demo: $(STAMP)  ## PostgreSQL, MySQL and a MongoDB-protocol server, synchronised in every direction, verified
	@$(BIN)/sync-worker demo $(ARGS)

test: $(STAMP)  ## the whole suite, real servers included, in three processes; WORKERS=0 for one
	@$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal $(ARGS)

bench: $(STAMP)  ## every figure of the budget in one run
	@$(BIN)/python -m load.bench $(ARGS)

load: $(STAMP)  ## Locust at the HTTP interface and the databases together; ARGS="--users 40 --seconds 60"
	@$(BIN)/python -m load.drive $(ARGS)

soak: $(STAMP)  ## cases of every pair at full size, KILLS=100 faults on two nodes, on three, and with two shards, STALL=30 s, each node away, schedules without end; ROWS=1000000 of case 20 on three nodes, HUGE=5000000 in one transaction
	@TURNS=$${TURNS:-1000} WRITES=$${WRITES:-10000} COPIED=$${COPIED:-100000} $(SOAK) tests/integration/test_pairs.py
	@KILLS=$${KILLS:-100} STALL=$${STALL:-30} AWAY=$${AWAY:-40000} $(SOAK) tests/chaos
	@KILLS=$${KILLS:-100} STALL=$${STALL:-30} SHARDS=2 NODES=pg,my,mongo $(SOAK) tests/chaos/test_killed_anywhere.py
	@test -z "$$HUGE" || $(BIN)/python -m load.bench --only "huge transaction" --rows $$(($$HUGE / 25))
	@EXAMPLES=$${EXAMPLES:-200} $(SOAK) tests/integration/test_any_value_types.py
	@$(BIN)/python -m load.soak $(ARGS)

lint: $(STAMP)  ## ruff, mypy --strict, import-linter
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

docs: $(STAMP)  ## make docs/types.md and docs/metrics.md from the code
	@$(BIN)/python -m cluster.type_table > docs/types.md
	@$(BIN)/python -m api.metrics > docs/metrics.md

lock: $(STAMP)  ## resolve pyproject.toml again
	@$(BIN)/python -m pip install --quiet uv
	@$(BIN)/uv pip compile --quiet --universal --extra demo --extra dev --no-emit-index-url --no-annotate --no-header --python-version 3.11 -o requirements.lock pyproject.toml

clean:  ## remove the virtual environment
	rm -rf $(VENV)
