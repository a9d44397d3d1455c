# `make repro` runs the pipeline, `make test` all checks. Both install the environment first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
export PATH := $(CURDIR)/$(BIN):$(PATH)
PORT ?= 5000
# Bytecode is kept whatever the environment says: tests start many processes.
PYTEST = OMP_NUM_THREADS=1 PYTHONDONTWRITEBYTECODE= $(BIN)/pytest -q \
  --numprocesses auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder
NO_GIT = ! git rev-parse --git-dir > /dev/null 2>&1
GIT_HINT = "DVC needs a git repository here: git init; git add .; git commit -m Start"
DOCTOR_HINT = "If no stage says why: $(BIN)/edm2 doctor finds what was left half done, and says what to do."

.PHONY: setup repro lint check test faults docs ui constraints

setup: $(VENV)/.ready

$(VENV)/.ready: pyproject.toml constraints.txt
	"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; set PYTHON=...")'
	"$(PYTHON)" -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

repro: setup
	@$(BIN)/dvc repro || { status=$$?; { $(NO_GIT) && echo $(GIT_HINT) || echo $(DOCTOR_HINT); } >&2; exit $$status; }
	@echo "report: file://$$PWD/reports/index.html"

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	MYPY_NUM_WORKERS=2 $(BIN)/mypy
	$(BIN)/lint-imports

# The fast part of `make test`: under a minute on two cores, once mypy has its cache.
check: lint
	$(PYTEST) -m 'not slow' --durations 5 --durations-min 2

test: lint
	$(PYTEST)

# Kills, full disks and other errors at each change of a file, in minutes; see docs/reliability.md.
faults: setup
	$(PYTEST) -m faults

docs: setup
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

ui: setup
	mkdir -p .mlflow
	MLFLOW_DISABLE_TELEMETRY=true MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false \
	  $(BIN)/mlflow server --host 127.0.0.1 --port "$(PORT)" --workers 1 \
	  --backend-store-uri sqlite:///.mlflow/mlflow.db

constraints:
	$(BIN)/pip freeze --exclude-editable > constraints.txt
