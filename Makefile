# Two commands matter: `make book` and `make test`. Both set up .venv from the hashed lock first.
# Needs Python 3.11 to 3.13, make and a package index; uses uv when it is there.

.DEFAULT_GOAL := help
.NOTPARALLEL:
SHELL := /bin/bash

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PEERS := $(VENV)/.peers
NOTEBOOKS := $(wildcard book/*.ipynb)
BENCH ?= training_speed agent_speed curvature_speed atari_speed width_cost
LOCK := uv pip compile --universal --python-version 3.11 --generate-hashes --no-header --no-annotate \
	--extra data --extra atari --extra book --extra test --extra cluster pyproject.toml -o requirements.lock

# nbval takes a cell with outputs and no execution count for a mistake; nbstripout clears every count.
define COUNT_KEPT_CELLS
import sys, nbformat
for path in sys.argv[1:]:
    notebook = nbformat.read(path, as_version=4)
    kept = [cell for cell in notebook.cells if "keep_output" in cell.metadata.get("tags", [])]
    for cell in kept:
        cell.execution_count = 1
    if kept:
        nbformat.write(notebook, path)
endef
export COUNT_KEPT_CELLS

# Jupyter, IPython and matplotlib read and write here, never in the home folder; cells find our own commands.
STATE := $(CURDIR)/$(VENV)/state
export JUPYTER_PLATFORM_DIRS := 1
export JUPYTER_PREFER_ENV_PATH := 1
export JUPYTER_CONFIG_DIR := $(STATE)/jupyter/config
export JUPYTER_DATA_DIR := $(STATE)/jupyter/data
export JUPYTER_RUNTIME_DIR := $(STATE)/jupyter/runtime
export IPYTHONDIR := $(STATE)/ipython
export MPLCONFIGDIR := $(STATE)/matplotlib
export PATH := $(CURDIR)/$(BIN):$(PATH)
unexport PYTHONPATH PYTHONHOME VIRTUAL_ENV CONDA_PREFIX

# What the book compiles, nbval need not compile again. Not for all targets: benchmarks say what compiling takes, and
# unit tests fill the disk on purpose, which damages a cache.
book notebooks: export JAX_COMPILATION_CACHE_DIR := $(CURDIR)/$(VENV)/compiled
book notebooks: export JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS := 0.2

.PHONY: help
help: ## List the targets (this text)
	@echo "usage: make TARGET [PYTHON=python3.12]"
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/\1|\2/p' Makefile | while IFS='|' read -r name text; do \
	  printf '  %-10s %s\n' "$$name" "$$text"; done

# Where compiling takes longer than what it is for: without XLA's optimizations and with its old emitters of fused loops
# it takes a third to a half. What readers run, the book and nbval's chapters, is compiled as it is for them.
# XLA refuses to run with a flag that it does not have, and from jaxlib 0.11 on it no longer has the third.
HURRIED = --xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true \
	$(shell $(BIN)/python -c "from importlib.metadata import version; \
	  print('--xla_cpu_use_fusion_emitters=false' if version('jaxlib') < '0.11' else '')") \
	--xla_cpu_parallel_codegen_split_count=1

# What is up to date is left as it is (book/_ext/up_to_date says when); after `rm -rf _build` nothing is.
.PHONY: book
book: $(STAMP) ## Build _build/html; run the chapters that have changed, at the quick study
	@rm -f _build/html/index.html
	$(BIN)/jupyter-book build . -W --keep-going
	@test -f _build/html/index.html || { echo "error: no _build/html/index.html was written" >&2; exit 1; }
	@$(BIN)/python -c "import pathlib; print('\nThe book is built. Open', pathlib.Path('_build/html/index.html').resolve().as_uri())"

.PHONY: test
test: lint types notebooks unit ## Lint, types, chapters (stripped, and run by nbval), unit tests

.PHONY: lint
lint: $(STAMP) ## Sources and notebooks (ruff), workflows (their schema; zizmor)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
# Not actionlint: its package downloads a binary while it is built, which no lock can hash, and what has it in a wheel are
# other people's forks. What it alone would find, names that are defined nowhere, tests/test_workflows.py looks for.
	$(BIN)/check-jsonschema --builtin-schema vendor.github-workflows .github/workflows/*.yml
	$(BIN)/zizmor --offline --quiet --persona=regular .github

.PHONY: types
types: $(STAMP) ## mypy, strict, on src/ and the extensions of the book
	$(BIN)/mypy

.PHONY: notebooks
notebooks: $(STAMP) ## Chapters: outputs stripped, every cell runs (nbval)
ifeq ($(NOTEBOOKS),)
	@echo "no notebooks in book/"
else
	$(BIN)/nbstripout --keep-id --keep-count --verify $(NOTEBOOKS)
	$(BIN)/python -m pytest -n 2 --dist loadscope --nbval-lax --nbval-current-env --nbval-cell-timeout 900 book
endif

.PHONY: unit
unit: export XLA_FLAGS = $(HURRIED)
unit: $(STAMP) ## pytest on tests/, two processes
	$(BIN)/python -m pytest -n 2 --dist loadscope --durations=25

.PHONY: bench
bench: $(PEERS) ## Speed against peers; writes the page Speed's tables (BENCH=agent_speed: one; BENCH=build_speed: the book)
	@set -e; for name in $(BENCH); do echo "$$name" >&2; $(BIN)/python benchmarks/$$name.py; done

.PHONY: figure
figure: $(STAMP) ## Draw the README's figure from the best recorded run
	$(BIN)/python -c "import pathlib; from plasticity.chapters.optimizer_instability import figures; \
	  from plasticity.runs import results; \
	  figures.save_home_figure(results.best('optimizer_instability'), pathlib.Path('book/_static/home.png'))"

.PHONY: product
product: $(STAMP) ## Once through all of experiment interventions, tiny; records it (PLASTICITY_DATA=/path/to/data)
	@test -f "$$PLASTICITY_DATA/cifar-10-batches-bin/data_batch_1.bin" || { \
	  echo "error: make product needs CIFAR-10 in its binary version: make product PLASTICITY_DATA=/path/to/data," >&2; \
	  echo "with cifar-10-batches-bin/data_batch_1.bin to 5 below that folder (book/rerun.md, Data)" >&2; exit 1; }
	JAX_PLATFORMS=cpu XLA_FLAGS="$(HURRIED)" JAX_COMPILATION_CACHE_DIR="$(CURDIR)/$(VENV)/compiled" \
	  $(BIN)/plasticity run interventions --study smoke

.PHONY: fuzz
fuzz: export XLA_FLAGS = $(HURRIED)
fuzz: $(STAMP) ## Ten times as many made-up inputs as CI draws (SEED=1234: those of that seed again)
	HYPOTHESIS_PROFILE=nightly $(BIN)/python -m pytest -n 2 tests/fuzz $(if $(SEED),--hypothesis-seed=$(SEED))

.PHONY: format
format: $(STAMP) ## Format sources and notebooks, strip notebook outputs
	$(BIN)/ruff check --fix --exit-zero --quiet .
	$(BIN)/ruff format .
	$(if $(NOTEBOOKS),$(BIN)/nbstripout --keep-id $(NOTEBOOKS))
	@$(BIN)/python -c "$$COUNT_KEPT_CELLS" $(NOTEBOOKS)

.PHONY: lock
lock: ## Resolve requirements.lock anew from pyproject.toml (needs uv)
	@command -v uv >/dev/null || { echo "error: make lock needs uv (python3 -m pip install uv)" >&2; exit 1; }
	$(LOCK)

.PHONY: clean
clean: ## Remove the built book and every cache; recorded runs and .venv stay
	rm -rf _build build .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find src tests benchmarks book -name __pycache__ -type d -prune -exec rm -rf {} +

# With uv, exactly the lock is installed; pip leaves extra packages alone. --no-deps and
# --no-build-isolation: the package itself brings nothing that the lock does not name.
$(STAMP): requirements.lock pyproject.toml
	@set -e; \
	fits='import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))'; \
	if command -v uv >/dev/null; then \
	  echo "setting up $(VENV) with uv"; \
	  if ! $(BIN)/python -c "$$fits" 2>/dev/null; then \
	    rm -rf $(VENV); \
	    if $(PYTHON) -c "$$fits" 2>/dev/null; then uv venv --quiet --python "$$(command -v $(PYTHON))" $(VENV); \
	    else uv venv --quiet --python '>=3.11,<3.14' $(VENV); fi; \
	  fi; \
	  uv pip sync --quiet --python $(BIN)/python --require-hashes requirements.lock; \
	  uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation -e .; \
	else \
	  if ! $(BIN)/python -c "$$fits; import pip" 2>/dev/null; then \
	    command -v $(PYTHON) >/dev/null || { \
	      echo "error: there is no $(PYTHON); name a Python 3.11, 3.12 or 3.13: make PYTHON=/path/to/python" >&2; exit 1; }; \
	    $(PYTHON) -c "$$fits" || { \
	      echo "error: $(PYTHON) is $$($(PYTHON) --version 2>&1), and Python 3.11, 3.12 or 3.13 is needed: make PYTHON=python3.12" >&2; exit 1; }; \
	    echo "setting up $(VENV) with pip (uv would be faster)"; \
	    rm -rf $(VENV); \
	    $(PYTHON) -m venv $(VENV) || { \
	      echo "error: $(PYTHON) -m venv failed; on Debian and Ubuntu install python3-venv, or install uv" >&2; exit 1; }; \
	  fi; \
	  $(BIN)/python -m pip install --quiet --require-hashes -r requirements.lock; \
	  $(BIN)/python -m pip install --quiet --no-deps --no-build-isolation -e .; \
	fi; \
	mkdir -p $(JUPYTER_CONFIG_DIR) $(JUPYTER_DATA_DIR) $(JUPYTER_RUNTIME_DIR) $(MPLCONFIGDIR) $(IPYTHONDIR)/profile_default; \
	echo 'c.IPKernelApp.log_level = "ERROR"  # not a warning about TCP for every notebook' \
	  >$(IPYTHONDIR)/profile_default/ipython_kernel_config.py; \
	touch $@

# The extra `benchmark`, on top of the lock. uv takes PyTorch's CPU build; where uv finds none, or is not there, pip
# installs what its indexes have (PyPI's build for Linux brings gigabytes of CUDA: to spare them, set
# PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu).
$(PEERS): $(STAMP)
	@set -e; \
	if command -v uv >/dev/null && uv pip install --quiet --python $(BIN)/python --torch-backend=cpu --no-build-isolation -e '.[benchmark]'; then :; \
	else \
	  $(BIN)/python -c 'import pip' 2>/dev/null || $(BIN)/python -m ensurepip; \
	  $(BIN)/python -m pip install --quiet --no-build-isolation -e '.[benchmark]'; \
	fi; \
	touch $@
