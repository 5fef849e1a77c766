# `make demo` and `make test` need Python >= 3.10 and make, and nothing else: they create .venv.
PYTHON ?= python3
BIN = .venv/bin

.PHONY: demo test lint bench bench-sweep clean

demo: .venv/installed
	$(BIN)/tfp-flows fit --out runs/faithful

# XLA keeps what it compiled for as long as a process lives: in two parts, no worker grows large.
test: .venv/installed lint
	$(BIN)/python -m pytest --numprocesses 2 --dist worksteal tests/test_[a-d]*.py
	$(BIN)/python -m pytest --numprocesses 2 --dist worksteal tests/test_[!a-d]*.py

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# The environment is made again when what it depends on changes.
.venv/installed: setup.cfg pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable ".[cli,test,tutorials]"
	touch $@

# Ours beside other libraries, on the CPU: in SPEED, options of benchmarks/speed.py. What else runs
# at the same time spoils it.
bench: .venv/installed .venv-peers/installed
	$(BIN)/python benchmarks/speed.py $(SPEED)

bench-sweep: .venv/installed .venv-peers/installed
	$(BIN)/python benchmarks/speed.py --sweep --rounds 3 --plot benchmarks/speed.png $(SPEED)

.venv-peers/installed: benchmarks/speed_workers/requirements.txt
	$(PYTHON) -m venv .venv-peers
	.venv-peers/bin/python -m pip install --quiet --upgrade pip
	.venv-peers/bin/python -m pip install --quiet --requirement $<
	touch $@

clean:
	rm -rf .venv .venv-peers build dist *.egg-info
