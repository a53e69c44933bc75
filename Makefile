.DEFAULT_GOAL := help
.PHONY: help setup demo serve load simulate test check protos protos-check lint lint-protos types contracts bench chaos soak \
  prometheus fmt clean

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.setup
PEERS := build/peers
PROMETHEUS := build/prometheus
# Two share the work of starting servers and workers; more of them were slower on two cores.
TEST_PROCESSES ?= 2
PYTEST := $(BIN)/python -m pytest --numprocesses $(TEST_PROCESSES) --dist loadfile
export PATH := $(CURDIR)/$(BIN):$(PATH)
# Empty is not set. Where it is set, each of the many processes that the tests start compiles all that it imports.
export PYTHONDONTWRITEBYTECODE :=
SERVICES := $(shell grep -l '^service ' protos/penstock/v1/*.proto)

# $(call generate,DIR): stubs and their types; only files with a service get gRPC stubs.
generate = python -m grpc_tools.protoc -Iprotos --python_out=$(1) --mypy_out=quiet:$(1) protos/penstock/v1/*.proto && \
  python -m grpc_tools.protoc -Iprotos --grpc_python_out=$(1) --mypy_grpc_out=quiet:$(1) $(SERVICES)

help: ## Show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-14s %s\n", $$1, $$2}'

setup: $(STAMP) ## Install everything into .venv (skipped when nothing changed)

$(STAMP): requirements-dev.txt pyproject.toml
	@echo "Setting up $(VENV) (about a minute the first time) ..."
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Penstock needs Python 3.11 or newer; set PYTHON=...")'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check "$$(grep -o '^uv==[0-9.]*' requirements-dev.txt)"
	@echo "  packages ..."
	@$(BIN)/uv pip sync --quiet --python $(BIN)/python --require-hashes requirements-dev.txt
	@echo "  penstock ..."
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable .
	@touch $@
	@echo "Ready."

demo: setup ## Serve the embedded model, stream a story, show the numbers
	@$(BIN)/penstock demo

serve: setup ## Serve the embedded model on 127.0.0.1:50051
	@$(BIN)/penstock serve

test: setup $(PROMETHEUS)/usr/bin/prometheus ## Run the tests
	@$(PYTEST) tests/flowcontrol --cov --cov-report=term-missing:skip-covered
	@$(PYTEST) --ignore=tests/flowcontrol

# Where it cannot be had this says so, and the tests that need it are skipped.
$(PROMETHEUS)/usr/bin/prometheus:
	@deploy/prometheus/fetch.sh $(PROMETHEUS)

prometheus: $(PROMETHEUS)/usr/bin/prometheus ## Watch the server on this machine: http://127.0.0.1:9090
	@PATH="$$PATH:$(PROMETHEUS)/usr/bin"; exec prometheus --config.file=deploy/prometheus/prometheus.yml \
	  --storage.tsdb.path=$(PROMETHEUS)/data --web.listen-address=127.0.0.1:9090

check: lint types contracts protos-check test ## All that CI runs

lint: setup lint-protos
	@$(BIN)/ruff check . && $(BIN)/ruff format --check .

lint-protos: setup
	@cd protos && buf lint && buf format -d --exit-code

types: setup
	@$(BIN)/mypy

contracts: setup
	@$(BIN)/lint-imports

protos: setup ## Generate penstock/v1 from protos/
	@rm -f penstock/v1/*_pb2*.py penstock/v1/*_pb2*.pyi
	@$(call generate,.)

protos-check: setup
	@rm -rf build/protos && mkdir -p build/protos && $(call generate,build/protos)
	@diff -r -x '__init__.py' -x '__pycache__' build/protos/penstock/v1 penstock/v1 || \
	  { echo "penstock/v1 is not up to date with protos/: run 'make protos' and commit"; exit 1; }

bench: setup ## Run all benchmarks but that of the peers (half an hour)
	@$(BIN)/python -m benchmarks

simulate: setup ## Admission in virtual time: strategies beside an oracle and historic rules (3 minutes)
	@$(BIN)/python -m benchmarks.simulation

load: setup ## Put load on the server on 127.0.0.1:50051 and show how it answers
	@$(BIN)/penstock bench --rate 10 --duration 20

bench-stall: setup ## What stalled clients cost the others: the quick form, below a minute
	@$(BIN)/python -m benchmarks --only stall --quick --json build/benchmarks

bench-peers: setup $(PEERS)/mlx-lm/.built $(PEERS)/smg/.built ## Beside mlx_lm.server and SMG's MLX servicer (half an hour)
	@$(BIN)/python -m benchmarks --only peers-serving peers-cases peers

chaos: setup ## Kill, stop and stall at random for 5 minutes: nothing may be lost
	@$(BIN)/python -m benchmarks.chaos --json build/benchmarks/chaos.json $(if $(SEED),--seed $(SEED))

soak: setup ## A mixed load with disturbances for MINUTES (20): does anything leak?
	@$(BIN)/python -m benchmarks.soak --minutes $(or $(MINUTES),20) \
	  --json build/benchmarks/soak.json --plot build/benchmarks/soak.png

# A peer that cannot be installed here is left out of the benchmark.
$(PEERS)/%/.built: benchmarks/peers/%.txt | setup
	@echo "Setting up $(@D) ..."
	@$(BIN)/uv venv --quiet --clear --python $(BIN)/python $(@D) && \
	  $(BIN)/uv pip install --quiet --python $(@D)/bin/python -r $< && touch $@ || \
	  { rm -rf $(@D); echo "$(@D) cannot be set up; going on without it"; }

fmt: setup ## Format everything
	@$(BIN)/ruff check --fix . ; $(BIN)/ruff format .
	@cd protos && buf format -w

clean: ## Remove the virtual environment and caches
	@rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache build *.egg-info
