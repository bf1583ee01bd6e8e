# Every target sets up what it needs. `make help` lists them.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
# PyTorch's own CPU builds: the package registry's build of the same version brings gigabytes of CUDA. Where this
# index cannot be reached and the registry offers a CPU build, pip takes that one.
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu
PIP    := $(BIN)/python -m pip --quiet --disable-pip-version-check
PINS   := -c constraints.txt
export PYTHONPATH := examples

.PHONY: help setup setup-dev demo demo-full test test-fast soak lint bench protos clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

setup: $(VENV)/.stamp-all ## the environment of the demo, in .venv
setup-dev: $(VENV)/.stamp-dev ## the same, with the tools of tests and lint

$(BIN)/python:
	$(PYTHON) scripts/check_python.py
	$(PYTHON) -m venv $(VENV)
	$(PIP) install --upgrade pip==26.3

$(VENV)/.stamp-all: pyproject.toml constraints.txt | $(BIN)/python
	@echo "Installing Marsam into $(VENV) (about 1.4 GB with PyTorch for the CPU)"
	$(PIP) install --no-deps --retries 1 $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX)) torch==2.13.0
	$(PIP) install $(PINS) -e '.[all]'
	@$(BIN)/python scripts/check_torch.py
	@touch $@

$(VENV)/.stamp-dev: $(VENV)/.stamp-all
	$(PIP) install $(PINS) -e '.[all,dev]'
	@touch $@

demo: setup ## the whole story on this machine, ends with the path of a report
	@$(BIN)/python -m hayy.demo

demo-full: setup ## raw and balanced sets, all three methods, side by side
	@$(BIN)/python -m hayy.demo --full

test: setup-dev ## everything CI runs
	@$(BIN)/python scripts/system_packages.py
	$(MAKE) --no-print-directory lint
	$(BIN)/python -m pytest -m 'not soak and not gpu'

test-fast: setup-dev ## the tests that answer within three minutes
	$(BIN)/python -m pytest -m 'not slow and not soak and not gpu'

soak: setup-dev ## the tests that take hours: MARSAM_SOAK_MINUTES (60) each
	$(BIN)/python -m pytest -m soak

lint: setup-dev ## ruff, mypy, import-linter, buf, stubs equal to a fresh generation
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python scripts/protos.py --check

bench: setup-dev ## figures of speed and memory against named peers
	$(BIN)/python -m benchmarks

protos: setup-dev ## regenerate src/marsam/api and the descriptor image
	$(BIN)/python scripts/protos.py

clean: ## remove the environment and what the demo made
	rm -rf $(VENV) .demo .marsam
