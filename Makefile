# `make help` lists the targets. Everything runs in $(VENV), which the first target that needs it makes.
export VENV ?= .venv
export ACCELERATOR ?= auto
# ARGS: more arguments for quickstart or pytest. quickstart reads SEED, ALGORITHM and FROM_SCRATCH, which make hands on.

.DEFAULT_GOAL := help
.PHONY: help install quickstart test lint clean

help:  ## show this
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-11s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

install:  ## make the environment; does nothing when it is up to date
	@scripts/install.sh

quickstart: install  ## train a small policy on this machine and write a report (SEED=1 ALGORITHM=ppo FROM_SCRATCH=1)
	@$(VENV)/bin/agentfly quickstart $(ARGS)

test: install  ## run the tests (ARGS="-m 'not slow'")
	@$(VENV)/bin/python -m pytest --durations=25 $(ARGS)

lint: install  ## ruff and mypy
	@$(VENV)/bin/python -m ruff check .
	@$(VENV)/bin/python -m ruff format --check .
	@$(VENV)/bin/python -m mypy

clean:  ## remove caches and build outputs; keeps the environment and the runs
	@rm -rf build dist *.egg-info packaging/vllm/build packaging/vllm/*.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
	@find agentfly tests scripts -name __pycache__ -type d -prune -exec rm -rf {} +
