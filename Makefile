# Every target sets up what it needs. PYTHON names the interpreter to build the environments from.
PYTHON ?= python3.11
VENV := .venv
DVC_VENV := .venv-dvc
BIN := $(VENV)/bin
export PATH := $(CURDIR)/$(BIN):$(PATH)
export DAGSTER_DISABLE_TELEMETRY := yes
# Threads that wait for each other spin briefly and then sleep: on a busy machine long spinning slows training manyfold.
export GOMP_SPINCOUNT ?= 1000

.PHONY: help setup demo test test-slow lint ui bench lock clean

help:
	@echo "make demo       set up and run the whole chain on embedded data"
	@echo "make test       set up and run the tests (test-slow: the long ones)"
	@echo "make lint       ruff, mypy, rendered files"
	@echo "make ui         the Dagster web UI on http://127.0.0.1:3000"
	@echo "make bench      the benchmarks that take minutes and need no GPU"
	@echo "make lock       resolve the lock files anew"

# The locks name everything that is installed: nothing is left to pip's resolver, and `pip check` tells if they do not.
setup: $(VENV)/.ready $(DVC_VENV)/.ready

$(VENV)/.ready: requirements.lock pyproject.toml secpipeline/_paired_sha256.c
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	$(BIN)/python -m pip check
	touch $@

$(DVC_VENV)/.ready: requirements-dvc.lock
	$(PYTHON) -m venv $(DVC_VENV)
	$(DVC_VENV)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r requirements-dvc.lock
	$(DVC_VENV)/bin/python -m pip check
	touch $@

demo: setup
	$(BIN)/secpipeline demo

# One thread a process: two processes of two threads each would wait for one another.
TEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal

test: setup
	$(TEST)

test-slow: setup
	$(TEST) -m slow

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

ui: setup
	$(BIN)/python -m assets.ui

# Those that take minutes at most and need no GPU.
BENCHMARKS := detectors digests draw_scenes duplicates evidence label_evidence metrics

bench: setup
	for name in $(BENCHMARKS); do OMP_NUM_THREADS=1 $(BIN)/python benchmarks/$$name.py || exit 1; done

lock:
	uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-annotate \
	  --no-emit-index-url --strip-extras --all-extras -c requirements/constraints.txt pyproject.toml -o requirements.lock
	uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-annotate \
	  --no-emit-index-url --strip-extras requirements/dvc.in -o requirements-dvc.lock

clean:
	rm -rf build
