# `make help` lists the targets. Each sets up .venv first if need be.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help setup run test check format bench clean

help: ## list the targets
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-8s %s\n", $$1, $$2}'

setup: $(READY) ## create .venv and install epsball with its tools for development

$(READY): pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "epsball needs Python 3.11 or newer: make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	$(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python -e '.[dev,imagenet,sweep,track,peers]'
	touch $(READY)

run: $(READY) ## train A, A_adv and B on the digits, attack each with each, print the matrix
	$(BIN)/python run.py paper=demo $(ARGS)

test: $(READY) ## the whole test suite, on all cores
	$(BIN)/python -m pytest -n auto --dist worksteal $(ARGS)

check: $(READY) ## ruff, mypy strict, tests
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -n auto --dist worksteal $(ARGS)

format: $(READY) ## format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(READY) ## speed, as ratios to hand-written floors
	for part in attacks training evaluation; do $(BIN)/python scripts/bench_$$part.py --out outputs/bench_$$part.csv || exit 1; done

clean: ## remove .venv and caches; results and data stay
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache build src/*.egg-info
