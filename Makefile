# Every target installs what it needs into .venv first; a second run installs nothing.
# Another interpreter: make test PYTHON=python3.12      Options of the command behind a target: make test ARGS="-k das -n 0"

PYTHON ?= python3
ARGS ?=
BIN := .venv/bin
OLDEST := .venv-oldest
PARALLEL := -n auto --maxprocesses 8 --dist loadfile --no-loadscope-reorder

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.NOTPARALLEL:
.PHONY: help install demo audit test faults lint docs bench test-oldest lock clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-12s %s\n", $$1, $$2 }' Makefile

install: .venv/.installed ## install the command line with all that the README shows: .venv/bin/alignprune

demo: .venv/.installed ## train with label noise on a small data set, with and without pruning
	$(BIN)/alignprune demo $(ARGS)

# Wrong labels planted in real digits; data of your own: make audit ARGS="path/to/folder".
audit: ARGS := $(or $(ARGS),digits --noise symmetric --noise-rate 0.1 --out runs/audit-digits)
audit: .venv/.installed ## find the labels that are probably wrong, and write the label report
	$(BIN)/alignprune audit $(ARGS)

test: .venv/.installed-dev ## run the tests
	$(BIN)/python -m pytest $(PARALLEL) $(ARGS)

faults: .venv/.installed-dev ## kill, starve and damage runs, and count what is lost: about an hour
	PYTHONPATH=tests $(BIN)/python -m faults $(ARGS)

lint: .venv/.installed-dev ## check format, style and types
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy

docs: .venv/.installed-dev ## write the generated parts of the documentation anew, and build the site into site/
	$(BIN)/python docs/generate.py $(ARGS)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

bench: .venv/.installed ## measure what pruning costs, against its goals: ten minutes; one line: ARGS="--only robust"
	$(BIN)/python benchmarks/speed.py $(ARGS)

# What needs the extras stays out.
test-oldest: $(OLDEST)/.installed ## run the core tests on the oldest supported torch and numpy (Python 3.10 to 3.12)
	$(OLDEST)/bin/python -m pytest tests $(PARALLEL) --ignore-glob="tests/test_cli*" $(addprefix --ignore=tests/,bench audit faults \
	  test_commands_shown.py test_docs.py test_packaging.py) $(ARGS)

lock: .venv/.installed-lock ## write constraints.txt from pyproject.toml; newest versions: make lock ARGS=--upgrade
	$(BIN)/uv pip compile --quiet --universal --python-version 3.10 --all-extras --group dev --no-emit-index-url \
	  --no-annotate --custom-compile-command "make lock" --output-file constraints.txt $(ARGS) pyproject.toml

clean: ## remove caches and build outputs; environments, runs/ and data/ stay
	rm -rf build dist site .coverage .hypothesis .mypy_cache .pytest_cache .ruff_cache src/*.egg-info
	find src tests docs examples benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +

# -- environments -----------------------------------------------------------------------------------------

# $(call require,<test of the version v>,<what is needed>): stop early, and say what to do.
define require
@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(not ($(1)))' 2>/dev/null || { \
  echo "error: $(2); '$(PYTHON)' is $$($(PYTHON) --version 2>&1)." >&2; \
  echo "       Choose another interpreter: make $(MAKECMDGOALS) PYTHON=/path/to/python3" >&2; exit 1; }
endef

# pip is the last thing that venv installs: where it is, the environment is complete.
.venv/bin/pip:
	$(call require,v >= (3, 10),AlignPrune needs Python 3.10 or newer)
	$(PYTHON) -m venv .venv

# One environment for all that users do.
.venv/.installed: pyproject.toml constraints.txt | .venv/bin/pip
	$(BIN)/python -m pip install -q -c constraints.txt -e ".[audit,pretrained,sentences]"
	@touch $@

.venv/.installed-dev: pyproject.toml constraints.txt | .venv/.knows-groups
	$(BIN)/python -m pip install -q -c constraints.txt -e ".[all]" --group dev
	@touch $@

.venv/.installed-lock: pyproject.toml | .venv/.knows-groups
	$(BIN)/python -m pip install -q --group lock
	@touch $@

# pip of Python 3.10 to 3.13 is older than the groups of pyproject.toml.
.venv/.knows-groups: | .venv/bin/pip
	$(BIN)/python -m pip install -q "pip>=25.1"
	@touch $@

$(OLDEST)/bin/pip:
	$(call require,(3, 10) <= v <= (3, 12),the oldest supported torch runs on Python 3.10 to 3.12)
	$(PYTHON) -m venv $(OLDEST)

# The two pins are the lower bounds of the dependencies in pyproject.toml.
$(OLDEST)/.installed: pyproject.toml | $(OLDEST)/bin/pip
	$(OLDEST)/bin/python -m pip install -q torch==2.4.0 numpy==1.26.4 pytest pytest-xdist hypothesis scipy scikit-learn ckwrap sybil
	$(OLDEST)/bin/python -m pip install -q --no-deps -e .
	@touch $@
