# SPDX-License-Identifier: GPL-2.0-or-later
#
# `make help` says what there is. Every target sets up what it needs: Debian packages (as root, what
# is missing), a virtual environment in .venv, and the programs to be patched. What has been set up is
# remembered in .cache and .venv, so that the second time costs nothing.

PYTHON ?= python3
RUN    := .venv/bin/python

# What Debian's redis and memcached are built with.
CVE_PACKAGES := libhiredis-dev libjemalloc-dev liblua5.1-dev liblzf-dev libssl-dev \
                libsystemd-dev pkg-config libevent-dev libsasl2-dev
# What the demo needs, and what the tests need besides.
DEMO_PACKAGES := gcc libc6-dev
TEST_PACKAGES := $(DEMO_PACKAGES) g++ clang musl-tools binutils elfutils gdb procps zsh fish \
                 redis-server redis-tools nginx memcached patch dpkg-dev $(CVE_PACKAGES)

help: ## say this
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  make \1\t\2/p' Makefile | expand -t 16

demo: .cache/demo-packages .venv/ready targets ## patch a web server under load, to and fro (15 s)
	@$(RUN) -m targets.demo

test: .cache/test-packages lint targets ## check the sources and run all tests but the long ones
	@# Real processes on a busy machine: what failed is run once more, alone, before it counts.
	$(RUN) -m pytest -m "not sweep" || $(RUN) -m pytest -m "not sweep" --last-failed

lint: .venv/ready ## only check the sources: ruff, mypy, import-linter
	.venv/bin/ruff check
	.venv/bin/ruff format --check
	.venv/bin/mypy
	.venv/bin/lint-imports

sweep: .cache/test-packages .venv/ready targets ## kill the patcher at every system call it makes (an hour)
	$(RUN) -m tests.sweeps.kill
	$(RUN) -m pytest -m sweep

soak: .cache/test-packages .venv/ready targets ## 1,000 updates and reverts where the tests make 30 or 50
	HOTPATCH_PAIRS=1000 $(RUN) -m pytest -m "not sweep" tests/servers tests/update

cves: .cache/test-packages .venv/ready ## live patches of Debian's security patches, a table (half an hour)
	$(RUN) -m tests.cves

bench: .cache/test-packages .venv/ready targets ## measure pauses and look-ups
	@for name in $(basename $(notdir $(wildcard bench/*.py))); do \
	    echo "== bench.$$name"; $(RUN) -m bench.$$name || exit; \
	done

targets: .venv/ready
	@$(MAKE) -s -C targets HOTPATCH_CFLAGS="$$(.venv/bin/hotpatch cflags)"

clean: ## remove everything that was made here
	$(MAKE) -s -C targets clean
	rm -rf .venv .cache

# ---- Setting up ----

.venv/ready: pyproject.toml
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || .ci/packages python3-venv
	$(PYTHON) -m venv .venv
	.venv/bin/pip install --quiet --editable '.[dev]'
	@touch $@

.cache/demo-packages .cache/test-packages: Makefile
	@mkdir -p .cache
	@.ci/packages $($(if $(findstring test,$@),TEST,DEMO)_PACKAGES)
	@touch $@

.PHONY: help demo test lint sweep soak cves bench targets clean
