# What a newcomer needs: `make demo` and `make test`.  Both make their own
# virtual environment in .venv; nothing else on the machine is touched.

PYTHON ?= python3
VENV   := .venv
# ldap is built from source and wants libldap2-dev, libsasl2-dev and gcc; without
# it its tests are skipped.
EXTRAS ?= fast,dev,sql
BIN    := $(VENV)/bin

.PHONY: demo test lint types unit clean

demo: $(VENV)/.run
	$(BIN)/backstop demo

test: lint types unit

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.dev
	$(BIN)/mypy

# -rs names every test that was skipped, and what would enable it.
unit: $(VENV)/.dev
	$(BIN)/pytest -q -rs -n auto

$(VENV)/.python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Python 3.11 or newer is needed: make PYTHON=/path/to/python3.11 $(MAKECMDGOALS)" >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV) || \
	  { echo "python3-venv is missing: apt-get install python3-venv" >&2; exit 1; }
	@touch $@

$(VENV)/.run: $(VENV)/.python pyproject.toml
	$(BIN)/pip install -q --disable-pip-version-check -e .
	@touch $@

$(VENV)/.dev: $(VENV)/.python pyproject.toml
	$(BIN)/pip install -q --disable-pip-version-check -e '.[$(EXTRAS)]'
	@touch $@ $(VENV)/.run

clean:
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .hypothesis build dist
