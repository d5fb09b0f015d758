# Every target installs what it needs first; a second run finds it there. `make` alone lists the targets.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help install install-test install-bench format lint types test cover bench demo image lock clean

bin := .venv/bin
# The modules that do no I/O (see the contract of that name in pyproject.toml): tests must reach every branch of them.
pure := interceptor/cluster/*,interceptor/config/*,interceptor/errors.py,interceptor/labels.py,interceptor/strict_yaml.py
pure := $(pure),interceptor/enrolment/*,interceptor/identity/*,interceptor/network_policy/*,interceptor/pod_admission/*
pure := $(pure),interceptor/policy/*,interceptor/workload.py
pure := $(pure),interceptor/protocol/*,interceptor/telemetry/*

# Hundreds of tests start agents, programs and namespaces on a machine that others use too.  CI runs what failed once
# more, by itself: what is broken fails again.  By hand nothing is repeated.
retry := { [[ $${CI-} == true ]] && echo "test: once more, what failed" && \
	$(bin)/python -m pytest -q --last-failed --last-failed-no-failures=none --cov --cov-append --cov-report=; }

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "%-14s %s\n", $$1, $$2 }' Makefile

demo: install ## Two unmodified programs talk over mutual TLS, a third is refused (root, about two minutes)
	@$(bin)/interceptor demo

install: ## Install what the product needs: Debian packages and .venv
	@.ci/install run

install-test: ## Install also what the tests and the checks need
	@.ci/install test

install-bench: ## Install also what the benchmark compares with
	@.ci/install bench

test: lint types ## Everything that must pass: lint, types, and all tests with branch coverage (root)
	@$(bin)/python -m pytest -q --cov --cov-report=term:skip-covered || $(retry)
	@report=$$($(bin)/coverage report --include='$(pure)' --fail-under=100 --show-missing --skip-covered) || \
		{ echo "$$report"; echo "test: not every branch of the pure packages is reached" >&2; exit 1; }

lint: install-test ## Check style, formatting, and who may import whom
	@$(bin)/ruff check
	@$(bin)/ruff format --check
	@$(bin)/lint-imports

types: install-test ## Check the types
	@$(bin)/mypy

format: install-test ## Format the code and make the fixes that are safe
	@$(bin)/ruff check --fix
	@$(bin)/ruff format

cover: install-test ## Show the lines and branches that the last `make test` did not reach
	@$(bin)/coverage report --show-missing --skip-covered

bench: install-bench ## Compare with Envoy and with no mesh, and measure the authority, on this machine (root)
	@$(bin)/python tests/bench/policies.py
	@$(bin)/python tests/bench/run.py
	@$(bin)/python tests/bench/authority.py

image: install ## Build the container image with buildah or podman (BASE=local: where no registry can be reached)
	@.ci/image

lock: ## Write the lock files anew, with the newest versions that pyproject.toml allows
	@.ci/lock

clean: ## Remove caches, coverage data and builds; .venv and Debian packages stay
	@rm -rf build dist .coverage .coverage.* .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	@find . -path ./.venv -prune -o -name __pycache__ -type d -prune -exec rm -rf {} +
