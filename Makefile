# Every target sets itself up: the first call builds $(VENV), later calls reuse it, and a
# change of pyproject.toml or constraints.txt updates it. Needs only make and Python 3.11+.
#
#   TORCH_INDEX=<a PyTorch wheel index> make demo
#       takes torch and torchvision from that one index (the CPU builds, for example);
#       wheels of the two from different indexes do not work together.
VENV        ?= .venv
PYTHON      ?= python3
TORCH_INDEX ?=
DEMO_ARGS   ?= digits --out runs/demo
TEST_ARGS   ?=

BIN   := $(VENV)/bin
READY := $(VENV)/.ready
# `uv --version` rather than a look at PATH: a version manager's shim may not run.
UV    := $(shell uv --version >/dev/null 2>&1 && command -v uv)

ifdef UV
CREATE  = $(UV) venv --quiet --allow-existing --python $(PYTHON) $(VENV)
INSTALL = $(UV) pip install --quiet --python $(BIN)/python
else
CREATE  = $(PYTHON) -m venv $(VENV)
INSTALL = $(BIN)/python -m pip install --quiet --disable-pip-version-check
endif

.DEFAULT_GOAL := help
.PHONY: help demo test zoo check format clean

help: ## list the targets
	@grep -E '^[a-z]+:.*## ' $(firstword $(MAKEFILE_LIST)) \
	  | awk -F ':.*## ' '{ printf "make %-8s %s\n", $$1, $$2 }'

demo: $(READY) ## condense the digits data set on this machine: see runs/demo/report.html
	$(BIN)/condense run $(DEMO_ARGS)

test: $(READY) ## run the tests (TEST_ARGS="-m slow" for the slow ones)
	$(BIN)/python -m pytest $(TEST_ARGS)

zoo: $(READY) ## take a finished run into zoo/ (RUN=runs/digits-ipc1 NAME=digits-ipc1)
	@test -n "$(RUN)" -a -n "$(NAME)" || { \
	  echo "say which: make zoo RUN=runs/digits-ipc1 NAME=digits-ipc1" >&2; exit 2; }
	$(BIN)/python zoo/add.py "$(RUN)" "$(NAME)"

check: $(READY) ## lint, formatting and types, without changing a file
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(READY) ## format the code and apply the safe fixes
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean: ## remove the environment, caches and build outputs (runs/ stays)
	rm -rf $(VENV) build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# torch goes in first and without its dependencies when TORCH_INDEX is given: such an
# index need not hold the tested numpy or pillow, which the second step adds.
$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "$(PYTHON) is missing or older than 3.11: make PYTHON=/path/to/newer/python" >&2; \
	  exit 1; }
	@echo "Setting up $(VENV): about 6 GB on disk on Linux, nearly all of it PyTorch's CUDA" \
	  "builds; TORCH_INDEX=<index of CPU builds> makes it about 1.5 GB."
	@$(CREATE)
ifneq ($(strip $(TORCH_INDEX)),)
	@$(INSTALL) --no-deps -c constraints.txt --index-url $(TORCH_INDEX) torch torchvision
endif
	@$(INSTALL) -c constraints.txt -e '.[all,test,dev]'
	@touch $@
