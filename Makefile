# One door for people and for CI. `make help` lists what there is.

# Any Python from 3.11 on will do; another than the first found: make PYTHON=/path/to/python
PYTHON ?= $(shell for name in python3.11 python3 python3.13 python3.12; do \
	"$$name" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 && { echo "$$name"; break; }; done)
SANDBOX_PORT ?= 19200
AIRFLOW_PORT ?= 18080
# make demo KEEP=1 leaves Airflow open until Ctrl-C.
KEEP ?=

VENV := .venv
FLOOR := $(VENV)/floor
comma := ,
BIN := $(VENV)/bin
# Bytecode at once: else each process compiles Airflow again where Python may not write any.
UV := $(BIN)/python -m uv pip install --quiet --compile-bytecode --python $(BIN)/python
# uv takes seconds. Where it does not know the certificates or the index of a company, the system or pip may.
install = @$(UV) $(1) 2>/dev/null || UV_SYSTEM_CERTS=1 $(UV) $(1) 2>/dev/null || $(BIN)/python -m pip install --quiet $(1)
# pip cannot take the lowest versions.
UV_FLOOR := $(BIN)/python -m uv pip install --quiet --compile-bytecode --python $(FLOOR)/bin/python
install_floor = @$(UV_FLOOR) $(1) 2>/dev/null || UV_SYSTEM_CERTS=1 $(UV_FLOOR) $(1)

.DEFAULT_GOAL := help
.PHONY: help demo test floor ui check format clean

help:  ## what can be made
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' Makefile
	@echo '  make demo KEEP=1 leaves Airflow open; AIRFLOW_PORT= and SANDBOX_PORT= choose other ports; PYTHON= another Python'

demo: $(VENV)/demo.stamp  ## embed real texts in a real Airflow, on this machine alone: about 3 minutes
	@$(BIN)/python -m demo --sandbox-port $(SANDBOX_PORT) --airflow-port $(AIRFLOW_PORT) $(if $(KEEP),--keep)

test: $(VENV)/dev.stamp $(VENV)/client8.stamp  ## run all tests: about 5 minutes
	$(BIN)/python -m pytest -n 2 --dist loadgroup -m 'not scheduler'
	PYTHONPATH=$(VENV)/client8 $(BIN)/python -m pytest -n 2 tests/transport tests/hooks tests/sandbox/test_official_client.py
	$(BIN)/python -m pytest -m scheduler

# Airflow meets the package here; the rest is what the oldest clients and decoders are used by.
FLOOR_TESTS := tests/airflow tests/cli tests/decorators tests/hooks tests/operators tests/sensors tests/tasks tests/transport tests/test_provider_info.py
floor: $(FLOOR)/floor.stamp  ## the tests around Airflow, with the oldest version of everything: about 3 minutes
	$(FLOOR)/bin/python -m tests.floor
	# Old clients leave sockets to the garbage collector, which warns in whatever test it runs; the newest do not.
	$(FLOOR)/bin/python -m pytest -n 2 --dist loadgroup -m 'not scheduler' \
		-W ignore::pytest.PytestUnraisableExceptionWarning $(FLOOR_TESTS)
	$(FLOOR)/bin/python -m pytest -m scheduler $(FLOOR_TESTS)

ui: $(VENV)/ui.stamp  ## the connection form in a real browser; needs chromium and chromium-driver
	$(BIN)/python -m pytest tests/ui/connection_form.py

check: $(VENV)/dev.stamp  ## lint, format, types, import rules, spelling
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/mypy --strict --package demo
	MYPYPATH=benchmarks $(BIN)/mypy --strict --explicit-package-bases --exclude 'peers/|plots' benchmarks
	$(BIN)/lint-imports
	$(BIN)/codespell

format: $(VENV)/dev.stamp  ## bring the code into shape
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

clean:  ## remove everything that make made
	rm -rf $(VENV) .demo build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The environment: made once, filled again only when pyproject.toml changes.
$(VENV)/uv.stamp:
	@test -n '$(PYTHON)' || { echo 'No Python from 3.11 on was found. Install one, or name one: make PYTHON=/path/to/python' >&2; exit 1; }
	@echo 'Making an environment in $(VENV) with '"$$($(PYTHON) --version)"' …'
	@$(PYTHON) -m venv --clear $(VENV) || { rm -rf $(VENV); \
		echo 'This Python cannot make environments. On Debian and Ubuntu: apt-get install python3-venv' >&2; exit 1; }
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade pip uv
	@touch $@

$(VENV)/demo.stamp: $(VENV)/uv.stamp pyproject.toml
	@echo 'Installing Airflow, this provider and a small model …'
	$(call install,--editable '.[local]')
	@touch $@

$(VENV)/dev.stamp: $(VENV)/demo.stamp
	@echo 'Installing the tools for tests and checks …'
	$(call install,--editable '.[local]' --group dev)
	@touch $@

$(VENV)/ui.stamp: $(VENV)/dev.stamp
	$(call install,--group ui)
	@touch $@

