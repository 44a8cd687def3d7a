# `make demo` and `make test` set up .venv by themselves; repeated calls reuse it.
PYTHON ?= python3
TORCH_VERSION := 2.13.0
# Options for pip when it installs PyTorch, for example `make demo TORCH_OPTIONS="--index-url <URL of the CPU wheels>"`.
TORCH_OPTIONS ?=
PYTEST_WORKERS ?= 3

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check

.DEFAULT_GOAL := help
.PHONY: help demo test browser bench lint format clean

help:
	@echo "make demo    set up, score a simulated group and edits of a photograph, write out/demo.png"
	@echo "make test    set up, lint, check types and run all tests"
	@echo "make bench   measure packed groups against one candidate and dimension per pass"
	@echo "make lint    ruff and mypy only"
	@echo "make format  let ruff format and fix the code"
	@echo "make clean   remove what make made, .venv included"

demo: $(VENV)/.installed-demo
	$(BIN)/editreward demo

test: lint browser
	$(BIN)/python -m pytest -n $(PYTEST_WORKERS) --dist worksteal

bench: $(VENV)/.installed-demo
	$(BIN)/python benchmarks/throughput.py --preset cpu-tiny

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/.installed-dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf $(VENV) build dist out *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

# PyTorch first and by exact version: a plain `pip install torch` takes the newest build, on Linux with gigabytes of CUDA
# libraries. An exact version also accepts a CPU build of it (2.13.0+cpu) from any place that pip is set up to look in.
$(VENV)/.installed-torch: | $(BIN)/python
	$(BIN)/python -c "import torch" 2>/dev/null || $(PIP) install --quiet --no-compile $(TORCH_OPTIONS) torch==$(TORCH_VERSION)
	@touch $@

$(VENV)/.installed-demo: pyproject.toml | $(VENV)/.installed-torch
	$(PIP) install --quiet --no-compile -e ".[demo]"
	@touch $@

$(VENV)/.installed-dev: pyproject.toml | $(VENV)/.installed-torch
	$(PIP) install --quiet --no-compile -e ".[train,eval,dev]"
	@touch $@ $(VENV)/.installed-demo

# The annotation app and the Space are tested in a real browser. Where apt-get works without asking (as root on Debian) it
# is installed; elsewhere those tests are skipped and say what they need.
browser:
	@command -v chromium >/dev/null && command -v chromedriver >/dev/null || { \
		[ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && apt-get update -qq && \
		DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium chromium-driver >/dev/null; \
	} || echo "Without chromium and chromium-driver the tests in a browser are skipped."
