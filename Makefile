# Everything a visitor or a change needs; `make help` lists it.  It works from a fresh clone at any
# path, as root, and every target makes ready what it needs.
SHELL := /bin/sh
.SHELLFLAGS := -eu -c
.DEFAULT_GOAL := help
.PHONY: help setup image demo test check model kills bench docs format lock clean install-units

PY := .venv/bin/python
SOURCES := $(wildcard src tests images tools demo bench peers model kills)
# Quick ones first: what fails, fails early.
SUITES := unit property contract vectors integration attacks e2e docs

help:  ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /  \1\t/p' $(MAKEFILE_LIST) | expand -t 17

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

model: setup  ## visit every state that pairs can reach, and see that I1 to I5 hold
	@$(PY) -m model

# How many moments, on how many hosts at once; SEED repeats what was drawn.
N ?= 200
HOSTS ?= 2

kills: setup  ## kill any process of a host at N random moments; all must hold and come back (as root)
	@$(PY) -m kills -n $(N) --hosts $(HOSTS) $(if $(SEED),--seed $(SEED))

bench: image  ## measure against swtpm, side by side; writes .cache/bench.json
	@$(PY) -m bench --image .cache/images/current

docs: setup  ## write docs/reference from the source
	$(PY) tools/reference.py

format: setup  ## lay out the source as `make check` wants it
	.venv/bin/ruff format $(SOURCES)
	.venv/bin/ruff check --fix $(SOURCES)

lock:  ## pin the newest Python packages that requirements/*.in allow, with their hashes
	sh tools/lock.sh

# Where Tandem is installed for services; not below /home or /root, which they do not see.
UNIT_PYTHON ?= /opt/tandem/bin/python
DESTDIR ?=

install-units:  ## install the systemd units, as root (UNIT_PYTHON=the Python that has Tandem)
	@case "$(UNIT_PYTHON)" in /home/*|/root/*) \
	  echo "install-units: services do not see $(UNIT_PYTHON); install Tandem in /opt/tandem" >&2; \
	  exit 3;; esac
	install -d "$(DESTDIR)/etc/systemd/system"
	@for unit in systemd/*.service systemd/*.socket; do \
	  sed 's|^ExecStart=/usr/bin/python3 |ExecStart=$(UNIT_PYTHON) |' "$$unit" \
	    >"$(DESTDIR)/etc/systemd/system/$${unit##*/}"; done
	install -D -m 644 systemd/tandem.sysusers "$(DESTDIR)/etc/sysusers.d/tandem.conf"
	install -D -m 644 systemd/tandem.tmpfiles "$(DESTDIR)/etc/tmpfiles.d/tandem.conf"
	install -D -m 644 systemd/tandem.rules "$(DESTDIR)/etc/udev/rules.d/70-tandem.rules"

clean:  ## remove what was made here: .venv, .cache and the tools' caches
	rm -rf .venv .cache .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -prune -exec rm -rf {} +
