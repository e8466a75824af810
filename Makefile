# The project's commands. Each one first installs what it needs. All can be interrupted and repeated.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

# A pinned uv in a folder of its own: an older one on the machine might not understand uv.lock.
UV_VERSION := $(shell sed -n 's/^uv==\([^ ]*\).*/\1/p' tools/uv.txt)
UV := $(CURDIR)/.cache/uv-$(UV_VERSION)/bin/uv
RUN := $(UV) run --no-sync
# Runs a command, and prints every 10 s how far it is when it would be silent.
REPORT := @tools/report.sh
MODEL := .cache/models/smollm2-135m-instruct
# How images are built and named.
BUILDER = $(firstword $(foreach tool,docker podman buildah,$(shell command -v $(tool))))
REGISTRY := localhost
VERSION := $(shell sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)
# The commit that images are built from; "-dirty" when files differ from it.
REVISION = $(shell git describe --always --dirty --abbrev=40 --exclude='*' 2>/dev/null || echo unknown)

.PHONY: help install demo test check cluster docs images generate licenses version release pinned-base audit dist format

help: ## print this list
	@awk -F ':.*## ' '/^[a-z]+:.*## /{printf "make %-10s %s\n", $$1, $$2}' Makefile

$(UV):
	@echo "Installing uv $(UV_VERSION) into .cache; it installs everything else"
	@folder=.cache/uv-$(UV_VERSION); \
	  { python3 -m venv $$folder && tools/report.sh "Installing uv" $$folder/bin/python -m pip install --quiet \
	    --require-hashes --requirement tools/uv.txt; } || \
	  { uv venv --clear $$folder && uv pip install --python $$folder --require-hashes --requirement tools/uv.txt; } || \
	  { echo "uv could not be installed. It needs python3 with venv (Debian: apt install python3-venv) or any uv" \
	    "(https://docs.astral.sh/uv/getting-started/installation)" >&2; exit 1; }

# Compiled to bytecode, programs start in a third of the time; not all of them could store what Python compiles for them.
install: $(UV) ## install the packages of uv.lock into .venv
	@echo "Installing the packages of uv.lock into .venv. The first time this takes minutes and several GB."
	$(REPORT) "Installing packages" $(UV) sync --locked --compile-bytecode

$(MODEL)/config.json: | install
	@echo "Preparing the model SmolLM2-135M-Instruct. This takes about half a minute."
	@$(RUN) python examples/quickstart/prepare_model.py $(MODEL)

demo: install $(MODEL)/config.json ## fine-tune a real model with a reward on this machine, from manifests
	@$(RUN) rft run examples/quickstart/job.yaml examples/quickstart/reward.yaml

check: install ## run the linters, the type checker and the import contracts
	@$(RUN) ruff check .
	@$(RUN) ruff format --check .
	$(REPORT) "Checking types" $(RUN) mypy
	$(REPORT) "Checking imports" $(RUN) lint-imports

# Four processes run tests at the same time: a test waits for programs and disks much of its time, so four keep two cores
# busy. Each program computes with one thread, because more threads would only wait for one another.
test: ## run all checks, then all tests
	@$(MAKE) --no-print-directory check
	@OMP_NUM_THREADS=1 $(RUN) pytest --numprocesses=4 --dist=loadfile --no-loadscope-reorder --durations=20

cluster: install ## start a real Kubernetes on this machine to play with; Ctrl-C ends it
	@PYTHONPATH=tests $(RUN) python -m cluster

docs: install ## build the documentation as a site in dist/docs; a broken link is an error
	@$(RUN) d2 --layout tala --theme 0 --dark-theme 200 --pad 10 docs/architecture.d2 docs/architecture.svg
	@$(RUN) python docs/site/build.py dist/docs

IMAGES := operator gateway reward reward-slim loader trainer-cpu trainer-cuda
images: ## build every container image: make images REGISTRY=registry.example.com/rft
	@test -n "$(BUILDER)" || { echo "Images are built with docker, podman or buildah. Install one of them." >&2; exit 1; }
	@for image in $(IMAGES); do \
	  echo "Building $(REGISTRY)/rft-$$image:$(VERSION)"; \
	  tools/report.sh "Building rft-$$image" \
	    $(BUILDER) build $(if $(filter %docker,$(BUILDER)),,--layers=false) --build-arg IMAGE=$$image \
	    --build-arg VERSION=$(VERSION) --build-arg REVISION=$(REVISION) $(if $(BASE),--build-arg BASE=$(BASE)) \
	    --tag $(REGISTRY)/rft-$$image:$(VERSION) .; \
	done

