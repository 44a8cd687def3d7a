# `make demo` and `make test` set up .venv by themselves; repeated calls reuse it. Python 3.11 or newer.
PYTHON ?= python3
TORCH_VERSION := 2.13.0
UV_VERSION := 0.13.9
# Options for pip when it installs PyTorch, for example `make demo TORCH_OPTIONS="--index-url <URL of the CPU wheels>"`.
TORCH_OPTIONS ?=
PYTEST_WORKERS ?= 2
PYTEST_OPTIONS ?=

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
PYTEST := -m pytest -n $(PYTEST_WORKERS) --dist worksteal $(PYTEST_OPTIONS)
# Exact versions of all that is installed below, but for PyTorch and what it brings (see `make lock`).
LOCK := requirements/lock.txt
INSTALL := install --quiet --no-compile
LOCKED := $(INSTALL) --constraint $(LOCK)

# pip compiles nothing: Python does on first use, and keeps it. Without what it keeps, starting a process with the libraries
# costs twice the CPU time, and the tests start hundreds.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help demo test test-rest test-all test-newest test-oldest browser bench lint format lock clean

help:
	@echo "make demo         set up, score a simulated group and edits of a photograph, write out/demo.png"
	@echo "make test         set up, lint, check types and run the tests that guard a change"
	@echo "make test-rest    run the others: docs, browser, wheel, several processes, kills (says what it installs)"
	@echo "make test-all     both"
	@echo "make test-newest  the tests with the newest release of every dependency, in .venv-newest"
	@echo "make test-oldest  the tests with the oldest release that pyproject.toml allows, in .venv-oldest"
	@echo "make bench        measure packed groups against one candidate and dimension per pass"
	@echo "make lint         ruff and mypy only"
	@echo "make format       let ruff format and fix the code"
	@echo "make lock         choose the versions in $(LOCK) anew"
	@echo "make clean        remove what make made, .venv included"

demo: $(VENV)/.installed-demo
	$(BIN)/editreward demo

# mypy has one process, and checks types while the tests begin.
test: style
	+$(MAKE) --jobs 2 types guard

.PHONY: guard
guard: $(VENV)/.installed-dev
	$(BIN)/python $(PYTEST) -m "not slow"

# Some wait for servers, browsers and killed processes: what fails is tried once more, alone.
test-rest: $(VENV)/.installed-rest browser
	$(BIN)/python $(PYTEST) -m slow || $(BIN)/python $(PYTEST) -m slow -n 0 --last-failed --last-failed-no-failures none

test-all: test test-rest

bench: $(VENV)/.installed-demo
	$(BIN)/python performance/throughput.py --preset cpu-tiny

lint: style types

.PHONY: style types
style: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.installed-dev
	$(BIN)/mypy

format: $(VENV)/.installed-dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf $(VENV) .venv-newest .venv-oldest build dist out *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis

$(BIN)/python:
	$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11) and 'EditReward needs Python 3.11 or newer: make PYTHON=python3.11 ...')"
	$(PYTHON) -m venv $(VENV)

# PyTorch first and by exact version: a plain `pip install torch` takes the newest build, on Linux with gigabytes of CUDA
# libraries. An exact version also accepts a CPU build of it (2.13.0+cpu) from any place that pip is set up to look in.
# The package is built with the locked setuptools, too.
$(VENV)/.installed-torch: $(LOCK) | $(BIN)/python
	$(PIP) $(LOCKED) $(TORCH_OPTIONS) torch==$(TORCH_VERSION)
	$(PIP) $(LOCKED) setuptools
	@touch $@

$(VENV)/.installed-demo: pyproject.toml $(LOCK) | $(VENV)/.installed-torch
	$(PIP) $(LOCKED) --no-build-isolation -e ".[demo]"
	@touch $@

$(VENV)/.installed-dev: pyproject.toml $(LOCK) | $(VENV)/.installed-torch
	$(PIP) $(LOCKED) --no-build-isolation -e ".[train,eval,dev]"
	@touch $@ $(VENV)/.installed-demo

# Ray is large and only `editreward serve --engine ray` needs it; DeepSpeed is built here.
$(VENV)/.installed-rest: $(VENV)/.installed-dev
	@echo "Installing Ray and DeepSpeed into $(VENV) for the tests of Ray Serve and ZeRO."
	$(PIP) $(LOCKED) --no-build-isolation -e ".[ray,deepspeed]"
	@touch $@

# The versions of every extra, for Python 3.11 to 3.13 on any system. PyTorch and what only it brings stay out: which
# build fits is for the machine to say.
lock: | $(BIN)/python
	$(PIP) $(INSTALL) uv==$(UV_VERSION)
	echo "torch==$(TORCH_VERSION)" | $(BIN)/uv pip compile pyproject.toml --quiet --universal --python-version 3.11 \
		--all-extras --upgrade --constraint - --no-header --no-annotate --output-file $(LOCK).new
	{ echo "# Made by \`make lock\` for Python 3.11 to 3.13; PyTorch $(TORCH_VERSION) is installed before, see the Makefile."; \
		grep -vE '^(torch|triton|nvidia-[a-z0-9-]+|cuda-[a-z-]+)==' $(LOCK).new; } > $(LOCK)
	rm $(LOCK).new

# What the ranges in pyproject.toml promise, tested at both ends. Each has a virtual environment of its own, and PyTorch as
# the machine has it: `make test-oldest TORCH_VERSION=2.6.0` takes its oldest release, too. TESTS says what is run.
TESTS ?= -m "not slow"

test-newest:
	$(MAKE) test-unlocked VENV=.venv-newest RESOLUTION=highest

test-oldest:
	$(MAKE) test-unlocked VENV=.venv-oldest RESOLUTION=lowest-direct

.PHONY: test-unlocked install-unlocked
test-unlocked: install-unlocked
	$(BIN)/python $(PYTEST) $(TESTS)

install-unlocked: | $(BIN)/python
	$(PIP) $(INSTALL) uv==$(UV_VERSION) setuptools
	echo "torch==$(TORCH_VERSION)" | $(BIN)/uv pip compile pyproject.toml --quiet --python $(BIN)/python --extra train --extra eval \
		--extra dev --resolution $(RESOLUTION) --constraint - --no-header --no-annotate --output-file $(VENV)/all.txt
	grep -vE '^(torch|triton|nvidia-[a-z0-9-]+|cuda-[a-z-]+)==' $(VENV)/all.txt > $(VENV)/versions.txt
	$(PIP) $(INSTALL) --constraint $(VENV)/versions.txt $(TORCH_OPTIONS) torch==$(TORCH_VERSION)
	$(PIP) $(INSTALL) --constraint $(VENV)/versions.txt --no-build-isolation -e ".[train,eval,dev]"

# The annotation app and the Space are tested in a real browser. Where apt-get works without asking (as root on Debian) it
# is installed; elsewhere those tests are skipped and say what they need.
browser:
	@command -v chromium >/dev/null && command -v chromedriver >/dev/null || { \
		[ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && \
		echo "Installing Debian's chromium and chromium-driver for the tests in a browser." && apt-get update -qq && \
		DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium chromium-driver >/dev/null; \
	} || echo "Without chromium and chromium-driver the tests in a browser are skipped."
