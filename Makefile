# Needs Python 3.11 or newer, and make. Everything else comes into .venv.

PYTHON ?= $(shell for python in python3.11 python3 python; do \
	$$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$python && break; done)

VENV := .venv
BIN := $(VENV)/bin
UV := $(BIN)/uv
PLUGINS := airflow git kubeflow prefect
DISTRIBUTIONS := . examples/flights-model $(PLUGINS:%=plugins/tracklayer-%)
NAMES := tracklayer flights-model $(PLUGINS:%=tracklayer-%)
OLDER_AIRFLOWS := 3.1 3.2
# `tracklayer-kubeflow` takes KFP only where pipelines are written and compiled.
EXTRAS_kubeflow := [compile]

export UV_NO_PROGRESS := 1
export UV_LINK_MODE ?= hardlink
# Nothing that is run here tells anybody of it: MLflow, Airflow, Prefect.
export MLFLOW_DISABLE_TELEMETRY := true
export DO_NOT_TRACK := true
export SCARF_ANALYTICS := false
unexport VIRTUAL_ENV PYTHONPATH PYTHONHOME
# Airflow reads every module a hundred times as often as it is written.
unexport PYTHONDONTWRITEBYTECODE

# say TEXT, COMMAND: runs it with a dot for every two seconds; its output appears only if it fails. A command that takes long
# begins with exec, so that it is what gets the signal when make is interrupted.
define say
@printf '%s ' '$(1)'; log=$$(mktemp); { $(2); } >$$log 2>&1 & job=$$!; trap 'kill $$job 2>/dev/null; rm -f $$log; exit 130' INT TERM HUP; \
	ticks=0; while kill -0 $$job 2>/dev/null; do sleep 0.2; ticks=$$((ticks + 1)); [ $$((ticks % 10)) -ne 0 ] || printf .; done; \
	if wait $$job; then rm -f $$log; echo ' done'; else echo ' failed'; cat $$log >&2; rm -f $$log; exit 1; fi
endef

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

.PHONY: help
help: ## Show this
	@echo 'make TARGET'; echo
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/\1|\2/p' $(MAKEFILE_LIST) | while IFS='|' read -r name text; do \
		printf '  %-14s %s\n' "$$name" "$$text"; done

# --------------------------------------------------------------------------------------------------------------------
# Installing
# --------------------------------------------------------------------------------------------------------------------

.PHONY: install
install: $(VENV)/.distributions ## Make .venv with everything in it; instant when nothing changed

$(UV):
	@[ -n '$(PYTHON)' ] || { echo 'Python 3.11 or newer is needed; none is on PATH (or say make PYTHON=/path/to/python)' >&2; exit 1; }
	$(call say,[1/4] $(VENV),exec $(PYTHON) -m venv $(VENV))
	$(call say,[2/4] the installer,exec $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints/dev.txt uv)

$(VENV)/.dependencies: constraints/dev.txt | $(UV)
	$(call say,[3/4] Airflow$(comma) Prefect$(comma) Kubeflow Pipelines$(comma) MLflow and the tools: some minutes on a new machine,exec $(UV) pip install --quiet --python $(BIN)/python --compile-bytecode --requirements constraints/dev.txt)
	@touch $@

$(VENV)/.distributions: $(VENV)/.dependencies $(DISTRIBUTIONS:%=%/pyproject.toml)
	$(call say,[4/4] tracklayer and its plugins,exec $(UV) pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation $(DISTRIBUTIONS:%=--editable %))
	@touch $@

comma := ,

.PHONY: constraints
constraints: $(UV) ## Resolve constraints/*.txt anew from *.in and the distributions (UPGRADE=1: to the newest versions)
	@for name in dev frameworks $(PLUGINS) $(OLDER_AIRFLOWS:%=airflow-%); do $(MAKE) --no-print-directory resolve-$$name || exit 1; done

RESOLVE = $(UV) pip compile --quiet --universal --python-version 3.11 --no-header $(NAMES:%=--no-emit-package %) \
	$(if $(UPGRADE),--upgrade)

.PHONY: resolve-dev
resolve-dev:
	@printf '%s\n' '.[cli,mlflow]' ./examples/flights-model $(foreach plugin,$(PLUGINS),'./plugins/tracklayer-$(plugin)$(EXTRAS_$(plugin))') \
		| $(RESOLVE) constraints/dev.in - --output-file constraints/dev.txt

.PHONY: resolve-frameworks
resolve-frameworks:
	@$(RESOLVE) --constraint constraints/dev.txt --override constraints/frameworks.overrides constraints/frameworks.in \
		--output-file constraints/frameworks.txt

# An older Airflow, with which the provider's tests are run; nothing else of ours but what these need.
resolve-airflow-%:
	@printf '%s\n' 'apache-airflow~=$*.0' '.[cli,mlflow]' ./examples/flights-model ./plugins/tracklayer-airflow ./plugins/tracklayer-git \
		| $(RESOLVE) constraints/airflow-matrix.in - --output-file constraints/airflow-$*.txt

