# `make reproduce` and `make test` are all that is needed: each makes .venv with the locked packages first, once.
.DEFAULT_GOAL := help
.PHONY: help install reproduce test test-slow test-ci lint format docs lock clean
.DELETE_ON_ERROR:

PYTHON ?= python3
UV_VERSION := 0.13.8
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
PYTEST := PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest --numprocesses auto --dist loadfile --no-loadscope-reorder

help: ## show this help
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 12

reproduce: $(INSTALLED) ## install, run the whole workflow, print where tables and report are
	$(BIN)/snakemake --cores all

test: $(INSTALLED) ## install, run all tests and checks of the code
	$(PYTEST)

test-slow: $(INSTALLED) ## the same and the tests that take minutes
	$(PYTEST) -m ""

test-ci: $(INSTALLED) ## the same as test and the tests that run or plan whole workflows
	$(PYTEST) -m "not slow"

install: $(INSTALLED) ## only install the locked packages into .venv

$(INSTALLED): requirements.lock pyproject.toml Makefile
	@$(PYTHON) -c 'import sys; (3, 11) <= sys.version_info[:2] < (3, 14) or sys.exit("Python 3.11 to 3.13 is needed, found " + sys.version.split()[0] + "; call make with PYTHON=python3.11")'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)
	$(BIN)/uv pip install --python $(BIN)/python --requirement requirements.lock
	$(BIN)/uv pip install --python $(BIN)/python --no-deps --no-build-isolation --editable .
	$(BIN)/qdit kernels build --optional
	@touch $@

lint: $(INSTALLED) ## check style, types, layers and the workflow
	$(BIN)/python -m pytest -q tests/test_project.py

format: $(INSTALLED) ## put code and rules into the one format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/snakefmt Snakefile rules

docs: $(INSTALLED) ## build the documentation as a site, site/index.html
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	@echo $(CURDIR)/site/index.html

lock: $(INSTALLED) ## resolve the versions again: requirements.lock and environment.yml
	$(BIN)/uv pip compile --quiet --upgrade --universal --python-version 3.11 --extra dev pyproject.toml -o requirements.lock
	{ sed '/- pip:/q' environment.yml; sed -n 's/^\([A-Za-z].*\)$$/      - "\1"/p' requirements.lock; } > environment.yml.new
	mv environment.yml.new environment.yml

clean: ## remove the mini profile's results and what tools made; .venv, sources and shipped weights stay
	rm -rf results/mini site .snakemake .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis build *.egg-info
