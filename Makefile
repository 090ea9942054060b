# piflash: every target installs what it needs into .venv; as root on Debian or Ubuntu also the
# system packages that it names, otherwise it prints the command to run.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

PYTHON ?= $(shell for p in python3.13 python3.12 python3.11 python3.10 python3; do \
	$$p -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null && { echo $$p; break; }; done)
VENV := .venv
BIN := $(VENV)/bin
PYTEST := $(BIN)/python -m pytest
# Of the virtual machines: amd64, or armhf for 32-bit ARM.
ARCH := amd64
# The unit tests make many small files and sync them: in memory that costs nothing.
MEMORY := $(if $(wildcard /dev/shm),/dev/shm,/tmp)

.PHONY: help demo test lint unit contract lab lab-long sim e2e pythons bench wheel clean tools-demo tools-test \
	tools-lab tools-e2e

help:  ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | awk -F'\t' '{printf "  make %-10s %s\n", $$1, $$2}'

demo: tools-demo $(VENV)/.run  ## write a card file from a small base image over local HTTP: no card, no download
	@$(BIN)/python -m tests.demo

test: tools-test $(VENV)/.dev  ## lint, then every test (unit, contract)
	@$(MAKE) --no-print-directory lint unit contract

unit: $(VENV)/.dev  ## the pure core: no root, no process, no network; under 10 s
	TMPDIR=$(MEMORY) $(PYTEST) tests/unit -q -n 2

contract: tools-test $(VENV)/.dev  ## against real tools: mkfs, fsck, mtools, loop devices, HTTP, cloud-init
	$(PYTEST) tests/contract -q

lint: $(VENV)/.dev $(VENV)/.py37  ## ruff, mypy strict, import arrows, the Pi's Python 3.7
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/vermin -q -t=3.7- --violations --no-tips --eval-annotations firstboot
	$(VENV)/py37/bin/mypy --python-version 3.7 --strict firstboot

lab: tools-lab $(VENV)/.dev  ## real Docker engines on this machine form swarms by the cards that piflash writes (root)
	$(PYTEST) tests/lab -v

lab-long: tools-lab $(VENV)/.dev  ## the same with all start orders, kills and idle minutes (root; about an hour)
	PIFLASH_LAB_LONG=1 $(PYTEST) tests/lab -v

sim: $(VENV)/.dev  ## 20,000 stories of simulated nodes, every state of three nodes, and each rule taken out in turn
	$(PYTEST) tests/sim/test_seeds.py -q
	$(PYTEST) tests/sim -q -n 2 --ignore tests/sim/test_seeds.py

e2e: tools-e2e $(VENV)/.dev  ## virtual machines boot the cards that piflash writes (root; ARCH=armhf for 32-bit ARM)
	PIFLASH_REQUIRE_TOOLS=1 PIFLASH_E2E_ARCH=$(ARCH) $(PYTEST) tests/e2e -v

pythons: $(VENV)/.dev  ## the unit tests under every supported Python that is installed
	@for v in 3.10 3.12 3.13; do .ci/with-python $$v || exit 1; done

bench: tools-test $(VENV)/.dev  ## ratios against unzip | dd | cmp on one loop device, in one run (root)
	@$(BIN)/python -m tests.bench

wheel: $(VENV)/.dev  ## dist/*.whl
	$(BIN)/python -m pip -q wheel --no-deps -w dist .
	@ls dist

clean:  ## remove what was built, demo/ included
	rm -rf $(VENV) dist demo .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

tools-demo:
	@.ci/tools demo

tools-lab:
	@[ "$$(id -u)" = 0 ] || { echo "make lab makes namespaces and needs root. Run: sudo make lab" >&2; exit 8; }
	@.ci/tools lab

tools-e2e:
	@[ "$$(id -u)" = 0 ] || { echo "make e2e makes a network namespace and needs root. Run: sudo make e2e" >&2; exit 8; }
	@.ci/tools e2e$(if $(filter-out amd64,$(ARCH)),-$(ARCH))

tools-test:
	@.ci/tools test

$(VENV)/bin/python:
	@if [ -z "$(PYTHON)" ]; then echo "piflash needs Python 3.10 to 3.13. Run: apt-get install python3 python3-venv" >&2; exit 8; fi
	@.ci/tools venv
	@$(PYTHON) -m venv $(VENV)

$(VENV)/.run: pyproject.toml | $(VENV)/bin/python
	@echo "installing piflash into $(VENV) ..."
	@[ -e $(VENV)/.dev ] || $(BIN)/python -m pip install -q --disable-pip-version-check -e .
	@touch $@

$(VENV)/.dev: pyproject.toml | $(VENV)/bin/python
	@echo "installing piflash and its test tools into $(VENV) ..."
	@$(BIN)/python -m pip install -q --disable-pip-version-check -e '.[dev]'
	@touch $@ $(VENV)/.run

# mypy 1.4 is the last that knows --python-version 3.7; it runs on Python 3.8 to 3.12.
$(VENV)/.py37: | $(VENV)/bin/python
	@$(BIN)/python -m venv $(VENV)/py37
	@$(VENV)/py37/bin/python -m pip install -q --disable-pip-version-check 'mypy==1.4.1'
	@touch $@
