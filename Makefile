# make demo   set up and classify the pictures of examples/     make test      what CI runs
# make lint   ruff and pyright                                  make test-all  slow tests too
#
# TORCH says which torch, and is remembered; by default the pinned version from pip's own index.
#   make demo TORCH="torch==2.13.0 --index-url https://download.pytorch.org/whl/cu128"
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
ASKED := $(strip $(TORCH))
KEPT := $(shell cat $(VENV)/.torch 2>/dev/null)
TORCH := $(or $(ASKED),$(KEPT),torch==2.13.0)
PIP := $(BIN)/python -m pip --disable-pip-version-check -q install -c $(VENV)/constraints.txt
SOURCES := $(wildcard pyproject.toml constraints.txt)

.PHONY: demo test test-all lint docs vocabulary clean

demo: $(VENV)/.ready
	@$(BIN)/python examples/demo.py

test: lint vocabulary
	@$(BIN)/python -m pytest

test-all: $(VENV)/.ready-dev vocabulary
	@$(BIN)/python -m pytest -m "not weights and not gpu and not net"

lint: $(VENV)/.ready-dev
	@$(BIN)/python -m ruff check .
	@$(BIN)/python -m ruff format --check .
	@$(BIN)/python -m pyright --pythonpath $(BIN)/python

docs: $(VENV)/.ready-dev
	@$(BIN)/python tools/command_line_page.py

vocabulary: $(VENV)/.ready-dev
	@$(BIN)/python tools/fetch_vocabulary.py

# Another torch than the one that is there: set up again.
ifneq ($(ASKED),)
ifneq ($(ASKED),$(KEPT))
.PHONY: $(VENV)/.ready
endif
endif

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "lascaux needs Python 3.11 or newer; this is " + sys.version.split()[0] + " (make PYTHON=python3.12 ... chooses another)")'
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); echo "No venv: on Debian and Ubuntu, apt-get install python3-venv" >&2; exit 1; }

$(VENV)/.ready: $(VENV)/bin/python $(SOURCES)
	@echo "Setting up $(VENV) (once; a few minutes)"
ifneq ($(ASKED),)
ifneq ($(ASKED),$(KEPT))
	@# Wheels of one version for other devices are the same to pip, so the old one goes first.
	@rm -f $@; $(BIN)/python -m pip --disable-pip-version-check -q uninstall -y torch 2>/dev/null
endif
endif
	@$(BIN)/python -m pip --disable-pip-version-check -q install $(TORCH)
	@# Whichever torch was asked for stays: nothing installed later may exchange it.
	@grep -v '^torch==' constraints.txt > $(VENV)/constraints.txt
	@$(BIN)/python -c 'from importlib.metadata import version; print("torch==" + version("torch"))' >> $(VENV)/constraints.txt
	@$(PIP) -e .
	@$(if $(ASKED),echo '$(ASKED)' > $(VENV)/.torch)
	@touch $@

$(VENV)/.ready-dev: $(VENV)/.ready
	@echo "Installing what the tests need (once)"
	@$(PIP) -e '.[dev]'
	@touch $@

clean:
	rm -rf $(VENV) build demo .pytest_cache .ruff_cache
