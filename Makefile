# Every target sets up what it needs in .venv, once; nothing outside this folder changes.
# Another interpreter or place:  make test PYTHON=python3.12 VENV=/scratch/venv

PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
INSTALL = $(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: help demo test slow lint format docs clean

help:
	@echo "make demo    simulate, reconstruct, analyse and evaluate a small real protein (minutes)"
	@echo "make test    the quick test suite"
	@echo "make slow    the slow tests"
	@echo "make lint    ruff, pyright and import-linter"
	@echo "make format  let ruff rewrite what it can"
	@echo "make docs    the documentation, in docs/_build/html"
	@echo "make clean   remove .venv, caches and built documentation"

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.package: pyproject.toml constraints.txt | $(BIN)/python
	$(INSTALL) -e .
	@touch $@

$(VENV)/.dev: $(VENV)/.package
	$(INSTALL) -e '.[dev]'
	@touch $@

$(VENV)/.docs: $(VENV)/.package
	$(INSTALL) -e '.[docs]'
	@touch $@

demo: $(VENV)/.package
	$(BIN)/cryoatom demo --overwrite

test: $(VENV)/.dev
	$(BIN)/python -m pytest

slow: $(VENV)/.dev
	$(BIN)/python -m pytest -m slow

lint: $(VENV)/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/lint-imports --no-cache

format: $(VENV)/.dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

docs: $(VENV)/.docs
	$(BIN)/sphinx-build -q -W --keep-going -b html docs docs/_build/html
	@echo "open docs/_build/html/index.html"

clean:
	rm -rf $(VENV) docs/_build .pytest_cache .ruff_cache .import_linter_cache .hypothesis
