# Everything happens in .venv, which the targets make when it is missing or older than pyproject.toml.
PYTHON ?= python3
BIN := .venv/bin
DEMO_SHARDS := shards/synthetic-32
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.DEFAULT_GOAL := help
.PHONY: help setup demo check format test coverage test-slow test-oldest test-slurm test-gpu test-containers \
    bench bench-quick docs clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: .venv/ready ## .venv with the package, editable, and the tools of its dev extra

.venv/ready: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.11")'
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@echo "installing into .venv (PyTorch is large: some minutes the first time)"
	@$(BIN)/python -m pip install --quiet --editable '.[dev]'
	@touch $@

demo: setup ## synthetic flowers to shards, a short training run, pictures
	$(BIN)/dcgan-shard synthetic --out $(DEMO_SHARDS) --size 32 --count 4000
	$(BIN)/accelerate launch --num_processes 1 --num_machines 1 --mixed_precision no --dynamo_backend no \
	    -m dcgan_dist.train --config configs/synthetic-arch1.yaml --data $(DEMO_SHARDS) --tracker none

check: setup ## format, lint, types, layers: under a minute
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy
	$(BIN)/lint-imports

format: setup ## rewrite the sources in the house's form
	$(BIN)/ruff format
	$(BIN)/ruff check --fix

test: setup ## the fast tests, on a CPU: under ten minutes
	$(BIN)/python -m pytest

coverage: setup ## the fast tests, and the lines of the package that they do not run; 90% is the least
	$(BIN)/coverage erase
	$(BIN)/coverage run -m pytest; code=$$?; $(BIN)/coverage combine --quiet && $(BIN)/coverage report && exit $$code

test-slow: setup ## the slow tests: long runs, builds, many processes
	$(BIN)/python -m pytest -m 'slow and not gpu and not slurm'

test-oldest: .venv-oldest/ready ## the fast tests with the oldest versions that pyproject.toml allows, in .venv-oldest
	.venv-oldest/bin/python -m pytest

.venv-oldest/ready: pyproject.toml
	@$(PYTHON) -m venv --clear .venv-oldest
	@.venv-oldest/bin/python -m pip install --quiet 'uv>=0.9'
	@echo "installing into .venv-oldest (PyTorch is large)"
	@.venv-oldest/bin/uv pip install --quiet --python .venv-oldest --resolution lowest-direct --editable '.[test]'
	@touch $@

test-slurm: setup ## the launchers, on a throwaway Slurm of two nodes
	$(BIN)/python -m pytest -m slurm

test-gpu: setup ## what needs a CUDA device, in about five minutes; prints images a second
	$(BIN)/python -m pytest -m gpu

test-containers: setup ## build the container image and run it (as root, with ../shared/containers)
	$(BIN)/python -m pytest -m containers -s tests/test_containers.py

bench: setup ## measure speed beside a textbook program; writes benchmarks/results.md (half an hour of quiet cores)
	$(BIN)/python -m benchmarks

bench-quick: setup ## one step against the recorded ratios: fails on a loss of a fifth
	$(BIN)/python -m benchmarks --quick

docs: setup ## docs/api.md from docstrings
	$(BIN)/python docs/api.py

clean: ## remove environments, caches and builds; shards and runs stay
	rm -rf .venv .venv-oldest .coverage .coverage.* .mypy_cache .ruff_cache .pytest_cache .import_linter_cache build dist *.egg-info