# Versions in the existing file are kept. Without that file, the newest versions are taken.
CUDA := trainer-image/requirements-cuda
TRACKERS := --extra mlflow --extra tensorboard --extra wandb
generate: install ## generate crds/, parts of the chart, pages of docs/reference and the CUDA image's requirements
	@$(RUN) python -m rft_api.generate .
	@$(RUN) python -m rft_charts.generate .
	@$(UV) export --quiet --frozen --no-dev --no-emit-workspace --no-hashes --package rft-trainer $(TRACKERS) \
	  --output-file .cache/constraints.txt
	@$(UV) pip compile --quiet --no-config --universal --python-version 3.11 --generate-hashes --no-annotate \
	  --no-emit-index-url --custom-compile-command "make generate" --constraints .cache/constraints.txt \
	  --extra hub --extra storage $(TRACKERS) --no-emit-package rft-api --output-file $(CUDA).txt \
	  api/pyproject.toml trainer-image/pyproject.toml $(CUDA).in > /dev/null

# The packages that users get: all but rft-charts, which only generates files.
SHIPPED := rft-api rft-cli rft-gateway rft-loader rft-operator-controller rft-reward rft-trainer
licenses: install ## write docs/reference/licenses.md, from uv.lock and the installed packages
	@$(RUN) python release/licenses.py --uv $(UV) $(SHIPPED)

# The version is defined in pyproject.toml. All other places repeat it, and a test checks that they agree.
version: $(UV) ## write a version to every place: make version VERSION=0.2.0
	@sed -i 's/^version = ".*"/version = "$(VERSION)"/' pyproject.toml */pyproject.toml
	@sed -i 's/^ARG VERSION=.*/ARG VERSION=$(VERSION)/' Dockerfile
	@sed -i -E 's/^(version|appVersion): .*/\1: "$(VERSION)"/' charts/*/Chart.yaml
	@sed -i 's/\$$image:.*/$$image:$(VERSION)/' docs/install.md
	@$(UV) lock --quiet

release: pinned-base install docs images ## make wheels, chart, bill of materials and licences in dist/, and the images
	@$(MAKE) --no-print-directory dist

# A tag can be moved to other contents. Only a registry knows the digest of today's tag.
pinned-base:
	@[[ "$(BASE)" =~ @sha256:[0-9a-f]{64}$$ ]] || { echo "A release is built on a base that is named by its digest:" \
	  "make release BASE=docker.io/library/python:3.12-slim@sha256:... The digest of a tag:" \
	  "skopeo inspect --format '{{.Digest}}' docker://docker.io/library/python:3.12-slim" >&2; exit 1; }
	@[[ "$(REVISION)" =~ ^[0-9a-f]{40}$$ ]] || { echo "A release is built from a commit, but the files differ from it:" \
	  "commit or remove what git status lists." >&2; exit 1; }

audit: $(UV) ## say which packages of uv.lock have been withdrawn, have known vulnerabilities, or are outdated
	@tools/audit.sh $(UV)

DIST := dist
HELM := helm
dist: $(UV) ## make the files of a release in dist/, without its images and its site
	@rm -rf $(DIST)/wheels $(DIST)/*.tgz
	@mkdir -p $(DIST)
	@$(RUN) python release/licenses.py --uv $(UV) --check $(SHIPPED)
	@cp docs/reference/licenses.md CHANGELOG.md $(DIST)
	@for package in $(SHIPPED); do $(UV) build --quiet --wheel --out-dir $(DIST)/wheels --package $$package; done
	@$(UV) export --quiet --frozen --no-default-groups $(SHIPPED:%=--package %) --all-extras \
	  --package rft-operator --group reward-packages --format cyclonedx1.5 --output-file $(DIST)/sbom.json > /dev/null
	@$(HELM) package --destination $(DIST) charts/rft-operator
	@echo "rft-operator $(VERSION) is in $(DIST)/"

format: install ## format the code, and fix what ruff can fix
	@$(RUN) ruff check --fix .
	@$(RUN) ruff format .
