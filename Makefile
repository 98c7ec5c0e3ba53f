# `make demo` and `make test` set everything up by themselves (own .venv; Python 3.11+ with venv is all they need).
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
STORE ?= stores/demo
STUDY ?= studies/demo

.PHONY: help setup tools demo test slow lint format clean

help:
	@echo "make demo    a colony of synthetic mice -> sweep -> scaling page (about ten minutes on two cores)"
	@echo "make test    lint, types and the default test suite"
	@echo "make slow    the tests that take minutes"
	@echo "make lint    ruff and mypy;  make format  lets ruff mend what it can"
	@echo "make clean   remove what demo made (stores/demo, studies/demo)"

setup: $(READY)

$(READY): pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	touch $@

demo: setup
	@start=$$(date +%s); set -e; \
	$(BIN)/omnimouse-jax synthesize $(STORE) --preset demo; \
	$(BIN)/omnimouse-jax sweep plan --config configs/demo.py --store $(STORE) --out $(STUDY); \
	$(BIN)/omnimouse-jax sweep launch $(STUDY) --on local --wait || test $$? -eq 1; \
	$(BIN)/omnimouse-jax report $(STUDY); \
	took=$$(( $$(date +%s) - start )); echo "demo took $$((took / 60)) min $$((took % 60)) s"

# SLURM, chromium and SkyPilot, for the tests that run against them; they skip and say so where these cannot be installed
tools:
	bash tests/install.sh

# In two goes: a process that has compiled programs for a thousand tests runs out of mapped memory regions.
PYTEST = $(BIN)/python -m pytest -n 2 --dist loadfile --max-worker-restart 0 --durations 15 --durations-min 5
test: setup tools lint
	$(PYTEST) $(wildcard tests/test_[a-m]*.py); first=$$?; $(PYTEST) $(wildcard tests/test_[n-z]*.py) && exit $$first

slow: setup tools
	$(BIN)/python -m pytest -m slow

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf stores/demo studies/demo
