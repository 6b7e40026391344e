# One environment, .venv, made from pyproject.toml and constraints.txt and brought up to date only when one of them changes.
# What installing prints goes to standard error: `make -s bench` must leave nothing but results on standard output.

PYTHON ?= python3
WORKERS ?= 2
SINCE ?= main
DEMO_OUT ?= demo-run
BENCH_ARGS ?=
RESULTS_ARGS ?=
GALLERY ?= 1
CHECK_SECONDS ?= 45
BENCHMARKS := cli prep store stage1_speed stage2 plan saliency selection probe evaluate scale mixtures maps

BIN := .venv/bin
READY := .venv/.ready

# Brainmarks' evaluation suite asks for old versions of what it hardly uses, so that it has an environment of its own,
# which sees the packages of the first: torch is not installed twice.
SUITE := .venv-brainmarks
SUITE_PACKAGE := brainmarks==0.1.1
PRINT_SITE := import site; print(site.getsitepackages()[0])

.DEFAULT_GOAL := help
.PHONY: help .venv demo test test-slow test-oldest test-newest check changed lint bench weights weights-voxel results brainmarks brainmarks-if-possible docs dist clean

help:
	@echo "make demo    simulate, prep, pretrain, rank, embed, evaluate, report: all on the CPU, into $(DEMO_OUT)/"
	@echo "make check   lint, and the tests of what changed since $(SINCE) (SINCE=COMMIT), at most $(CHECK_SECONDS) s of them"
	@echo "make test    run the tests but for slow ones (WORKERS=$(WORKERS) processes; TESTS='-k grid' picks some)"
	@echo "make test-slow   run the slow tests: killed processes, Slurm, benchmarks, commands of the pages"
	@echo "make test-oldest   the tests with the oldest versions that pyproject.toml takes, in .venv-oldest; test-newest: the newest there are"
	@echo "make lint    ruff, mypy, import layers"
	@echo "make bench   run the benchmarks, one JSON line per case (BENCH_ARGS=--quick for reduced sizes)"
	@echo "make weights train and write the stage 1 model that comes with the package; needs ../shared/data, minutes"
	@echo "make weights-voxel   the stage 2 model that comes with it, of ABIDE painted into voxels: half an hour, 8 GB"
	@echo "make brainmarks  run the plugin's tests with the Brainmarks suite, in an environment of its own, $(SUITE)/"
	@echo "make results run the paper's tasks on ../shared/data, fill results/*.csv and write docs/benchmarks.md (30 minutes)"
	@echo "make docs    build docs/_build/html/index.html; GALLERY=0 does not run the stories of the gallery, which takes two minutes"
	@echo "make dist    the archives of a release, checked, in dist/"
	@echo "make clean   remove what the above made, but for .venv"
	@echo "make .venv   only set up the environment (PYTHON=python3.12 picks the interpreter)"

.venv: $(READY)

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "$(PYTHON) is missing or older than 3.11, which slimbrain needs; name another: make PYTHON=python3.12" >&2; exit 1; }
	$(PYTHON) -m venv .venv >&2
	$(BIN)/python -m pip install --disable-pip-version-check --quiet -c constraints.txt hatchling hatch-fancy-pypi-readme >&2
	$(BIN)/python -m pip install --disable-pip-version-check --quiet -c constraints.txt --no-build-isolation -e ".[dev,docs]" >&2
	@touch $@

demo: $(READY)
	$(BIN)/slimbrain demo --out $(DEMO_OUT)
	@echo "The report is at $(abspath $(DEMO_OUT))/report.html"

# Whole files to each process: what a file's tests share is made once.
PYTEST := $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder --durations=15 --durations-min=5

test: $(READY)
	$(PYTEST) -m "not slow" $(TESTS)

test-slow: $(READY)
	$(PYTEST) -m slow $(TESTS)

