# make demo    fresh machine -> environment, install, the whole pipeline on synthetic faces, a report
# make test    environment, install, every test
# make check   format, lint, types, tests: what CI runs
# make docs    the pages of docs/ with the API, as a site in site/; a broken link is an error
# make wheel   what pip installs, in dist/
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
DEMO_OUT ?= demo

.PHONY: demo test check lint format docs wheel clean

$(BIN)/.installed: setup.py pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet -e '.[onnx,dgl,dev]'
	touch $@

demo: $(BIN)/.installed
	$(BIN)/facetrain demo --out $(DEMO_OUT)

test: $(BIN)/.installed
	$(BIN)/python -m pytest

lint: $(BIN)/.installed
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: $(BIN)/.installed
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

check: lint test

docs: $(BIN)/.installed
	$(BIN)/pip install --quiet -e '.[docs]'
	$(BIN)/mkdocs build --strict --quiet

wheel: $(BIN)/.installed
	$(BIN)/pip wheel --quiet --no-deps --wheel-dir dist .

clean:
	rm -rf $(VENV) build dist site *.egg-info .mypy_cache .ruff_cache .pytest_cache
