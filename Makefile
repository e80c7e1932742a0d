# make demo    a phantom, a simulated exposure, its registration, a report
# make test    every test
# make lint    ruff and mypy
# make bench   the measured cases of the README
#
# Each makes its own virtual environment in .venv first; PYTHON=python3.12 chooses another interpreter.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready
OUT    ?= build/demo
# Tests run in so many processes at once; auto is one for each core and 6 GiB of memory.
WORKERS ?= auto

.DEFAULT_GOAL := help
.PHONY: help demo test lint bench clean

help:
	@sed -n 's/^# make/make/p' Makefile

# torch goes first and alone: pip then takes the build that its own configuration prefers, a CPU build say, and nothing
# that follows can ask for another.
$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "raylign needs Python 3.11 or later; name one with: make PYTHON=python3.12 ..." >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -c constraints.txt "$$(grep '^torch==' constraints.txt)"
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[dev]"
	@touch $@

demo: $(READY)
	$(BIN)/raylign demo --out $(OUT)
	@echo "Open $(OUT)/report.html in a browser."

# The warning is that of ITK's wrappers as Python ends, after the last line of pytest.
test: $(READY)
	$(BIN)/python -W "ignore:builtin type:DeprecationWarning" -m pytest -n $(WORKERS) --dist loadfile

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(READY)
	$(BIN)/python benchmarks/cases.py

clean:
	rm -rf build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find src tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +
