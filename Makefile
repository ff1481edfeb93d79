# Everything a visitor or a change needs; `make help` lists it.  It works from a fresh clone at any
# path, as root, and every target makes ready what it needs.
SHELL := /bin/sh
.SHELLFLAGS := -eu -c
.DEFAULT_GOAL := help
.PHONY: help setup image demo test check bench docs format lock clean

PY := .venv/bin/python
SOURCES := $(wildcard src tests images tools demo bench peers)
# Quick ones first: what fails, fails early.
SUITES := unit property contract vectors integration attacks e2e docs

help:  ## list the targets
	@sed -n 's/^\([a-z]*\):.*## /  \1\t/p' $(MAKEFILE_LIST) | expand -t 12

setup:  ## install what is missing: Debian packages (as root), then .venv with pinned packages
	@sh tools/setup.sh

image: setup  ## make the guest image: Debian's kernel and an initramfs of our own
	@$(PY) images/build_initramfs.py

demo: image  ## show the whole chain: a guest attested down to the TPM, and five attacks refused
	@$(PY) -m demo --image .cache/images/current

test: image  ## run every test, quick ones first (SUITES="unit property" for a part)
	$(PY) -m pytest $(wildcard $(addprefix tests/,$(SUITES)))

check: setup  ## format, lint, types, import rules, and that the generated pages are current
	.venv/bin/ruff format --check $(SOURCES)
	.venv/bin/ruff check $(SOURCES)
	.venv/bin/mypy $(SOURCES)
	.venv/bin/lint-imports
	$(PY) tools/reference.py --check

bench: image  ## measure against swtpm, side by side; writes .cache/bench.json
	@$(PY) -m bench --image .cache/images/current

docs: setup  ## write docs/reference from the source
	$(PY) tools/reference.py

format: setup  ## lay out the source as `make check` wants it
	.venv/bin/ruff format $(SOURCES)
	.venv/bin/ruff check --fix $(SOURCES)

lock:  ## pin the newest Python packages that requirements/*.in allow, with their hashes
	sh tools/lock.sh

clean:  ## remove what was made here: .venv, .cache and the tools' caches
	rm -rf .venv .cache .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -prune -exec rm -rf {} +
