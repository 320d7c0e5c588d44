# Every target makes .venv by itself when it is missing or older than pyproject.toml.
# Another interpreter: make PYTHON=/path/to/python3.12 test

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

CHECK := import sys; sys.exit(sys.version_info < (3, 11))
PYTHON ?= $(shell for p in python3 python3.11 python3.12 python3.13 python3.14; do \
	$$p -c '$(CHECK)' 2>/dev/null && echo $$p && break; done)
BIN := .venv/bin
STAMP := .venv/.posezoo-dev
DOCS_STAMP := .venv/.posezoo-docs

# One thread a process: xdist already uses the cores, and results do not depend on the machine.
THREADS := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1
# albumentations otherwise asks PyPI for its newest version at every import.
export NO_ALBUMENTATIONS_UPDATE := 1
export PIP_NO_INPUT := 1
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: help demo test test-slow lint docs bench dist clean

help: ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "make %-10s %s\n", $$1, $$2}'

demo: $(STAMP) ## train a small model on synthetic people, or try one: make demo IMAGE=photo.jpg
	$(BIN)/posezoo demo $(if $(IMAGE),--image "$(IMAGE)")

test: $(STAMP) ## the tests that take minutes in all; ARGS="tests/test_zoo.py -k sha" for some of them
	$(THREADS) $(BIN)/python -m pytest -n 2 --dist loadfile -m "not slow" $(ARGS)

test-slow: $(STAMP) ## the tests that take minutes each
	$(THREADS) $(BIN)/python -m pytest -n 2 --dist loadfile -m slow $(ARGS)

lint: $(STAMP) ## style and types
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check .
	$(BIN)/python -m mypy

docs: $(STAMP) $(if $(wildcard mkdocs.yml),$(DOCS_STAMP)) ## the documentation as a web site in site/
	@if [ -f mkdocs.yml ]; then $(BIN)/python -m mkdocs build --strict; \
	else echo "There is no mkdocs.yml yet: nothing to build."; fi

bench: $(STAMP) ## speed and memory; ARGS are passed on
	$(BIN)/python -m benchmarks $(ARGS)

dist: $(STAMP) ## source archive and wheel in dist/
	$(BIN)/python -m build

clean: ## caches and build results; keeps .venv, runs/ and demo/
	rm -rf dist build site .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find src tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +

# An existing .venv keeps its interpreter and is only brought up to date.
$(STAMP): pyproject.toml
	@if [ ! -x $(BIN)/python ]; then \
		"$(or $(PYTHON),false)" -c '$(CHECK)' 2>/dev/null || { \
			echo "posezoo needs Python 3.11 or newer: install it, or type" \
				"'make PYTHON=/path/to/python3.11 $(MAKECMDGOALS)'." >&2; exit 1; }; \
		"$(PYTHON)" -m venv .venv; \
	fi
	$(BIN)/python -m pip install -e ".[dev]"
	@touch $@

$(DOCS_STAMP): pyproject.toml | $(STAMP)
	$(BIN)/python -m pip install -e ".[docs]"
	@touch $@