resolve-%:
	@printf '%s\n' . './plugins/tracklayer-$*$(EXTRAS_$*)' \
		| $(RESOLVE) constraints/$*.in - --output-file constraints/$*.txt

# --------------------------------------------------------------------------------------------------------------------
# Checking
# --------------------------------------------------------------------------------------------------------------------

.PHONY: check
check: install lint types imports pins docs wheels ## Everything but the tests

.PHONY: lint
lint: install ## ruff: style and format
	$(BIN)/ruff check --quiet .
	$(BIN)/ruff format --quiet --check .

.PHONY: format
format: install ## ruff: mend what it can
	$(BIN)/ruff check --quiet --fix .
	$(BIN)/ruff format --quiet .

.PHONY: types
types: install ## mypy, strict
	$(BIN)/mypy src $(PLUGINS:%=plugins/tracklayer-%/src) examples/flights-model/src examples/relay tests benchmarks tools dags flows pipelines
	@for plugin in $(PLUGINS); do \
		MYPYPATH=plugins/tracklayer-$$plugin/tests:plugins/tracklayer-$$plugin/tests/dags_scheduled $(BIN)/mypy plugins/tracklayer-$$plugin/tests || exit 1; done

.PHONY: imports
imports: install ## import-linter: imports go one way
	$(BIN)/lint-imports

.PHONY: pins
pins: install ## The environment agrees with itself, and no constraints file names a registry
	$(UV) pip check --quiet --python $(BIN)/python
	@if grep -n '://' constraints/*; then echo 'an address in a constraints file' >&2; exit 1; fi

.PHONY: docs
docs: install ## Every link in the documentation leads somewhere
	$(BIN)/pytest --quiet -p no:cacheprovider tests/contract/test_documents.py

.PHONY: wheels
wheels: $(PLUGINS:%=.cache/wheels/%/proven) .cache/wheels/core/proven ## Each plugin's wheel installs and imports with core alone beside it

SOURCES := $(shell find src plugins/*/src -name '*.py' -o -path '*/pages/*' 2>/dev/null)
# The wheel is made from the source distribution, so that both are complete.
BUILD := $(UV) build --quiet --no-build-isolation --python $(BIN)/python

.cache/wheels/core/proven: pyproject.toml tools/prove_wheel.py $(SOURCES) | install
	@rm -rf $(@D) && mkdir -p $(@D)
	@$(BUILD) --out-dir $(@D) .
	$(call say,core alone$(comma) with the oldest versions that it allows,$(UV) venv --quiet --python $(BIN)/python $(@D)/env && $(UV) pip install --quiet --python $(@D)/env --resolution lowest-direct $(@D)/tracklayer-*.whl && $(@D)/env/bin/python tools/prove_wheel.py)
	@touch $@

.cache/wheels/%/proven: constraints/%.txt pyproject.toml plugins/tracklayer-%/pyproject.toml tools/prove_wheel.py $(SOURCES) | install
	@rm -rf $(@D) && mkdir -p $(@D)
	@$(BUILD) --out-dir $(@D) . && $(BUILD) --out-dir $(@D) plugins/tracklayer-$*
	$(call say,tracklayer-$* with core alone beside it,$(UV) venv --quiet --python $(BIN)/python $(@D)/env && $(UV) pip install --quiet --python $(@D)/env --constraint constraints/$*.txt $(@D)/tracklayer-*.whl "tracklayer-$*$(EXTRAS_$*) @ file://$(CURDIR)/$$(echo $(@D)/tracklayer_$*-*.whl)" && $(@D)/env/bin/python tools/prove_wheel.py $*)
	@touch $@

# --------------------------------------------------------------------------------------------------------------------
# Running
# --------------------------------------------------------------------------------------------------------------------

# Not beside others: they count the requests of a stage (where a machine is so busy that the server seems to be away, there
# are more), fork the process that runs the tests (which xdist's workers do not bear), look at a terminal's width, stop
# a whole demo within seconds, or look how old a scheduler's heartbeat is.
ALONE := tests/integration/test_delivery.py tests/integration/test_requests.py tests/integration/test_cli.py \
	tests/integration/test_mlflow_places.py tests/integration/test_mlflow_artifacts.py tests/examples/test_demo.py \
	plugins/tracklayer-airflow/tests/test_black_hole.py

# One more than there are CPUs: most of the time each of them waits for servers and schedulers.
SIDE_BY_SIDE := $(shell $(PYTHON) -c 'import os; print(min((os.cpu_count() or 1) + 1, 5))')

.PHONY: test
test: install ## All tests (ARGS="-k parent" for some; WORKERS=2 runs files side by side)
ifneq ($(ARGS)$(WORKERS),)
	$(BIN)/pytest $(if $(WORKERS),-n $(WORKERS) --dist loadfile) $(ARGS)
else
# In the order of conftest.py: xdist's own begins the files with the fewest tests last, which are those that take longest.
	$(BIN)/pytest -n $(SIDE_BY_SIDE) --dist loadfile --no-loadscope-reorder $(ALONE:%=--ignore %)
	$(BIN)/pytest $(ALONE)
endif

