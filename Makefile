# make tune   search ACT's hyper-parameters on scikit-learn's digits, here and now
# make test   run the test suite          make lint   ruff and mypy
PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python

.PHONY: tune test slow lint clean

tune: $(VENV)/ready
	$(RUN) -m act_ray.tune

test: $(VENV)/ready
	$(RUN) -m pytest -m "not slow" $(ARGS)

slow: $(VENV)/ready
	$(RUN) -m pytest -m slow $(ARGS)

lint: $(VENV)/ready
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

# The stamp is written last, so that an interrupted installation is done again.
$(VENV)/ready: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "error: Python 3.11 or newer is needed; $(PYTHON) is older (make PYTHON=python3.11 ...)" >&2; exit 2; }
	@test -x $(RUN) || { echo "creating $(VENV) and installing (torch is large: a few minutes)"; $(PYTHON) -m venv $(VENV); }
	$(RUN) -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache
