# On a fresh machine with Python 3.11, make and pip: `make demo` or `make test` do all the set-up.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
export TF_CPP_MIN_LOG_LEVEL ?= 2
export TF_NUM_INTRAOP_THREADS ?= 2
export TF_NUM_INTEROP_THREADS ?= 1
unexport PYTHONDONTWRITEBYTECODE  # each of the many processes of the tests would compile all of confide again

.PHONY: demo test test-long docs lint types unit lowest lock bench format clean

.venv/ready: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --no-compile --editable . --group dev
	$(BIN)/python -m compileall -qq -j 0 -x /tests/ .venv/lib || true  # pip would do it on one core; what is for other Pythons fails
	$(BIN)/python -m protocols.mpc.kernels
	touch $@

demo: .venv/ready
	$(BIN)/python examples/demo.py

test: lint  # types on one core, tests on the others
	$(MAKE) --jobs 2 types unit

.venv/long: .venv/ready
	$(BIN)/python -m pip install --quiet --group long
	touch $@

test-long: .venv/long
	$(BIN)/pytest -m long --timeout 1800

.venv/docs: .venv/ready
	$(BIN)/python -m pip install --quiet --group docs
	touch $@

docs: .venv/docs  # into site/; a link or a name that is not there is an error
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet

lint: .venv/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: .venv/ready
	$(BIN)/mypy

unit: .venv/ready
	$(BIN)/pytest --numprocesses 3 --dist loadfile --no-loadscope-reorder

LOWEST := build/lowest
lowest:  # the lowest versions that pyproject.toml allows, of all but torch (gigabytes) and tfp (pins others)
	$(PYTHON) -m venv --clear $(LOWEST)
	$(LOWEST)/bin/python -m pip install --quiet uv
	$(LOWEST)/bin/uv pip install --quiet --python $(LOWEST)/bin/python --resolution lowest-direct --only-binary :all: --no-binary confide \
		--editable '.[keras,otel,plot,ray,scikit]'
	$(LOWEST)/bin/uv pip freeze --quiet --python $(LOWEST)/bin/python --exclude-editable > $(LOWEST)/versions.txt
	$(LOWEST)/bin/uv pip install --quiet --python $(LOWEST)/bin/python --constraint $(LOWEST)/versions.txt \
		pytest pytest-asyncio pytest-timeout hypothesis psutil
	$(LOWEST)/bin/confide --help > $(LOWEST)/help.txt
	$(LOWEST)/bin/confide worker --help > $(LOWEST)/help.txt
	$(LOWEST)/bin/python -m pytest -W default tests/actors/test_wire.py tests/protocols/test_tickets.py tests/protocols/test_vault.py \
		tests/privacy/test_accounting.py

lock: .venv/ready  # needs uv; no registry's name is written into them
	uv pip compile pyproject.toml --universal --generate-hashes --no-emit-index-url --no-emit-find-links --no-header --python-version 3.11 \
		--output-file requirements.lock
	uv pip compile pyproject.toml --extra keras --universal --generate-hashes --no-emit-index-url --no-emit-find-links --no-header \
		--python-version 3.11 --output-file requirements-keras.lock

bench: .venv/ready
	$(BIN)/python -m benchmarks.prediction

format: .venv/ready
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf .venv build dist site *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
