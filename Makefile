# Everything from a fresh clone: `make demo`, `make test`, `make check`. PYTHON chooses the interpreter.
PYTHON ?= python3
VENV := .venv
STAMP := $(VENV)/.installed
PIP := $(VENV)/bin/pip

export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: demo test check format clean

## Train the starter model on the starter data (no network once installed) and name the report.
demo: $(STAMP)
	$(VENV)/bin/chainft train task=ner
	@echo "report: $$(ls -td runs/*_ner*/ | head -n 1)report.html"

# A process for each core, each with one thread.
test: $(STAMP)
	OMP_NUM_THREADS=1 $(VENV)/bin/python -m pytest -q -n auto --dist worksteal

check: $(STAMP)
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy chainft

format: $(STAMP)
	$(VENV)/bin/ruff format .
	$(VENV)/bin/ruff check --fix .

clean:
	rm -rf build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find chainft tests scripts -type d -name __pycache__ -exec rm -rf {} +

# Repeated only when what is to be installed changes; an environment that is there is kept.
$(STAMP): pyproject.toml constraints.txt
	test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV)
	$(PIP) install -q torch==2.13.0
	$(PIP) install -q -c constraints.txt -e '.[starter,dev]'
	touch $@
