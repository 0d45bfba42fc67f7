PYTHON ?= python3
BIN := .venv/bin

# Wherever it is set: what is compiled once need not be compiled again by each process that the tests start.
unexport PYTHONDONTWRITEBYTECODE

# In parallel, since most of a test is waiting; what is long comes first, one by one, so that nothing ends late.
PYTEST := $(BIN)/pytest --numprocesses 6 --dist load --maxschedchunk 2
# What is measured in seconds: fleets of processes one after the other, and beside them what mostly waits.
ALONE := $(BIN)/pytest --alone --numprocesses 2 --dist loadgroup

.PHONY: help demo test test-all lint types check audit storm on-call model bench bench-full bench-smoke format lock lock-bench
.DEFAULT_GOAL := help

help:            ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## */\t/' | expand -t 12

demo: .venv/ok   ## show the whole path on this machine: PostgreSQL, SES simulator, worker, mails
	$(BIN)/mailroom demo $(DEMO)

test: .venv/ok   ## run the quick tests, on PostgreSQL 18: 3 minutes; TEST='tests/queue -k claim' for some of them
	$(PYTEST) -m "not slow" $(TEST)
	$(ALONE) -m "not slow" $(TEST)

test-all: .venv/ok  ## run all tests, on PostgreSQL 15 and 18 and through PgBouncer: 20 to 25 minutes; TEST=… for some of them
	$(PYTEST) $(TEST)
	$(ALONE) $(TEST)

lint: .venv/ok   ## style, formatting, the import map, and what bandit finds
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/lint-imports --no-cache
	$(BIN)/bandit --quiet --configfile pyproject.toml --recursive mailroom alembic

types: .venv/ok  ## strict types
	$(BIN)/mypy

check: lint types test-all  ## all of it, as CI does

audit: lint      ## what bandit finds, and holes that are known in what we build on; needs the internet
	$(BIN)/pip-audit --strict --disable-pip --require-hashes --requirement requirements.lock

storm: .venv/ok  ## let everything go wrong for ten minutes; STORM='--seed N --seconds S --mails M'
	$(BIN)/python -m tests.storm $(STORM)

on-call: .venv/ok  ## let ten faults happen, and see what the operator's window says first: 15 minutes
	$(BIN)/python -u -m tests.on_call

model: .venv/ok  ## search the model of claim, settle and evidence at length; MODEL='--states N --worlds NAME'
	$(BIN)/python -m tests.model $(MODEL)

bench: .venv/bench  ## measure beside peers, and write docs/benchmarks.md: 20 minutes; BENCH='drain latency' for parts
	$(BIN)/python -m tests.benchmarks $(BENCH)

bench-full: .venv/bench  ## the same, larger, with a soak: two hours
	$(BIN)/python -m tests.benchmarks --full $(BENCH)

bench-smoke: .venv/ok  ## what they count and CI asserts: statements, commits, requests, rows read
	$(BIN)/pytest tests/benchmarks

format: .venv/ok ## format the code
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

# What the image has, and what is there to develop besides.
RUN_EXTRAS := --extra otel --extra window
ALL_EXTRAS := $(RUN_EXTRAS) --extra dev --extra demo
COMPILE := uv pip compile --universal --python-version 3.11 --generate-hashes --no-header --no-annotate pyproject.toml

lock:            ## write requirements.lock again from pyproject.toml, and requirements-run.lock in agreement; needs uv
	$(COMPILE) $(ALL_EXTRAS) --upgrade -o requirements.lock
	$(COMPILE) $(RUN_EXTRAS) --constraint requirements.lock -o requirements-run.lock

lock-bench:      ## write requirements-bench.lock again, in agreement with requirements.lock; needs uv
	$(COMPILE) $(ALL_EXTRAS) --extra bench --constraint requirements.lock -o requirements-bench.lock

.venv/bench: requirements-bench.lock .venv/ok
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-bench.lock
	touch $@

.venv/ok: requirements.lock pyproject.toml
	$(PYTHON) -c 'import sys; assert sys.version_info >= (3, 11), "mailroom needs Python 3.11 or newer"'
	$(PYTHON) -m venv --clear .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-build-isolation --no-deps -e .
	touch $@
