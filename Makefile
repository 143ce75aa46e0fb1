# make demo    fresh machine -> environment, install, the whole pipeline on synthetic faces, a report
# make test    environment, install, every test, two processes at a time
# make test-quick   the unit tests of the rooms but the slow ones: about a minute on two cores
# make check   format, lint, types, tests: what CI runs
# make docs    the pages of docs/ with the API, as a site in site/; a broken link is an error
# make wheel   what pip installs, in dist/
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
DEMO_OUT ?= demo

.PHONY: demo test test-quick test-whole test-data test-rooms check lint format docs wheel clean

$(BIN)/.installed: setup.py pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet -e '.[onnx,dgl,dev]'
	touch $@

demo: $(BIN)/.installed
	$(BIN)/facetrain demo --out $(DEMO_OUT)

# One thread a process: two of them share the cores, and distributed tests start more.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest
DATA := $(patsubst %,tests/unit/%/,data export report review evaluate finetune models)
ROOMS := $(filter-out $(DATA) tests/unit/tools/ %__pycache__/,$(wildcard tests/unit/*/))

test: $(BIN)/.installed
	$(MAKE) -j2 --output-sync=target test-whole test-data test-rooms

test-quick: $(BIN)/.installed
	$(MAKE) -j2 --output-sync=target test-data test-rooms CHOICE="-m 'not slow'"

test-whole:
	$(PYTEST) --ignore-glob='tests/unit/[!t]*' tests

test-data:
	$(PYTEST) $(CHOICE) $(DATA)

test-rooms:
	$(PYTEST) $(CHOICE) $(ROOMS)

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
