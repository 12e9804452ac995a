# make tune   search ACT's hyper-parameters on scikit-learn's digits, here and now
# make test   run the test suite          make test-all  with the tests that take minutes
# make test-faults   inject faults alone and print what they did; FAULTS=full: all points, all tries (hours)
# make speed  this tree's training step against the last release's; fails at a loss of 10%
# make lint   ruff and mypy               make docs      docs/settings.md, and the API's pages in build/api
PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python

# Processes that run tests side by side; tests of one file, and all tests on Ray, stay in one (tests/conftest.py).
JOBS ?= 2
PYTEST := $(RUN) -m pytest -n $(JOBS) --dist loadgroup --no-loadscope-reorder

.PHONY: tune test test-all test-faults speed lint docs clean

tune: $(VENV)/ready
	$(RUN) -m act_ray.tune

test: $(VENV)/ready
	$(PYTEST) -m "not slow" $(ARGS)

test-all: $(VENV)/ready
	$(PYTEST) $(ARGS)

test-faults: $(VENV)/ready
	FAULTS=$(FAULTS) $(PYTEST) tests/faults tests/tune/test_ray_search.py::test_prunes_in_a_row_leave_nothing_behind $(ARGS)

speed: $(VENV)/ready
	$(RUN) benchmarks/regression.py $(ARGS)

lint: $(VENV)/ready
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

docs: $(VENV)/ready
	$(RUN) docs/generate.py

# The stamp is written last, so that an interrupted installation is done again.
$(VENV)/ready: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "error: Python 3.11 or newer is needed; $(PYTHON) is older (make PYTHON=python3.11 ...)" >&2; exit 2; }
	@test -x $(RUN) || { echo "creating $(VENV) and installing (torch is large: a few minutes)"; $(PYTHON) -m venv $(VENV); }
	$(RUN) -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

clean:
	rm -rf $(VENV) build .pytest_cache .mypy_cache .ruff_cache
