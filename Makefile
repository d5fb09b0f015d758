# Every target installs what it needs first; a second run finds it there. `make` alone lists the targets.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help demo deps deps-test deps-bench install uninstall format lint types test cover bench box image vagrant-test vagrant-matrix lock clean

bin := .venv/bin
BOX ?= bookworm-6.1
# The modules that do no I/O (see the contract of that name in pyproject.toml): tests must reach every branch of them.
pure := interceptor/config/*,interceptor/errors.py,interceptor/labels.py,interceptor/strict_yaml.py,interceptor/workload.py
pure := $(pure),interceptor/authority/*,interceptor/cluster/*,interceptor/enrolment/*,interceptor/identity/*,interceptor/policy/*
pure := $(pure),interceptor/manifests/*,interceptor/network_policy/*,interceptor/node_pods/*,interceptor/pod_admission/*
pure := $(pure),interceptor/shared_authority/*
pure := $(pure),interceptor/protocol/*,interceptor/telemetry/*

# Tests wait more than they compute: one more worker than processors.  Each has nodes of its own.
workers := $(shell expr $$(nproc) + 1)

# Hundreds of tests start agents, programs and namespaces on a machine that others use too.  CI runs what failed once
# more, by itself: what is broken fails again.  By hand nothing is repeated.
retry := { [[ $${CI-} == true ]] && echo "test: once more, what failed" && \
	$(bin)/python -m pytest -q --last-failed --last-failed-no-failures=none --cov --cov-append --cov-report=; }

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "%-14s %s\n", $$1, $$2 }' Makefile

demo: deps ## Two unmodified programs talk over mutual TLS, a third is refused (root, about two minutes)
	@$(bin)/interceptor demo

deps: ## Install what the product needs: Debian packages and .venv
	@.ci/install run

deps-test: ## Install also what the tests and the checks need
	@.ci/install test

deps-bench: ## Install also what the benchmark compares with
	@.ci/install bench

install: ## Install the product as a service: /opt/interceptor, systemd unit, /etc/interceptor (root; or DESTDIR=DIR)
	@.ci/install packages
	@.ci/system install

uninstall: ## Withdraw everything and remove the service; PURGE=1 removes configuration and state too (root)
	@.ci/system uninstall

test: lint types ## Everything that must pass: lint, types, and all tests with branch coverage (root)
	@$(bin)/python -m pytest -q -n $(workers) --dist loadfile --cov --cov-report=term:skip-covered || $(retry)
	@report=$$($(bin)/coverage report --include='$(pure)' --fail-under=100 --show-missing --skip-covered) || \
		{ echo "$$report"; echo "test: not every branch of the pure packages is reached" >&2; exit 1; }

lint: deps-test ## Check style, formatting, and who may import whom
	@$(bin)/ruff check
	@$(bin)/ruff format --check
	@$(bin)/lint-imports

types: deps-test ## Check the types
	@$(bin)/mypy

format: deps-test ## Format the code and make the fixes that are safe
	@$(bin)/ruff check --fix
	@$(bin)/ruff format

cover: deps-test ## Show the lines and branches that the last `make test` did not reach
	@$(bin)/coverage report --show-missing --skip-covered

bench: deps-bench ## Compare with Envoy and with no mesh, measure the authority and a big cluster (root)
	@$(bin)/python tests/bench/policies.py
	@$(bin)/python tests/bench/run.py
	@$(bin)/python tests/bench/authority.py
	@$(bin)/python tests/bench/cluster.py

box: ## Build a Vagrant box from Debian packages, unless it is there: BOX=bookworm-5.10|bookworm-6.1|bookworm-6.12|trixie-6.12|trixie-newest (root)
	@.ci/install boxes
	@vagrant/build-box $(BOX)

vagrant-test: deps-test ## Install and test in two machines of their own: BOX as above, KEEP=1 leaves them running, SMOKE=1 is short (root)
	@.ci/install boxes
	@$(bin)/python -m pytest -q vagrant/scenarios -c vagrant/scenarios/pytest.ini --box=$(BOX) $(if $(KEEP),--keep) $(if $(SMOKE),-m smoke)

vagrant-matrix: deps-test ## The short version of vagrant-test on every kernel, and a table: BOXES="trixie-6.12 ..." chooses, FULL=1 runs all of it (root, slow)
	@.ci/install boxes
	@$(bin)/python vagrant/scenarios/matrix.py $(if $(FULL),--full) $(BOXES)

image: deps ## Build the container image with buildah or podman (BASE=local: where no registry can be reached)
	@.ci/image

lock: ## Write the lock files anew, with the newest versions that pyproject.toml allows
	@.ci/lock

clean: ## Remove caches, coverage data and builds; .venv and Debian packages stay
	@rm -rf build dist .coverage .coverage.* .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	@find . -path ./.venv -prune -o -name __pycache__ -type d -prune -exec rm -rf {} +
