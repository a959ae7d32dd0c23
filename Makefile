# `make help` lists the targets. Everything runs in $(VENV), which the first target that needs it makes.
export VENV ?= .venv
export ACCELERATOR ?= auto
# Containers often set it. Without bytecode every process of a run compiles thousands of files again, tests too.
export PYTHONDONTWRITEBYTECODE :=
# ARGS: more arguments for quickstart or pytest. quickstart reads SEED, ALGORITHM, FROM_SCRATCH and VIEW, which make
# hands on.

.DEFAULT_GOAL := help
.PHONY: help install quickstart test check lint coverage docs clean

# Tests of every room's ground: floors, documents, errors, settings, images, tools, templates, command line. Half a minute.
QUICK = tests/unit/test_*.py $(addprefix tests/unit/,cli images scripts templates tools)

help:  ## show this
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-11s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

install:  ## make the environment; does nothing when it is up to date
	@scripts/install.sh

quickstart: install  ## train a small policy on this machine and write a report (SEED=1 ALGORITHM=ppo FROM_SCRATCH=1 VIEW=1)
	@$(VENV)/bin/agentfly quickstart $(ARGS)

test: install  ## run the tests (ARGS="-m 'not slow'")
	@scripts/install_browser.sh
	@$(VENV)/bin/python -m pytest --durations=25 $(ARGS)

check: lint  ## before each commit: lint and the quickest tests, in under a minute
	@$(VENV)/bin/python -m pytest -q -m "not slow" $(QUICK) $(ARGS)

lint: install  ## ruff and mypy
	@$(VENV)/bin/python -m ruff check .
	@$(VENV)/bin/python -m ruff format --check .
	@$(VENV)/bin/python -m mypy

coverage: install  ## run the fast tests and print which share of the code they reach
	@$(VENV)/bin/python -m pytest -q -m "not slow" --cov --cov-report=term --cov-fail-under=80 $(ARGS)

docs: install  ## build the pages as a site, strictly and offline, in build/site
	@NO_MKDOCS_2_WARNING=1 $(VENV)/bin/python -m mkdocs build --strict

clean:  ## remove caches and build outputs; keeps the environment and the runs
	@rm -rf build dist *.egg-info packaging/vllm/build packaging/vllm/*.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .coverage .coverage.*
	@find agentfly tests scripts -name __pycache__ -type d -prune -exec rm -rf {} +