# The oldest versions that pyproject.toml takes, or the newest there are, with the package as a user installs it: an environment made anew.
test-oldest test-newest: test-%:
	$(PYTHON) -m venv --clear .venv-$* >&2
	if [ $* = oldest ]; then $(PYTHON) tests/oldest.py; fi > .venv-$*/versions.txt
	.venv-$*/bin/python -m pip install --disable-pip-version-check --quiet -c .venv-$*/versions.txt hatchling hatch-fancy-pypi-readme ".[dev,arrow,fast,slurm]" >&2
	.venv-$*/bin/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder -m "not slow" $(TESTS)

# Lint on one core, tests on the other.
check: $(READY)
	@$(MAKE) --no-print-directory --jobs=2 --output-sync=target lint changed

changed: $(READY)
	@files=$$($(BIN)/python tests/changed.py $(SINCE)) || exit 1; \
	if [ -n "$$files" ]; then $(PYTEST) -m "not slow" --seconds $(CHECK_SECONDS) $$files; \
	else echo "nothing changed since $(SINCE): no tests to run"; fi

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# Each is a program of its own, with its own --help.
bench: $(READY)
	@set -e; for name in $(BENCHMARKS); do $(BIN)/python benchmarks/$$name.py $(BENCH_ARGS); done

# Restarts where it stopped.
weights: $(READY)
	$(BIN)/python benchmarks/weights.py

weights-voxel: $(READY)
	$(BIN)/python benchmarks/weights_voxel.py

brainmarks: $(SUITE)/.ready
	$(SUITE)/bin/python -m pytest tests/brainmarks_plugin $(TESTS)

# Finished jobs are kept in results-work/, so that it may be stopped and run again.
results: $(READY)
	$(BIN)/python benchmarks/results.py $(RESULTS_ARGS)
	$(BIN)/python docs/benchmarks.py

# For CI: the suite is other people's, and a package index that cannot give it today says nothing of this project. What the plugin does
# without it is part of `make test`, so that its two commands alone run here.
brainmarks-if-possible:
	@if $(MAKE) $(SUITE)/.ready; then $(MAKE) brainmarks TESTS='-k suite_commands'; \
	else echo "SKIPPED brainmarks: the suite and what it imports could not be installed (see above); its two commands were not run"; fi

$(SUITE)/.ready: $(READY)
	$(BIN)/python -m venv $(SUITE) >&2
	$(BIN)/python -c '$(PRINT_SITE)' > "$$($(SUITE)/bin/python -c '$(PRINT_SITE)')/shared.pth"
	$(SUITE)/bin/python -m pip install --disable-pip-version-check --quiet -c constraints.txt -e ".[brainmarks]" >&2
	$(SUITE)/bin/python -m pip install --disable-pip-version-check --quiet --no-deps $(SUITE_PACKAGE) >&2
	@touch $@

# A story that did not change since the last build is not run again.
docs: $(READY)
	$(BIN)/python docs/rooms.py
	SLIMBRAIN_GALLERY=$(GALLERY) $(BIN)/python -m sphinx -W --keep-going -q -b html docs docs/_build/html
	@echo "The documentation is at $(CURDIR)/docs/_build/html/index.html"

# From a clean tree, since hatchling packs what git would add as well as what it has.
dist:
	@if [ -n "$$(git status --porcelain)" ]; then echo "the tree is not clean: commit first, or the archives hold what is not in git" >&2; exit 1; fi
	rm -rf dist
	$(PYTHON) -m venv --clear .venv-dist >&2
	.venv-dist/bin/python -m pip install --disable-pip-version-check --quiet -c constraints.txt build twine >&2
	PIP_CONSTRAINT=constraints.txt .venv-dist/bin/python -m build
	.venv-dist/bin/python -m twine check --strict dist/*

clean:
	rm -rf $(DEMO_OUT) docs/_build docs/gallery dist build .venv-oldest .venv-newest .venv-dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find src tests benchmarks examples docs -type d -name __pycache__ -prune -exec rm -rf {} + 2>/dev/null || true
