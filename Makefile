# make test   every check: format, lint, types, import layers, tests
# make demo   the whole story on data and weights that need no download
# make clean  remove what make and the tests made (cached features and runs stay)
#
# Both set up .venv first (once, some minutes) and again only when pyproject.toml changes.
# Another interpreter: make test PYTHON=python3.12

PYTHON ?= python3
PYTEST_FLAGS ?= -n auto --maxprocesses=4 --dist=worksteal
BIN := .venv/bin
export PIP_DISABLE_PIP_VERSION_CHECK := 1

# A stamp stands for one finished set-up: this pyproject.toml, installed from this folder.
KEY := $(shell (pwd; cat pyproject.toml) | cksum | cut -d' ' -f1)
TEST_STAMP := .venv/.ready-test-$(KEY)
DEMO_STAMP := $(or $(wildcard $(TEST_STAMP)),.venv/.ready-demo-$(KEY))

.PHONY: test demo clean
.DELETE_ON_ERROR:

test: $(TEST_STAMP)
	$(BIN)/python -m ruff format --check .
	$(BIN)/python -m ruff check .
	$(BIN)/python -m mypy
	$(BIN)/lint-imports --no-logo
	$(BIN)/python -m pytest $(PYTEST_FLAGS)

demo: $(DEMO_STAMP)
	$(BIN)/tlcache demo

.venv/.ready-test-%:
	$(call set_up,.[test])

.venv/.ready-demo-%:
	$(call set_up,.[offline])

# The stamp comes last, so an interrupted set-up leaves none and the next run finishes it.
define set_up
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo 'error: $(PYTHON): expected Python 3.11 or newer, found' \
	    "$$($(PYTHON) --version 2>&1 | tail -n 1); name one with make PYTHON=python3.11" >&2; exit 1; }
	@echo 'Setting up .venv with $(1): some minutes, once'
	@rm -f .venv/.ready-*
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -e '$(1)'
	@touch '$@'
endef

clean:
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache .import_linter_cache build dist
	find tlcache tests scripts -name __pycache__ -type d -prune -exec rm -rf {} +
