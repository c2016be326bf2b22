# `make train` and `make test` create the environment they need, then run.
PYTHON ?= $(firstword $(shell command -v python3.11 python3.12 python3.13))
VENV ?= .venv
RUN := $(VENV)/bin/python
# Python compiles what it imports, a small part of 240 MB of sources.
INSTALL := $(VENV)/bin/pip install --disable-pip-version-check --no-compile -c requirements.txt
CONFIG ?= configs/performer/protein_mlm_tiny.gin
WORKDIR ?= runs/$(basename $(notdir $(CONFIG)))

# Each worker begins with one half of the tests in their order, so that it keeps
# what neighbouring files compile. A worker that died is not replaced: the tests
# in its queue would then wait for ever.
WORKERS := -n 2 --dist worksteal --max-worker-restart=0

# Steps free their memory and ask for it again; large pages make that cheap.
LARGE_PAGES := glibc.malloc.hugetlb=1

# Tests start many processes that import JAX; with its bytecode, each does so in a
# third of the time.
PYTEST := PYTHONDONTWRITEBYTECODE= $(RUN) -m pytest -rs $(WORKERS)

# Debian packages that some tests use: proteins, Qt 5 for Procgen in EnvPool,
# OSMesa for pictures of MuJoCo without a display.
SYSTEM_PACKAGES := mmseqs2 libqt5core5a libqt5gui5 libosmesa6

.PHONY: train test test-all docs lint system clean help

help:
	@echo 'make train   train a small Performer on real proteins (3 minutes), show what it learnt'
	@echo 'make test    lint, then run the quick tests (8 minutes)'
	@echo 'make test-all   lint, then run all tests, the slow ones too'
	@echo 'make docs    build the site in .cache/site; dead links are errors'
	@echo 'make clean   remove the environment and caches; runs/ stays'

train: $(VENV)/.core
	@echo '== training: $(CONFIG) -> $(WORKDIR)'
	GLIBC_TUNABLES=$(LARGE_PAGES) $(RUN) -m performer.train --gin_file=$(CONFIG) --workdir=$(WORKDIR)

test: lint
	@echo '== tests'
	$(PYTEST)

test-all: lint
	@echo '== tests, the slow ones too'
	$(PYTEST) -m 'not gpu'

docs: $(VENV)/.docs
	@echo '== site: .cache/site'
	NO_MKDOCS_2_WARNING=1 $(VENV)/bin/mkdocs build

lint: $(VENV)/.dev system
	@echo '== lint'
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .

$(VENV)/bin/python:
	@test -n '$(PYTHON)' || { echo 'error: Python 3.11 to 3.13 is needed and none was found'; exit 1; }
	@echo '== creating $(VENV) with $(PYTHON)'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.core: $(VENV)/bin/python pyproject.toml requirements.txt
	@echo '== installing the core (about 1.3 GB, a minute or two)'
	$(INSTALL) -e '.[report]'
	@touch $@

$(VENV)/.dev: $(VENV)/bin/python pyproject.toml requirements.txt
	@echo '== installing everything that is tested'
	$(INSTALL) -e '.[dev]'
	@touch $@ $(VENV)/.core

$(VENV)/.docs: $(VENV)/bin/python pyproject.toml requirements.txt
	@echo '== installing what builds the site'
	$(INSTALL) -e ".[docs]"
	@touch $@

system:
	@missing=; for p in $(SYSTEM_PACKAGES); do dpkg -s $$p >/dev/null 2>&1 || missing="$$missing $$p"; done; \
	if [ -z "$$missing" ]; then :; \
	elif [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	  echo "== installing Debian packages:$$missing"; \
	  apt-get update -qq && apt-get install -y -qq --no-install-recommends $$missing >/dev/null \
	    || echo "warning: could not install$$missing; tests that need them skip"; \
	else echo "note: not root on Debian; tests that need$$missing skip"; fi

clean:
	rm -rf $(VENV) .cache .pytest_cache .ruff_cache *.egg-info