# Users may have either major version of the Elasticsearch client, and an environment holds only one of them.
$(VENV)/client8.stamp: $(VENV)/dev.stamp
	@rm -rf $(VENV)/client8
	$(call install,--target $(VENV)/client8 'elasticsearch>=8.17$(comma)<9')
	@touch $@

# Of what Airflow itself needs, the newest that the oldest Airflow runs with.
$(FLOOR)/floor.stamp: $(VENV)/uv.stamp pyproject.toml tests/floor/constraints.txt
	@echo 'Installing the oldest version of everything that pyproject.toml allows …'
	@$(PYTHON) -m venv --clear --without-pip $(FLOOR)
	$(call install_floor,--resolution lowest-direct --constraints tests/floor/constraints.txt --editable '.[local]')
	$(call install_floor,--group test)
	@touch $@

# How many processes are killed, on disk and on S3 together. SEED= repeats the choices of a run.
KILLS ?= 100
SEED ?=
.PHONY: chaos
chaos: $(VENV)/dev.stamp  ## kill the operator in a real Airflow, check every row and the bill: about 10 minutes
	@$(BIN)/python -m tests.chaos --kills $(KILLS) $(if $(SEED),--seed $(SEED))

# Emulators of object stores; Azure's needs Node.
.PHONY: stores
stores: $(VENV)/dev.stamp  ## run the storage contract on every store that can be emulated: about 1 minute
	$(call install,--group stores)
	@if command -v npm >/dev/null; then npm install --silent --no-fund --no-audit --prefix $(VENV)/stores azurite@3; \
		else echo 'Without npm: abfs:// is left out'; fi
	GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT=false $(BIN)/python -m pytest -n0 -rs tests/inference/test_storage.py

# What a user gets who installs the package, as CycloneDX. The second needs PyPI's list of known vulnerabilities, and
# writes down what it finds only when it was told about every package.
AUDIT := $(VENV)/audit
.PHONY: sbom audit
sbom: $(VENV)/uv.stamp  ## write dist/sbom.json: everything that comes with the package
	@$(BIN)/python -m venv --clear --without-pip $(AUDIT)
	@$(BIN)/python -m uv pip install --quiet --python $(AUDIT)/bin/python .
	@mkdir -p dist
	@$(BIN)/python -m uv tool run --quiet --from 'cyclonedx-bom>=7' cyclonedx-py environment --pyproject pyproject.toml \
		--output-reproducible --output-format JSON --output-file dist/sbom.json $(AUDIT)/bin/python
	@$(BIN)/python -c "import json; print(len(json.load(open('dist/sbom.json'))['components']), 'packages in dist/sbom.json')"

# What audit ends with where the list cannot be asked; NO_VERDICT=0 is for machines that may not reach it.
NO_VERDICT ?= 1
audit: sbom  ## ask whether anything in it is known to be vulnerable
	@# Nobody knows of a version of ours that is not published yet, and strict is who takes no package for granted.
	@$(BIN)/python -m uv pip uninstall --quiet --python $(AUDIT)/bin/python airflow-provider-modelstudio
	@rm -f $(AUDIT)/known.txt
	@$(BIN)/python -m uv tool run --quiet --from 'pip-audit>=2.9' pip-audit --strict --progress-spinner off \
		--output $(AUDIT)/known.txt --path $(AUDIT)/lib/python3*/site-packages || { \
		if [ -s $(AUDIT)/known.txt ]; then \
			cat $(AUDIT)/known.txt; echo 'Not passed: this is known to be vulnerable' >&2; exit 1; fi; \
		echo 'No verdict: the list of PyPI could not be asked about everything, see above' >&2; exit $(NO_VERDICT); }

# Each protection, switched off in a copy: a test must fail.
.PHONY: mutants
mutants: $(VENV)/dev.stamp  ## switch off each protection and see a test fail: about an hour
	$(BIN)/python tests/mutants.py

# Peers, plots and profiler have an environment of their own. FLAGS='--only at_once' measures less, FLAGS=--large more.
BENCH := $(VENV)/bench
FLAGS ?=
.PHONY: bench profile
bench: $(VENV)/demo.stamp $(VENV)/bench.stamp  ## measure beside peers, write docs/benchmarks.md: half an hour, alone on the machine
	@$(BIN)/python benchmarks/bench.py --peers $(BENCH)/bin/python $(FLAGS)

profile: $(VENV)/demo.stamp $(VENV)/bench.stamp  ## where the CPU of a run goes; FLAGS='--media cbor --task rerank' for others
	@$(BIN)/python benchmarks/profile_once.py --py-spy $(BENCH)/bin/py-spy $(FLAGS)

$(VENV)/bench.stamp: $(VENV)/uv.stamp benchmarks/requirements.txt
	@echo 'Installing Daft, elasticsearch-py, matplotlib and py-spy into $(BENCH) …'
	@$(BIN)/python -m venv --clear $(BENCH)
	@$(BIN)/python -m uv pip install --quiet --compile-bytecode --python $(BENCH)/bin/python --requirement benchmarks/requirements.txt
	@touch $@
