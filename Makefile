# make reproduce    run every notebook with the tiny profile and write runs/report.html
# make test         run the test suite, the short notebooks included
# make quick        run the tests that take no time: what to run while changing something
# make lint         check style, format and types
# make browser      move the widgets of a notebook in the Chromium of this machine
#
# Each makes a virtual environment in .venv first if there is none; nothing but Python and make is needed.
# Choose the interpreter with PYTHON=python3.12, add options with ARGS="--only 03 --fresh".

PYTHON ?= python3
ARGS ?=
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/installed
# By uv where it is installed, else by pip.
INSTALL = $(if $(shell command -v uv),uv pip install --python $(BIN)/python,$(BIN)/python -m pip install) --quiet --editable
NOTEBOOKS = $(wildcard notebooks/0[01]_*.ipynb)

# A process for each core, up to four, with one thread each: threads would wait for one another.
PYTEST = OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -rs --timeout=900 \
	-n auto --maxprocesses=4 --dist loadfile --no-loadscope-reorder

.PHONY: reproduce test quick lint browser

reproduce: $(INSTALLED)
	$(BIN)/airlib reproduce $(ARGS)

test: $(INSTALLED)
	$(PYTEST) $(if $(NOTEBOOKS),--nbval-lax --nbval-current-env) tests $(NOTEBOOKS) $(ARGS)

quick: $(INSTALLED)
	$(PYTEST) -m "not slow" tests $(ARGS)

lint: $(VENV)/lint
	$(BIN)/ruff check .
	$(BIN)/ruff format --check airlib tests benchmarks
	$(BIN)/mypy

browser: $(INSTALLED)
	@$(INSTALL) '.[notebooks,test,browser]'
	$(BIN)/python -m pytest -q -rsP tests/showing/test_browser.py $(ARGS)

$(VENV)/lint: $(INSTALLED)
	@$(INSTALL) '.[notebooks,test,lint]'
	@touch $@

# The stamp is touched only after a complete installation, so an interrupted one is repeated.
$(INSTALLED): pyproject.toml
	@test -x $(BIN)/pip || { \
		$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
			|| { echo "airlib needs Python 3.11 or newer: make PYTHON=python3.11" >&2; exit 1; }; \
		$(PYTHON) -m venv --clear $(VENV); }
	@echo "Installing airlib with PyTorch in $(VENV): minutes, the first time"
	@$(INSTALL) '.[notebooks,test]'
	@touch $@
