# limn's verbs. Each sets up what it needs in .venv; PYTHON=python3.12 chooses another Python.
PYTHON ?= python3
TORCH ?= torch==2.13.0
VENV := .venv
BIN := $(VENV)/bin
LONG := node or peer or trains or slow
QUICK := not ($(LONG) or soak)
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

# The tests start hundreds of interpreters, and pytest rewrites every assertion: kept bytecode spares
# each of them seconds. Empty, it is kept whatever the environment has.
export PYTHONDONTWRITEBYTECODE =

.PHONY: install demo quick test lint fix docs bench soak study clean

install: $(VENV)/.installed

# torch first and alone: a CPU build that is at hand stays, nothing replaces it later.
# rt-utils, which the tests read structure sets with, without its dependencies: they would bring the
# OpenCV that needs libGL.
$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	@echo "installing limn into $(VENV); this takes a minute or two"
	$(PIP) $(TORCH)
	$(PIP) -e ".[dev]"
	$(PIP) --no-deps rt-utils
	touch $@

# BOARD=1 leaves the node running afterwards, with its board in a browser.
demo: install
	$(BIN)/limn demo $(if $(BOARD),--board)

lint: install
	$(BIN)/ruff format --check src tests bench docs examples
	$(BIN)/ruff check src tests bench docs examples
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

# The quick tests under coverage, then all others. A file's tests share fixtures.
# The order is that of tests/conftest.py: files with long tests first, those that wait for nodes, peers and
# timeouts between those that compute. Three at a time on two cores, for half of them wait.
# One thread each: two on two cores spin while the other computes (72 s instead of 126).
test: lint
	OMP_NUM_THREADS=1 $(BIN)/coverage run -m pytest -q -n 2 --dist loadfile -m "$(QUICK)"
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 3 --dist loadfile --no-loadscope-reorder -m "($(LONG)) and not soak" --durations-to tests/durations.txt
	$(BIN)/coverage combine --quiet
	$(BIN)/python tests/support/coverage_by_room.py

# What to run between two edits: the tests that need no node, no other program and no training.
quick: lint
	OMP_NUM_THREADS=1 $(BIN)/pytest -q -n 2 --dist loadfile -m "$(QUICK)"

fix: install
	$(BIN)/ruff format src tests bench docs examples
	$(BIN)/ruff check --fix src tests bench docs examples

docs: install
	$(BIN)/python docs/build_site.py build/site
	@echo "read it, with its search, at http://localhost:8000 by: python3 -m http.server -d build/site"

bench: install
	PYTHONPATH=. $(BIN)/python bench/run.py

# Parity installs nnunet 1.7.1 beside, in a temporary folder, and needs a package index for it.
soak: install
	PYTHONPATH=. $(BIN)/python bench/kill.py
	PYTHONPATH=. $(BIN)/python bench/senders.py
	PYTHONPATH=. $(BIN)/python bench/soak_series.py
	PYTHONPATH=. $(BIN)/python bench/hosts.py
	PYTHONPATH=. $(BIN)/python bench/kill_study.py
	PYTHONPATH=. $(BIN)/python bench/fuzz.py --cases 100000 --minutes 30
	PYTHONPATH=. $(BIN)/python bench/fuzz_files.py --cases 2000
	$(BIN)/python bench/parity_v1.py
	$(BIN)/pytest -m soak

# The paper's study in small, on phantoms; a killed one goes on.
study: install
	$(BIN)/limn lab reproduce config/phantom-study.toml -o study-out

clean:
	rm -rf $(VENV) demo-out study-out
