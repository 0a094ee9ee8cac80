# The same few verbs here and in CI. `make` alone lists them.
# Needs Python 3.11 or newer with venv; everything else comes from the locks in requirements/.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip --disable-pip-version-check --quiet
PYTEST_ARGS ?= -n 3

.DEFAULT_GOAL := help
.PHONY: help run test check format generate lock bench soak clean

help: ## List what can be made.
	@sed -n 's/^\([a-z]*\):.*## /  make \1|/p' $(MAKEFILE_LIST) | column -t -s '|' 2>/dev/null \
	  || sed -n 's/^\([a-z]*\):.*## /  make \1  /p' $(MAKEFILE_LIST)

run: $(VENV)/.installed-run ## Start a plan store and a sidecar with an example catalogue.
	@exec $(BIN)/entitlements quickstart

test: $(VENV)/.installed-dev ## Run every test (PYTEST_ARGS="-k words" for some).
	@$(BIN)/pytest $(PYTEST_ARGS)

check: $(VENV)/.installed-dev ## Format, lint, types, layers, contract, generated files, chart, Dockerfile.
	@$(BIN)/python tools/check.py

format: $(VENV)/.installed-dev ## Format and fix what can be fixed.
	@$(BIN)/ruff check --fix-only --quiet .
	@$(BIN)/ruff format .

generate: $(VENV)/.installed-dev ## Write the code and the reference pages that come from the contract and the code.
	@$(BIN)/python tools/generate.py

lock: $(VENV)/.installed-dev ## Resolve requirements/*.txt again (upgrades nothing that need not change).
	@$(BIN)/python tools/lock.py

bench: $(VENV)/.installed-dev ## Measure against a bare grpc.aio echo (h2load adds a second opinion).
	@$(BIN)/python -m benchmarks

soak: $(VENV)/.installed-dev ## Run the tests that grow with time, at full length (some hours).
	@SOAK=1 BULK_TENANTS=10000 KILLS=60 $(BIN)/pytest --timeout 1800 tests/contract/planstore/test_scale.py \
	  tests/contract/planstore/test_snapshots_bulk.py tests/e2e/test_plan_store_crash.py tests/e2e/test_convergence.py \
	  tests/e2e/test_backlog.py tests/contract/usage/test_outbox_faults.py \
	  tests/e2e/test_usage_kills.py tests/e2e/test_lease_hammer.py tests/contract/usage/test_pipeline_machine.py

clean: ## Remove what the other verbs made.
	@rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .import_linter_cache build dist

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit(f"Python 3.11 or newer is needed, this is {sys.version.split()[0]}: make PYTHON=python3.11 ...")'
	@$(PYTHON) -m venv $(VENV)

$(VENV)/.installed-run: requirements/run.txt pyproject.toml | $(BIN)/python
	@echo "Installing what it needs into $(VENV) (once)"
	@$(PIP) install --require-hashes -r requirements/run.txt
	@$(PIP) install --no-deps --no-build-isolation -e .
	@touch $@

$(VENV)/.installed-dev: requirements/dev.txt pyproject.toml | $(BIN)/python
	@echo "Installing what tests and checks need into $(VENV) (once)"
	@$(PIP) install --require-hashes -r requirements/dev.txt
	@$(PIP) install --no-deps --no-build-isolation -e .
	@touch $@ $(VENV)/.installed-run
