# Everything runs in .venv, made from requirements.lock with hashes. Bare `make` lists the targets.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
# cpu | gpu: the TensorFlow under keras
BACKEND ?= cpu
LOCK := $(if $(filter gpu,$(BACKEND)),requirements-gpu.lock,requirements.lock)
READY := .venv/ready-$(BACKEND)
PORT ?= 4200
# the branch that is retrained
BASE ?= main
LOCAL_API = http://127.0.0.1:$(PORT)/api
SOURCES := src flows pretraining tests benchmarks data/*.py

export PATH := $(CURDIR)/.venv/bin:$(PATH)
export DVC_NO_ANALYTICS := 1
export DO_NOT_TRACK := 1
# An index that pip was told of serves uv too.
export UV_DEFAULT_INDEX ?= $(shell $(PYTHON) -m pip config get global.index-url 2>/dev/null)
ifeq ($(UV_DEFAULT_INDEX),)
unexport UV_DEFAULT_INDEX
endif

# And so does a certificate.
export SSL_CERT_FILE ?= $(shell $(PYTHON) -m pip config get global.cert 2>/dev/null)
ifeq ($(SSL_CERT_FILE),)
unexport SSL_CERT_FILE
endif

.DEFAULT_GOAL := help
.PHONY: help setup repro test test-fast check format data-docs food5k pretrain flow ui retrain schedule lock clean

help:  ## list the targets
	@grep -E '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z0-9-]+):.*## /\1\t/' | expand -t 12

setup: $(READY)  ## make .venv from the lock (BACKEND=gpu for TensorFlow with CUDA)

$(READY): pyproject.toml $(LOCK)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "relearn: wanted Python 3.11 or newer, got $$($(PYTHON) --version); set PYTHON=..." >&2; exit 1; }
	$(PYTHON) -m venv --clear .venv
	@awk '/^[a-z]/ {keep = /^uv==/} keep' $(LOCK) > .venv/bootstrap.txt
	.venv/bin/pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r .venv/bootstrap.txt
	.venv/bin/uv pip install --quiet --require-hashes -r $(LOCK)
	.venv/bin/uv pip install --quiet --no-deps --no-build-isolation --editable .
	@touch $@

repro: $(READY)  ## run what is not up to date of the pipeline, and tell how good the classifier is
	@python -m flows.repro
	@relearn report

test: $(READY)  ## run all tests
	pytest

test-fast: $(READY)  ## run the tests that need neither TensorFlow, nor DVC, nor a Prefect server: under a minute
	pytest -m "not slow"

check: $(READY)  ## format, lint, types: nothing is changed
	ruff format --check $(SOURCES)
	ruff check $(SOURCES)
	mypy

format: $(READY)  ## format, and mend what the linter can
	ruff format $(SOURCES)
	ruff check --fix $(SOURCES)

food5k: $(READY)  ## VGG16 with ImageNet weights on Food-5K as a DVC experiment (FOOD5K=path or address, ARGS=...)
	@python data/food5k.py "$(FOOD5K)" $(ARGS)

pretrain: $(READY)  ## train mini_vgg on CIFAR-10 again, an hour on two cores; see pretraining/README.md
	cd pretraining && dvc repro

data-docs: $(READY)  ## write Great Expectations' own pages on the images to reports/data_docs/
	@relearn data-docs

flow: $(READY)  ## run the pipeline as a Prefect flow (PREFECT_API_URL names a server, else a temporary one)
	@python -m flows.pipeline

ui: $(READY)  ## start a Prefect server with its UI on this machine (PORT=4200)
	@echo "http://127.0.0.1:$(PORT) has the UI; PREFECT_API_URL=$(LOCAL_API)"
	@PREFECT_UI_API_URL=$(LOCAL_API) prefect server start --host 127.0.0.1 --port $(PORT)

retrain: $(READY)  ## retrain once, now, on what is new (PREFECT_API_URL names a server, else a temporary one)
	@python -m flows.retrain $(BASE)

schedule: $(READY)  ## retrain as retrain.cron says, until this is stopped (PREFECT_API_URL, else the server of `make ui`)
	@PREFECT_API_URL=$${PREFECT_API_URL:-$(LOCAL_API)} python -m flows.schedule $(BASE)

lock: $(READY)  ## resolve the dependencies anew, with versions and hashes and no address of an index
	$(LOCK_COMMAND) --extra cpu --output-file requirements.lock
	$(LOCK_COMMAND) --extra gpu --output-file requirements-gpu.lock

LOCK_COMMAND = uv pip compile --quiet --upgrade --universal --python-version 3.11 --generate-hashes --no-header \
	--no-emit-index-url --extra dev pyproject.toml

clean:  ## remove .venv, Prefect's files and the caches of the tools; data, models, the DVC cache and the store of features stay
	rm -rf .venv .prefect .hypothesis .pytest_cache .mypy_cache .ruff_cache build src/*.egg-info dvc_plots
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
