# Everything runs in .venv, made from requirements.lock with hashes. Bare `make` lists the targets.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
READY := .venv/ready
# What .venv was made with, which stays: the backend until another one is named, extras until `make clean`.
CHOSEN := $(shell cat .venv/choice 2>/dev/null)
# cpu | gpu: the TensorFlow under keras
BACKEND ?= $(or $(firstword $(CHOSEN)),cpu)
LOCK := $(if $(filter gpu,$(BACKEND)),requirements-gpu.lock,requirements.lock)
# where data lives besides this machine: any of REMOTES
EXTRAS ?=
REMOTES := s3 gs azure ssh
ifneq ($(filter-out $(REMOTES),$(EXTRAS)),)
$(error relearn: wanted EXTRAS among $(REMOTES), got $(filter-out $(REMOTES),$(EXTRAS)))
endif
CHOICE := $(strip $(BACKEND) $(sort $(EXTRAS) $(wordlist 2,9,$(CHOSEN))))
PLUGINS := $(patsubst %,dvc-%,$(wordlist 2,9,$(CHOICE)))
PORT ?= 4200
# the branch that is retrained
BASE ?= main
LOCAL_API = http://127.0.0.1:$(PORT)/api
# one more than there are cores: tests wait for servers and other processes half of their time
PARALLEL := -n $(shell expr $$(nproc) + 1) --maxprocesses 4 --dist worksteal
SOURCES := src flows pretraining tests benchmarks data/*.py

# This folder's environment alone, whichever other one is active.
BIN := .venv/bin
export PATH := $(CURDIR)/$(BIN):$(PATH)
# Without bytecode each process would compile relearn again.
unexport PYTHONDONTWRITEBYTECODE
unexport VIRTUAL_ENV CONDA_PREFIX PYTHONPATH PYTHONHOME PIP_PREFIX PIP_TARGET PIP_USER UV_PYTHON UV_SYSTEM_PYTHON
export DVC_NO_ANALYTICS := 1
export DO_NOT_TRACK := 1

# The scripts of .venv hold its path, so after a copy it would run the other folder's code: it is made again.
ifneq ($(CHOSEN) $(shell cat $(READY) 2>/dev/null),$(CHOICE) $(shell pwd -P))
$(READY): always
endif
always:

# uv, with the index of pip, and the certificates that pip or this system trusts; its own where the system has none.
# Its cache is in .venv where the user has no folder for it, such as a home that cannot be written.
CERTIFICATES := $(wildcard /etc/ssl/certs/ca-certificates.crt /etc/pki/tls/certs/ca-bundle.crt /etc/ssl/*.pem)
UV = take() { value="$$2"; [ "$$value" ] || value=$$($(PIP) config get global.$$3 2>/dev/null); \
		[ -z "$$value" ] || export "$$1=$$value"; }; \
	[ "$$UV_DEFAULT_INDEX" ] || take UV_DEFAULT_INDEX "$$PIP_INDEX_URL" index-url; \
	[ "$$SSL_CERT_FILE" ] || take SSL_CERT_FILE "$$PIP_CERT" cert; \
	[ "$$UV_CACHE_DIR" ] || { cache="$${XDG_CACHE_HOME:-$$HOME/.cache}/uv"; \
		mkdir -p "$$cache" 2>/dev/null && [ -w "$$cache" ]; } || export UV_CACHE_DIR="$(CURDIR)/.venv/uv-cache"; \
	export UV_SYSTEM_CERTS="$${UV_SYSTEM_CERTS-$(if $(CERTIFICATES),1,0)}"; $(BIN)/uv
PIP := $(BIN)/python -m pip --disable-pip-version-check

.DEFAULT_GOAL := help
.PHONY: help setup repro test test-all test-fast test-long check format food5k strategies pretrain pull-request flow serve ui retrain schedule lock clean

help:  ## list the targets
	@grep -E '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z0-9-]+):.*## /\1\t/' | expand -t 12

setup: $(READY)  ## make .venv from the lock (BACKEND=gpu for TensorFlow with CUDA, EXTRAS="s3 ssh" for data there)

$(READY): pyproject.toml $(LOCK) requirements-remotes.lock
	@"$(PYTHON)" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' || \
		{ echo "relearn: wanted Python 3.11 to 3.13, got $$("$(PYTHON)" --version); set PYTHON=..." >&2; exit 1; }
	@echo "relearn: making .venv from $(LOCK)$(if $(PLUGINS), with $(PLUGINS))"
	@"$(PYTHON)" -m venv --clear .venv
	@echo "$(CHOICE)" > .venv/choice
	@awk '/^[a-z]/ {keep = /^uv==/} keep' $(LOCK) > .venv/bootstrap.txt
	@$(PIP) install --quiet --no-deps --require-hashes -r .venv/bootstrap.txt
	@awk -F= -v wanted=" $(PLUGINS) " '/^[a-z]/ {keep = index(wanted, " " $$1 " ")} keep' requirements-remotes.lock \
		> .venv/plugins.txt
	@$(UV) pip install --python $(BIN)/python --quiet --compile-bytecode --require-hashes \
		-r $(LOCK) -r .venv/plugins.txt -c requirements-remotes.lock
	@$(UV) pip install --python $(BIN)/python --quiet --no-deps --no-build-isolation --editable .
	@$(BIN)/python -I -c 'import os, relearn; assert os.path.samefile(relearn.__path__[0], "src/relearn")' || \
		{ echo "relearn: wanted this folder's src/relearn in .venv, got another or none; try again" >&2; exit 1; }
	@pwd -P > $@

repro: $(READY)  ## run the stages that are not up to date, and report how good the classifier is
	@$(BIN)/python -m flows.repro
	@$(BIN)/relearn report

test: $(READY)  ## run the tests, several at once: a quarter of an hour on two cores
	$(BIN)/pytest $(PARALLEL) -m "not long"

test-long: $(READY)  ## run the other tests: kills, clusters, retraining, set-up, more networks, real photos
	RELEARN_LONG_TESTS=1 $(BIN)/pytest $(PARALLEL) -m "long or campaign"

test-all: export RELEARN_ALL_TESTS = 1
test-all: test test-long  ## run every test, the largest networks and the pretraining too

test-fast: $(READY)  ## run the tests that need neither TensorFlow, nor DVC, nor a Prefect server: under four minutes
	$(BIN)/pytest $(PARALLEL) -m "not slow"

check: $(READY)  ## format, lint, types: nothing is changed
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/mypy

format: $(READY)  ## format, and fix what the linter can
	$(BIN)/ruff format $(SOURCES)
	$(BIN)/ruff check --fix $(SOURCES)

food5k: $(READY)  ## VGG16 with ImageNet weights on Food-5K as a DVC experiment (FOOD5K=path or address, ARGS=...)
	@$(BIN)/python data/food5k.py "$(FOOD5K)" $(ARGS)

strategies: $(READY)  ## compare frozen features, augmented views and fine-tuning as DVC experiments (ARGS="-S ...")
	@$(BIN)/python -m flows.strategies $(ARGS)

pretrain: $(READY)  ## train mini_vgg on CIFAR-10 again, an hour on two cores; see pretraining/README.md
	cd pretraining && ../$(BIN)/dvc repro

pull-request: $(READY)  ## write what changes against BASE as a comment with pictures (ADDRESS=where they will be)
	@$(BIN)/python -m flows.pull_request $(BASE) --address "$(ADDRESS)"

flow: $(READY)  ## run the pipeline as a Prefect flow (PREFECT_API_URL names a server, else a temporary one)
	@$(BIN)/python -m flows.pipeline

serve: $(READY)  ## export the classifier if it is another one, and answer on http://127.0.0.1:8000 (ARGS="--port 9000")
	@$(BIN)/relearn export --if-changed
	@$(BIN)/relearn serve models/exported $(ARGS)

ui: $(READY)  ## start a Prefect server with its UI on this machine (PORT=4200)
	@echo "http://127.0.0.1:$(PORT) has the UI; PREFECT_API_URL=$(LOCAL_API)"
	@PREFECT_UI_API_URL=$(LOCAL_API) $(BIN)/prefect server start --host 127.0.0.1 --port $(PORT)

retrain: $(READY)  ## retrain once on what is new (NOW=1: also on what has just landed; ARGS="--dry-run --force -S ...")
	@$(BIN)/python -m flows.retrain $(BASE) $(if $(NOW),--now) $(ARGS)

schedule: $(READY)  ## retrain as retrain.cron says, until this is stopped (PREFECT_API_URL, else the server of `make ui`)
	@PREFECT_API_URL=$${PREFECT_API_URL:-$(LOCAL_API)} $(BIN)/python -m flows.schedule $(BASE)

lock: $(READY)  ## resolve the dependencies again, with versions and hashes and no address of an index
	@$(COMPILE) --upgrade $(EVERYTHING) --extra cpu $(REMOTES:%=--extra %) --output-file .venv/all.lock
	@for lock in requirements.lock requirements-gpu.lock requirements-serve.lock; do cp .venv/all.lock $$lock; done
	@$(COMPILE) $(EVERYTHING) --extra cpu --output-file requirements.lock
	@$(COMPILE) $(EVERYTHING) --extra gpu --output-file requirements-gpu.lock
	@$(COMPILE) --extra serve --output-file requirements-serve.lock
	@awk -F= 'NR == FNR {base[$$1]; next} /^[a-z]/ {keep = !($$1 in base)} keep' requirements.lock .venv/all.lock \
		> requirements-remotes.lock

# Without --upgrade it keeps the versions that the output file has, so all locks have the same.
COMPILE = $(UV) pip compile --python $(BIN)/python --quiet --universal --python-version 3.11 --generate-hashes --no-header \
	--no-emit-index-url pyproject.toml
EVERYTHING := --extra dev --extra pipeline --extra serve

clean:  ## remove .venv, Prefect's files and the caches of the tools; data, models, the DVC cache and the store of features stay
	rm -rf .venv .prefect .hypothesis .pytest_cache .mypy_cache .ruff_cache build src/*.egg-info dvc_plots
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
