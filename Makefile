# Every target makes the environment it needs, once; a stamp in .venv says what is installed.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.PHONY: test test-slow test-planted test-diffusers lint demo bench clean

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest --durations=10
WORKERS ?= 2
ARGS ?=

FULL := $(VENV)/.installed
LIGHT := $(VENV)/.demo
# The full environment serves the demo too, so a light one is made only where there is none.
DEMO := $(if $(wildcard $(FULL)),$(FULL),$(LIGHT))

# $(call timed,NAME,COMMAND): run the command and print its seconds, also when it fails.
timed = trap 'echo "make $(1): $$SECONDS s"' EXIT; $(2)

test: $(FULL)
	@$(call timed,$@,$(PYTEST) -n $(WORKERS) $(ARGS))

test-slow: $(FULL)
	@$(call timed,$@,$(PYTEST) -n $(WORKERS) -m slow $(ARGS))

test-planted: $(FULL)
	@$(call timed,$@,$(PYTEST) -m planted tests/planted $(ARGS))

# diffusers and the transformers of its time; the newest pair is what `make test` runs
DIFFUSERS := 0.31.0/4.49.0 0.35.2/4.57.1

test-diffusers: $(FULL)
	@$(call timed,$@,for pair in $(DIFFUSERS); do \
	    venv=.venv-diffusers-$${pair%/*}; \
	    test -x $$venv/bin/pip || $(PYTHON) -m venv $$venv; \
	    pip="$$venv/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt"; \
	    $$pip torch; $$pip . pytest hypothesis ftfy accelerate \
	        diffusers==$${pair%/*} transformers==$${pair#*/}; \
	    echo "diffusers $$pair"; \
	    OMP_NUM_THREADS=1 $$venv/bin/python -m pytest -p no:cacheprovider tests/integrations $(ARGS); \
	done)

lint: $(FULL)
	@$(call timed,$@,\
	    $(BIN)/ruff check . && \
	    $(BIN)/ruff format --check . && \
	    $(BIN)/pyright && \
	    $(BIN)/lint-imports)

demo: $(DEMO)
	@$(call timed,$@,$(BIN)/redrift demo --out out/demo $(ARGS))

bench: $(FULL)
	@$(call timed,$@,$(BIN)/python -m benchmarks $(ARGS))

clean:
	rm -rf build dist out .pytest_cache .ruff_cache .hypothesis .import_linter_cache

# torch comes first and alone, so that nothing can pull another build of it.
$(FULL): pyproject.toml constraints.txt
	@$(call install,.[all$(COMMA)dev])

$(LIGHT): pyproject.toml constraints.txt
	@$(call install,.[plots])

COMMA := ,
define install
SECONDS=0; \
echo "installing $(1) into $(VENV): a few minutes on a fresh machine"; \
test -x $(BIN)/pip || $(PYTHON) -m venv $(VENV); \
$(PIP) torch; \
$(PIP) -e "$(1)"; \
touch $@; \
echo "installed $(1) into $(VENV): $$SECONDS s"
endef
