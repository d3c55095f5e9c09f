# `make reproduce` and `make test` are all that is needed: each makes .venv with the locked packages first, once.
.DEFAULT_GOAL := help
.PHONY: help install reproduce test test-slow lint format docs docs-mini gpu-check lock clean
.DELETE_ON_ERROR:

PYTHON ?= python3
UV_VERSION := 0.13.8
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
# make CPU=1 installs the CPU build of torch: no CUDA libraries, no Triton (docs/installation.md).
CPU ?=
ROOM_GB := $(if $(CPU),3,7)
# The lock without what only GPUs need; torch and torchvision then come from PyTorch's own index.
CPU_LOCK := $(VENV)/requirements-cpu.txt
WITHOUT_GPU := /^(nvidia-|cuda-|triton==)/d
# Bytecode of the packages is made once here; otherwise each process of a first run makes it for itself. Not of these folders.
NO_BYTECODE := /(tests?|testing|benchmarks|pipelines|modular_pipelines)/
# Markers of the tests that `make test` runs.
MARKERS ?= not slow and not ci
PYTEST := PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest --numprocesses auto --dist loadfile --no-loadscope-reorder --durations 3

help: ## show this help
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 12

reproduce: $(INSTALLED) ## install, run the whole workflow, print where tables and report are
	@$(BIN)/qdit run

test: $(INSTALLED) ## install, run the usual tests and checks; MARKERS="not slow": also whole workflows, kills, compilers and types
	$(PYTEST) -m "$(MARKERS)"

test-slow: $(INSTALLED) ## install, run all tests, also those that take minutes
	$(PYTEST) -m ""

install: $(INSTALLED) ## only install the locked packages into .venv; CPU=1: without what only GPUs need

$(INSTALLED): requirements.lock pyproject.toml Makefile
	@$(PYTHON) -c 'import sys; (3, 11) <= sys.version_info[:2] < (3, 14) or sys.exit("Python 3.11 to 3.13 is needed, found " + sys.version.split()[0] + "; call make with PYTHON=python3.11")'
	@$(PYTHON) -c 'import shutil, sys; free = shutil.disk_usage(".").free / 1e9; free >= $(ROOM_GB) or sys.exit(f"{free:.1f} GB are free here, the installation needs $(ROOM_GB) GB; make room, or call make with CPU=1 where no GPU is used")'
	@echo "installing into $(VENV): about $(if $(CPU),2,6) GB on disk; uv shows each download and how much of it is left"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)
	$(if $(CPU),sed -E '$(WITHOUT_GPU)' requirements.lock > $(CPU_LOCK))
	$(BIN)/uv pip install --python $(BIN)/python $(if $(CPU),--torch-backend cpu --no-deps --requirement $(CPU_LOCK),--requirement requirements.lock)
	$(BIN)/uv pip install --python $(BIN)/python --no-deps --no-build-isolation --editable .
	@$(BIN)/python -m compileall -qq -j 0 -x '$(NO_BYTECODE)' $(VENV)/lib/python3*/site-packages qdit baselines || true
	$(BIN)/qdit kernels build --optional
	@touch $@

lint: $(INSTALLED) ## check style, types, layers and the workflow
	$(BIN)/python -m pytest -q -m "not slow" tests/test_project.py

format: $(INSTALLED) ## put code and rules into the one format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/snakefmt Snakefile rules

docs: $(INSTALLED) ## build the documentation as a site, site/index.html
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	@echo $(CURDIR)/site/index.html

docs-mini: $(INSTALLED) ## fill docs/mini and the README's numbers from results/mini, a finished run of this commit
	$(BIN)/qdit docs-mini

gpu-check: ## pack what a machine with a GPU needs for `qdit bench gpu`, and print the one command
	@$(PYTHON) qdit/bench/gpu_pack.py

lock: $(INSTALLED) ## resolve the versions again: requirements.lock and environment.yml
	$(BIN)/uv pip compile --quiet --upgrade --universal --python-version 3.11 --extra dev pyproject.toml -o requirements.lock
	{ sed '/- pip:/q' environment.yml; sed -n 's/^\([A-Za-z].*\)$$/      - "\1"/p' requirements.lock; } > environment.yml.new
	mv environment.yml.new environment.yml

clean: ## remove the mini profile's results and what tools made; .venv, sources and shipped weights stay
	rm -rf results/mini site .snakemake .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis build *.egg-info