.PHONY: endings-sqlite
endings-sqlite: install ## Every way an Airflow task can end, with Airflow on SQLite (`make test` has it on PostgreSQL)
	TRACKLAYER_TEST_AIRFLOW_DATABASE=sqlite $(BIN)/pytest plugins/tracklayer-airflow/tests/test_scheduled_endings.py $(ARGS)

FRAMEWORKS := .cache/frameworks
# By pip, which may know a place on this machine where it has a build for it: elsewhere it is the registry's.
TORCH ?= torch==2.13.0

$(FRAMEWORKS)/.dependencies: constraints/frameworks.txt | install
	$(call say,[1/3] $(FRAMEWORKS),exec $(PYTHON) -m venv --clear $(FRAMEWORKS))
	$(call say,[2/3] PyTorch,exec $(FRAMEWORKS)/bin/python -m pip install --quiet --disable-pip-version-check '$(TORCH)')
	$(call say,[3/3] Keras$(comma) Lightning$(comma) Optuna$(comma) Ray$(comma) XGBoost,exec $(UV) pip install --quiet --python $(FRAMEWORKS)/bin/python --requirements constraints/frameworks.txt)
	@touch $@

$(FRAMEWORKS)/.distributions: $(FRAMEWORKS)/.dependencies pyproject.toml
	@$(UV) pip install --quiet --python $(FRAMEWORKS)/bin/python --no-deps --no-build-isolation --editable .
	@touch $@

.PHONY: frameworks
frameworks: $(FRAMEWORKS)/.distributions ## Models, autologging and callbacks of ML frameworks while the server is there, away, and lost (ARGS="-k ray" for some)
	$(FRAMEWORKS)/bin/python -m pytest -p no:cacheprovider -W ignore tests/frameworks $(ARGS)

.PHONY: soak
soak: install ## The fault tests for long (an hour or more), and docs/reference/soak.md (ARGS="--kills 200 --points 100000" for less)
	@exec $(BIN)/python tools/soak.py $(ARGS)

# FIRST:LAST, each in both profiles.
SEEDS ?= 1:2000

.PHONY: stress
stress: install ## Delivery against a store in memory that fails and kills, by 2,000 seeds (half an hour; SEEDS=1:100 for less)
	TRACKLAYER_TEST_SEEDS=$(SEEDS) $(BIN)/pytest -q tests/integration/faults/test_stress.py $(ARGS)

.PHONY: programs
programs: install ## Programs of MLflow calls in a stage, compared with untracked ones, by 100 seeds (a quarter of an hour; SEEDS=1:20 for less)
	TRACKLAYER_TEST_SEEDS=$(if $(filter file,$(origin SEEDS)),1:100,$(SEEDS)) $(BIN)/pytest -q tests/integration/test_mlflow_programs.py $(ARGS)

.PHONY: demo
demo: install ## A model's journey through Airflow, Kubeflow Pipelines and Prefect (KEEP=1 leaves MLflow's pages open)
	@exec $(BIN)/python -m examples.relay $(if $(KEEP),--keep)

.PHONY: bench
bench: install ## Every benchmark: a table each, and .bench/NAME.json
	@for bench in benchmarks/bench_*.py; do $(BIN)/python $$bench || exit 1; done

bench-%: install
	@$(BIN)/python benchmarks/bench_$(subst -,_,$*).py

.PHONY: same-endings
same-endings: install ## Airflow's examples without and with tracking on a real scheduler (a quarter of an hour)
	TRACKLAYER_TEST_SCHEDULER=1 $(BIN)/pytest plugins/tracklayer-airflow/tests/test_same_endings.py -k scheduler $(ARGS)

.PHONY: matrix-airflow
matrix-airflow: $(OLDER_AIRFLOWS:%=matrix-airflow-%) ## The provider's tests with older Airflows (ARGS=plugins/tracklayer-airflow/tests/test_plugin.py for some)

matrix-airflow-%: .cache/airflow-%/installed
	@echo 'Airflow $*'
	@.cache/airflow-$*/bin/pytest $(or $(ARGS),plugins/tracklayer-airflow)

# Kept, though only the target before names them.
.SECONDARY: $(OLDER_AIRFLOWS:%=.cache/airflow-%/installed)

OF_AIRFLOW := . examples/flights-model plugins/tracklayer-airflow plugins/tracklayer-git

.cache/airflow-%/installed: constraints/airflow-%.txt $(OF_AIRFLOW:%=%/pyproject.toml) | install
	@mkdir -p $(@D)
	$(call say,Airflow $*,$(UV) venv --quiet --clear --python $(BIN)/python $(@D) && $(UV) pip install --quiet --python $(@D)/bin/python --compile-bytecode --requirements $< && $(UV) pip install --quiet --python $(@D)/bin/python --no-deps --no-build-isolation $(OF_AIRFLOW:%=--editable %))
	@touch $@

.PHONY: clean
clean: ## Remove what was made, but for .venv
	rm -rf .demo .bench .cache .mypy_cache .ruff_cache .pytest_cache .import_linter_cache build dist local_outputs
