# `make demo` and `make test` need Python >= 3.10 and make, and nothing else: they create .venv.
PYTHON ?= python3
BIN = .venv/bin

.PHONY: demo test lint bench clean

demo: .venv/installed
	$(BIN)/tfp-flows fit --out runs/faithful

test: .venv/installed lint
	$(BIN)/python -m pytest --numprocesses 2 --dist worksteal

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# The environment is made again when what it depends on changes.
.venv/installed: setup.cfg pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable ".[cli,test,tutorials]"
	touch $@

clean:
	rm -rf .venv build dist *.egg-info
