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
CLUSTER_SUITES := tests/contract/launch/test_launcher_behaviour.py tests/contract/launch/test_kubernetes_api.py
# Pods of several nodes find each other by a headless Service.
CLUSTER_SUITES += $(if $(MARSAM_TEST_SERVICE),tests/contract/launch/test_ranks_behaviour.py)

.PHONY: help setup setup-dev demo demo-full test test-fast half-programs half-others test-cluster has-kubeconfig test-gpu bench-gpu soak lint bench protos dashboards images-check clean

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

$(VENV)/.stamp-seaweedfs: $(VENV)/.stamp-all
	$(PIP) install $(PINS) -e '.[all,seaweedfs]'
	@touch $@

$(VENV)/.stamp-dev: $(VENV)/.stamp-all
	$(PIP) install $(PINS) -e '.[all,dev]'
	@touch $@

STORE ?= folder
demo: setup $(if $(filter s3,$(STORE)),$(VENV)/.stamp-seaweedfs) ## the whole story on this machine, ends with a report; STORE=s3 keeps it in SeaweedFS
	@$(BIN)/python -m hayy.demo --store $(STORE)

demo-full: setup ## raw and balanced sets, all three methods, side by side
	@$(BIN)/python -m hayy.demo --full

# Helm and kubectl, for the tests of the chart.
.tools/.stamp: scripts/tools.py | $(VENV)/.stamp-dev
	$(BIN)/python scripts/tools.py
	@touch $@

# A real Triton server, in an environment of its own: its wheel wants a numpy that nothing else here does.
.triton/.stamp: constraints-triton.txt | $(VENV)/.stamp-dev
	@echo "Installing Triton Inference Server into .triton (about 400 MB)"
	$(PYTHON) -m venv .triton
	.triton/bin/python -m pip install --quiet --disable-pip-version-check -c constraints-triton.txt nvidia-pytriton==0.7.0
	@touch $@

test: setup-dev .tools/.stamp .triton/.stamp ## everything CI runs
	@$(BIN)/python scripts/system_packages.py
	$(MAKE) --no-print-directory lint
	$(HALVES) MARK='not soak and not gpu'

test-fast: setup-dev .tools/.stamp ## the tests that answer within three minutes
	$(HALVES) MARK='not slow and not soak and not gpu'

# Side by side: most tests keep one core busy, and a machine has two. The halves take about as long as each other.
HALVES = $(MAKE) --no-print-directory -j2 half-programs half-others
PROGRAMS = $(addprefix tests/integration/,cli client clients dataset demo evaluation generator run trainer)
half-programs:
	$(BIN)/python -m pytest -p no:cacheprovider -m "$(MARK)" $(PROGRAMS)
half-others:
	$(BIN)/python -m pytest -p no:cacheprovider -m "$(MARK)" tests $(PROGRAMS:%=--ignore=%)

test-cluster: has-kubeconfig setup-dev ## the launcher's contract against the real cluster of KUBECONFIG
	MARSAM_TEST_CLUSTER=1 $(BIN)/python -m pytest -q $(CLUSTER_SUITES)

has-kubeconfig:
	@test -f "$(KUBECONFIG)" || { echo "set KUBECONFIG to the file of a cluster where you may create Jobs"; exit 1; }

images-check: setup-dev ## build the CPU images without Docker, weigh them, tell the demo's story through them (root, Debian)
	@$(BIN)/python scripts/system_packages.py images
	PYTHONPATH=examples:. $(BIN)/python -m scripts.images

test-gpu: setup-dev ## the tests that need a CUDA device, with a CUDA build of torch in the environment
	$(BIN)/python -m pytest -m gpu tests/gpu

bench-gpu: setup-dev ## a FLUX.1-sized QLoRA on one GPU, against a loop as diffusers writes it
	$(BIN)/python -m benchmarks.gpu.flux_qlora

soak: setup-dev ## the tests that take hours: MARSAM_SOAK_MINUTES (60) each
	$(BIN)/python -m pytest -m soak

lint: setup-dev ## ruff, mypy, import-linter, hadolint, buf, generated files equal to a fresh generation
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/hadolint services/*/Dockerfile services/*/*.Dockerfile
	$(BIN)/python -m scripts.protos --check
	$(BIN)/python scripts/chart_readme.py --check
	$(BIN)/python scripts/dashboards.py --check

bench: setup-dev .tools/.stamp .triton/.stamp ## figures of speed and memory against named peers
	$(BIN)/python -m benchmarks

protos: setup-dev ## regenerate src/marsam/api and the descriptor image, publish both in dist/protos
	$(BIN)/python -m scripts.protos

dashboards: setup-dev ## write the chart's Grafana dashboards anew
	$(BIN)/python scripts/dashboards.py

clean: ## remove the environment and what the demo made
	rm -rf $(VENV) .triton .demo .marsam dist/protos
