# make train   set up, then pretrain on the embedded data, evaluate and print the results
# make test    set up, then run the tests on every supported Python that is installed
# make lint    ruff, pyright, the import order, and docstrings with shapes
# make setup   only set up; make clean removes environments and caches (never runs/)
# make peers   compare numbers with libraries of record, in .venv-peers (2 GB, once)

.PHONY: train test lint setup peers format clean help
.DEFAULT_GOAL := help

# Interpreters are run to find out whether they work: pyenv puts shims on PATH for versions that are not enabled.
PYENV := $(or $(PYENV_ROOT),$(HOME)/.pyenv)
find = $(shell for python in python$(1) python3 "$(PYENV)"/versions/$(1).*/bin/python3; do \
	"$$python" -c 'import sys, ensurepip, venv; sys.version_info[:2] == tuple(map(int, "$(1)".split("."))) \
	or sys.exit(1); print(sys.executable)' 2>/dev/null && break; done)
PYTHON_3.12 := $(call find,3.12)
PYTHON_3.11 := $(call find,3.11)

# `make train` uses the newest. Each version has its own environment.
FOUND := $(if $(PYTHON_3.12),3.12) $(if $(PYTHON_3.11),3.11)
MAIN := $(firstword $(FOUND))
venv = .venv$(if $(filter-out $(MAIN),$(1)),-$(1))
BIN = .venv/bin

help:
	@sed -n 's/^# \(make.*\)/\1/p' Makefile

setup: .venv/ready

train: .venv/ready
	@$(BIN)/mmjax train experiments/quickstart.py

test: $(foreach version,$(FOUND),$(call venv,$(version))/ready) .venv/ready
	@$(foreach version,$(FOUND),echo "tests on Python $(version)" && \
		$(call venv,$(version))/bin/python -m pytest $(PYTEST) \
		$(if $(filter-out $(lastword $(FOUND)),$(version)),-m "not once") && ) true

# pytest's arguments, such as PYTEST="-x tests/test_cli.py".
PYTEST ?= -n 2 --dist loadgroup

lint: .venv/ready
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/lint-imports
	$(BIN)/python -m pytest -q tests/test_docstrings.py

format: .venv/ready
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# pip's arguments for the libraries of record, such as where to find torch without CUDA.
PEERS_PIP ?=

peers: .venv-peers/ready
	.venv-peers/bin/python experiments/benchmarks/libraries_of_record.py

.venv-peers/ready: constraints/peers.txt
	@echo "setting up .venv-peers with $(or $(PYTHON_3.11),$(PYTHON_3.12)): some minutes, once"
	@rm -rf .venv-peers
	@"$(or $(PYTHON_3.11),$(PYTHON_3.12))" -m venv .venv-peers
	@.venv-peers/bin/python -m pip install -qq --disable-pip-version-check $(PEERS_PIP) \
		--requirement constraints/peers.txt --editable .
	@touch $@

clean:
	rm -rf .venv .venv-* build dist *.egg-info .pytest_cache .ruff_cache .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# `ready` is written last, so that an interrupted set-up starts again. It is up to date when newer than its inputs.
define environment
$(call venv,$(1))/ready: setup.cfg pyproject.toml constraints/py$(subst .,,$(1)).txt
	@echo "setting up $$(@D) with $(PYTHON_$(1)): a few minutes, once"
	@rm -rf $$(@D)
	@"$(PYTHON_$(1))" -m venv $$(@D)
	@$$(@D)/bin/python -m pip install -qq --disable-pip-version-check \
		--constraint constraints/py$(subst .,,$(1)).txt --editable '.[dev]'
	@touch $$@
endef
$(foreach version,$(FOUND),$(eval $(call environment,$(version))))

ifeq ($(strip $(FOUND)),)
.venv/ready:
	@echo "mmjax needs Python 3.11 or 3.12 with venv, and found neither." >&2
	@echo "Install one (Debian and Ubuntu: apt install python3-venv), then run make again." >&2
	@exit 2
endif
