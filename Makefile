# The project's commands. Each installs what it needs first, can be repeated, and goes on where it was interrupted.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

# Pinned and in a folder of its own: an older uv on the machine might not understand the lock file.
UV_VERSION := 0.13.9
UV := $(CURDIR)/.cache/uv-$(UV_VERSION)/bin/uv
RUN := $(UV) run --no-sync
# Says every 10 s how far a command is, where it would be silent.
REPORT := @tools/report.sh
MODEL := .cache/models/smollm2-135m-instruct
# How images are built and named.
BUILDER = $(firstword $(foreach tool,docker podman buildah,$(shell command -v $(tool))))
REGISTRY := localhost
VERSION := $(shell sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)

.PHONY: help install demo test check compile cluster docs images generate licenses version release dist format

help: ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## /{printf "make %-10s %s\n", $$1, $$2}' Makefile

$(UV):
	@echo "Installing uv $(UV_VERSION) into .cache (it installs everything else)"
	@folder=.cache/uv-$(UV_VERSION); \
	  { python3 -m venv $$folder && tools/report.sh "Installing uv" $$folder/bin/python -m pip install --quiet \
	    uv==$(UV_VERSION); } || \
	  { uv venv --clear $$folder && uv pip install --python $$folder uv==$(UV_VERSION); } || \
	  { echo "uv could not be installed. It needs python3 with venv (Debian: apt install python3-venv) or any uv" \
	    "(https://docs.astral.sh/uv/getting-started/installation)" >&2; exit 1; }

install: $(UV) ## the development environment in .venv, as uv.lock has it
	@echo "Installing the packages of uv.lock into .venv (the first time several GB; minutes)"
	$(REPORT) "Installing packages" $(UV) sync --locked

$(MODEL)/config.json: | install
	@echo "Preparing SmolLM2-135M-Instruct (half a minute)"
	@$(RUN) python examples/quickstart/prepare_model.py $(MODEL)

demo: install $(MODEL)/config.json ## fine-tunes a real model with a reward, from a manifest, on this machine
	@$(RUN) rft run examples/quickstart/job.yaml examples/quickstart/reward.yaml

check: install ## linters, types, import contracts and generated files
	@$(RUN) ruff check .
	@$(RUN) ruff format --check .
	$(REPORT) "Checking types" $(RUN) mypy
	$(REPORT) "Checking imports" $(RUN) lint-imports

# The tests start hundreds of programs, in pods that cannot keep what Python compiles, too: all is compiled before, which
# more than halves the time that a trainer takes to start.
compile: install
	$(REPORT) "Compiling the installed packages" $(UV) sync --locked --compile-bytecode

# Programs compute beside one another: one thread each. Much of a test is waiting, for programs and disks: four at a time
# keep two cores busy.
test: ## everything: checks, then all tests
	@$(MAKE) --no-print-directory --jobs=2 check compile
	@OMP_NUM_THREADS=1 $(RUN) pytest --numprocesses=4 --dist=loadfile --no-loadscope-reorder --durations=20

cluster: install ## a real Kubernetes on this machine to play with, until Ctrl-C
	@PYTHONPATH=tests $(RUN) python -m cluster

docs: install ## the documentation as a site in dist/docs; a broken link or page ends it
	@$(RUN) d2 --layout tala --theme 0 --dark-theme 200 --pad 10 docs/architecture.d2 docs/architecture.svg
	@$(RUN) python docs/site/build.py dist/docs

IMAGES := operator reward loader trainer-cpu trainer-cuda
images: ## every container image: make images REGISTRY=registry.example.com/rft
	@test -n "$(BUILDER)" || { echo "Images are built with docker, podman or buildah: none is here" >&2; exit 1; }
	@for image in $(IMAGES); do \
	  echo "Building $(REGISTRY)/rft-$$image:$(VERSION)"; \
	  tools/report.sh "Building rft-$$image" \
	    $(BUILDER) build $(if $(filter %docker,$(BUILDER)),,--layers=false) --build-arg IMAGE=$$image \
	    --build-arg VERSION=$(VERSION) $(if $(BASE),--build-arg BASE=$(BASE)) \
	    --tag $(REGISTRY)/rft-$$image:$(VERSION) .; \
	done

# Versions stay as the file has them; without the file they are the newest.
CUDA := trainer-image/requirements-cuda
generate: install ## crds/, the chart's generated parts, docs/reference/manifests.md, what the CUDA image installs
	@$(RUN) python -m rft_api.generate .
	@$(RUN) python -m rft_charts.generate .
	@$(UV) export --quiet --frozen --no-dev --no-emit-workspace --no-hashes --package rft-trainer \
	  --output-file .cache/constraints.txt
	@$(UV) pip compile --quiet --no-config --universal --python-version 3.11 --generate-hashes --no-annotate \
	  --no-emit-index-url --custom-compile-command "make generate" --constraints .cache/constraints.txt \
	  --extra hub --extra storage --no-emit-package rft-api --output-file $(CUDA).txt \
	  api/pyproject.toml trainer-image/pyproject.toml $(CUDA).in > /dev/null

# What is given to users: all packages but rft-charts, which only generates.
SHIPPED := rft-api rft-cli rft-loader rft-operator-controller rft-reward rft-trainer
licenses: install ## docs/reference/licenses.md, from uv.lock and what is installed
	@$(RUN) python release/licenses.py --uv $(UV) $(SHIPPED)

# The version stands in pyproject.toml here; everything else repeats it, and a test holds that it does.
version: $(UV) ## writes a version everywhere: make version VERSION=0.2.0
	@sed -i 's/^version = ".*"/version = "$(VERSION)"/' pyproject.toml */pyproject.toml
	@sed -i 's/^ARG VERSION=.*/ARG VERSION=$(VERSION)/' Dockerfile
	@sed -i -E 's/^(version|appVersion): .*/\1: "$(VERSION)"/' charts/*/Chart.yaml
	@sed -i 's/\$$image:.*/$$image:$(VERSION)/' docs/install.md
	@$(UV) lock --quiet

release: install docs images ## wheels, chart, bill of materials, licences and images of this version; the files go to dist/
	@$(MAKE) --no-print-directory dist

DIST := dist
HELM := helm
dist: $(UV) ## what a release has without its images and its site, in dist/
	@rm -rf $(DIST)/wheels $(DIST)/*.tgz
	@mkdir -p $(DIST)
	@$(RUN) python release/licenses.py --uv $(UV) --check $(SHIPPED)
	@cp docs/reference/licenses.md CHANGELOG.md $(DIST)
	@for package in $(SHIPPED); do $(UV) build --quiet --wheel --out-dir $(DIST)/wheels --package $$package; done
	@$(UV) export --quiet --frozen --no-default-groups $(SHIPPED:%=--package %) --all-extras --format cyclonedx1.5 \
	  --output-file $(DIST)/sbom.json > /dev/null
	@$(HELM) package --destination $(DIST) charts/rft-operator
	@echo "rft-operator $(VERSION) is in $(DIST)/"

format: install ## formats and mends what ruff can
	@$(RUN) ruff check --fix .
	@$(RUN) ruff format .
