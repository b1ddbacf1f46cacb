# `make` sets up .venv with the tested versions and runs the demo; `make test` runs the tests in JOBS processes.

PYTHON ?= python3
VENV ?= .venv
JOBS ?= 2
PACKAGE ?= package

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
INSTALL := $(PIP) install --constraint constraints.txt
INSTALL_PACKAGE := $(INSTALL) --no-build-isolation --editable
STAMPS := $(VENV)/.stamps
CODE := src pipelines training conversion tests docs setup.py

.DEFAULT_GOAL := demo
.PHONY: demo test gpu browser notebooks docs figures dist icons format lint clean

demo: $(STAMPS)/core
	$(BIN)/randar-hf demo --output demo.png --overwrite

test: $(STAMPS)/test
	OMP_NUM_THREADS=1 $(BIN)/pytest --numprocesses $(JOBS) --dist loadfile

gpu: $(STAMPS)/test
	$(BIN)/pytest -m gpu
	$(BIN)/randar-hf bench --table gpu-bench.json --device cuda --dtype bfloat16

browser: $(STAMPS)/test
	OMP_NUM_THREADS=1 $(BIN)/pytest -m browser

notebooks: $(STAMPS)/test
	OMP_NUM_THREADS=1 $(BIN)/pytest -m slow tests/test_notebooks.py

docs: $(STAMPS)/docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

figures: $(STAMPS)/docs
	$(BIN)/randar-hf demo --output docs/figures/demo.png --overwrite
	$(BIN)/python docs/figures/make_icons_figure.py
	$(BIN)/python docs/figures/make_orders_figure.py
	$(BIN)/python docs/figures/make_lossless_figure.py
	$(BIN)/python docs/figures/make_gallery.py

# The wheel is tried where nothing of the checkout is: in an empty environment, from another folder.
dist: $(STAMPS)/core
	$(INSTALL) build
	rm -rf dist
	$(BIN)/python -m build --no-isolation --outdir dist
	rm -rf build
	empty=$$(mktemp -d) && trap 'rm -rf $$empty' EXIT && $(PYTHON) -m venv $$empty \
	&& $$empty/bin/pip --disable-pip-version-check --quiet install --constraint constraints.txt dist/*.whl \
	&& cd $$empty && bin/randar-hf generate 0 --output image.png && test -s image.png

# PACKAGE is an unpacked @iconify/json; `python -m randar_hf.training.icons.data --help` tells how to get one.
icons: $(STAMPS)/icons
	$(BIN)/python -m randar_hf.training.icons.recipe --source $(PACKAGE) --output-dir runs/icons

format: $(STAMPS)/lint
	$(BIN)/ruff check --fix $(CODE)
	$(BIN)/ruff format $(CODE)

lint: $(STAMPS)/lint $(STAMPS)/test
	$(BIN)/ruff check $(CODE)
	$(BIN)/ruff format --check $(CODE)
	$(BIN)/mypy

clean:
	rm -rf .venv build dist src/*.egg-info .pytest_cache .ruff_cache .mypy_cache demo.png

$(STAMPS)/venv:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "randar-hf needs Python 3.11 or newer: make PYTHON=...")'
	$(PYTHON) -m venv $(VENV)
	@mkdir -p $(STAMPS) && touch $@

$(STAMPS)/torch: $(STAMPS)/venv constraints.txt
	@echo "Installing PyTorch (a large download, minutes at first)"
	$(INSTALL) torch setuptools
	@touch $@

$(STAMPS)/core: $(STAMPS)/torch setup.py pyproject.toml
	@echo "Installing randar-hf"
	$(INSTALL_PACKAGE) .
	@touch $@

$(STAMPS)/test: $(STAMPS)/core
	$(INSTALL_PACKAGE) ".[test,training,evaluation,space,docs]"
	@touch $@

$(STAMPS)/docs: $(STAMPS)/core
	$(INSTALL_PACKAGE) ".[docs,space,training,evaluation]"
	@touch $@

$(STAMPS)/icons: $(STAMPS)/core
	$(INSTALL_PACKAGE) ".[icons]"
	@touch $@

$(STAMPS)/lint: $(STAMPS)/venv constraints.txt
	$(INSTALL) ruff mypy
	@touch $@
