# `make demo` and `make test` need Python >= 3.10 and make, and nothing else: they create .venv.
PYTHON ?= python3
BIN = .venv/bin

.PHONY: demo test lint bench bench-images bench-sweep clean

demo: .venv/installed
	$(BIN)/tfp-flows fit --out runs/faithful

# XLA keeps what it compiled for as long as a process lives: in parts, no worker grows beyond 3 GB.
PYTEST = $(BIN)/python -m pytest --numprocesses 2 --dist worksteal
test: .venv/installed lint
	$(PYTEST) tests/test_a*.py tests/test_ba*.py
	$(PYTEST) tests/test_bijectors.py -k float32
	$(PYTEST) tests/test_bijectors.py -k "not float32"
	$(PYTEST) tests/test_[c-e]*.py
	$(PYTEST) tests/test_[f-m]*.py
	$(PYTEST) tests/test_[n-s]*.py
	$(PYTEST) tests/test_[t-z]*.py

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

# Bits a dimension of images: in IMAGES, options of benchmarks/images.py.
bench-images: .venv/installed .venv-peers/installed
	$(BIN)/python benchmarks/images.py $(IMAGES)

.venv-peers/installed: benchmarks/speed_workers/requirements.txt
	$(PYTHON) -m venv .venv-peers
	.venv-peers/bin/python -m pip install --quiet --upgrade pip
	.venv-peers/bin/python -m pip install --quiet --requirement $<
	touch $@

clean:
	rm -rf .venv .venv-peers build dist *.egg-info
