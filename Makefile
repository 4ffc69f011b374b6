# Two commands: `make demo` and `make test`. Both create what they need first.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed

.PHONY: demo test lint docs bench clean

demo: $(STAMP)  ## prune, train and compare on real images; about a minute
	$(BIN)/foreprune compare --out runs/demo

test: $(STAMP)  ## the whole test suite
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto

lint: $(STAMP)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

docs: $(STAMP)  ## the documentation site, in docs/_build
	$(BIN)/sphinx-build -W --keep-going -b html docs docs/_build

bench: $(STAMP)  ## speed and memory against the published procedures; about 15 minutes on an idle machine
	$(BIN)/python -m benchmarks speed

clean:
	rm -rf .venv runs docs/_build docs/methods docs/procedures docs/ablations docs/papers docs/_zoo_shares.md

# The constraints keep pip from taking a torch build with several GB of CUDA packages.
$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "foreprune needs Python 3.11 or newer; try: make PYTHON=python3.12 demo")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $(STAMP)
