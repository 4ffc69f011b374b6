# Two commands: `make demo` and `make test`. Both create what they need first.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed
MODELS := .venv/models

.PHONY: demo test lint docs bench models matrix trainers clean

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

models: $(MODELS)/.installed  ## the tests that want torchvision, timm and transformers
	OMP_NUM_THREADS=1 $(MODELS)/bin/python -m pytest tests/models -k "libraries or list"
	OMP_NUM_THREADS=1 $(MODELS)/bin/python -m pytest -n auto -m "not slow" tests/integrations tests/docs/test_examples.py \
		tests/graph/sums/test_graph_libraries.py tests/core/test_layer_weights.py tests/core/test_core_blocks.py

matrix: $(MODELS)/.installed  ## every method on every network of tests/models: docs/models.md; about 20 minutes
	PYTHONPATH=src:tests OMP_NUM_THREADS=1 $(MODELS)/bin/python -m models

trainers: $(MODELS)/.installed  ## 1,000 steps under every trainer: the table of docs/trainers.md; half an hour
	PYTHONPATH=src:tests $(MODELS)/bin/python -m integrations

clean:
	rm -rf .venv runs docs/_build docs/methods docs/procedures docs/ablations docs/papers docs/_zoo_shares.md

# The constraints keep pip from taking a torch build with several GB of CUDA packages.
$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "foreprune needs Python 3.11 or newer; try: make PYTHON=python3.12 demo")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $(STAMP)

# An environment that sees the first one and adds the extras vision, hf and lightning. They are kept out of the first because
# torchvision's wheel, beside a CPU torch, breaks the import of what builds on it (tests/contract/extras.py).
SITE := -c 'import sysconfig; print(sysconfig.get_path("purelib"))'
$(MODELS)/.installed: $(STAMP)
	$(BIN)/python -m venv $(MODELS)
	echo "import site; site.addsitedir('$$($(BIN)/python $(SITE))')" > "$$($(MODELS)/bin/python $(SITE))/first.pth"
	$(MODELS)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[vision,hf,lightning]'
	touch $@
