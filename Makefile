# `make campaign` and `make test` are the two commands of the README; CI runs the second.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
RUN ?= runs/first
ENVIRONMENT ?= airbench_mini
TRIALS ?= 16
WORKERS ?= 2

# For test-gpu: the Python that PYTHON= names, else the virtual environment if there is one; nothing is installed.
GPU_PYTHON := $(if $(filter command% environment%,$(origin PYTHON)),$(PYTHON),$(if $(wildcard $(BIN)/python),$(BIN)/python,$(PYTHON)))

.PHONY: help campaign test test-all test-gpu lint bench demo clean

help:  ## what each target does
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

$(VENV)/.installed: requirements.lock pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Bakeoff needs Python 3.11 or newer; this is " + sys.version.split()[0] + "; set PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	touch $@

campaign: $(VENV)/.installed  ## install, prepare the data, run a campaign without a key, write the report
	$(BIN)/bakeoff prepare $(ENVIRONMENT)
	$(BIN)/bakeoff run $(ENVIRONMENT) --run $(RUN) --trials $(TRIALS)
	$(BIN)/bakeoff report $(RUN)

test: $(VENV)/.installed  ## the default test suite (11 minutes on 2 cores)
	$(BIN)/python -m pytest -m "not slow and not gpu" --durations=40 --durations-min=8 -n $(WORKERS) --dist loadfile

test-all: $(VENV)/.installed  ## everything that needs no GPU
	$(BIN)/python -m pytest -m "not gpu"

test-gpu:  ## what needs a GPU (6 minutes on one; PYTHON=python3 for an own torch, nothing is installed)
	PYTHONPATH=$(CURDIR)$${PYTHONPATH:+:$$PYTHONPATH} $(GPU_PYTHON) -m pytest -c tests/gpu/gpu.ini --rootdir=. tests/gpu

lint: $(VENV)/.installed  ## ruff, mypy --strict, import contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(VENV)/.installed  ## print the measured ratios that the documentation quotes
	$(BIN)/python -m tests.bench.trial_overhead
	$(BIN)/python -m tests.bench.sandbox
	$(BIN)/python -m tests.bench.lineage
	$(BIN)/python -m tests.bench.prompt
	$(BIN)/python -m tests.bench.promotion
	$(BIN)/python -m tests.bench.campaign --quick

demo: $(VENV)/.installed  ## record the campaign whose page `bakeoff demo` shows (about 10 minutes on 2 quiet cores)
	$(BIN)/bakeoff prepare airbench_mini
	$(BIN)/bakeoff run airbench_mini --run runs/demo --trials 16
	$(BIN)/bakeoff report runs/demo --out flows/report/demo/page.html

clean:  ## remove the virtual environment and caches (never a run)
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
