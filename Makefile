# Needs Python and GNU make. Every target sets up what it needs; `make` alone lists them.
# The first run downloads the packages; the tests and the demo run without a network.

PYTHON  ?= python3
WORKERS ?= 2
TORCH   ?= 2.13.0

VENV   := .venv
DEMO   := .venv-demo
LOWEST := .venv-lowest
DOCS   := .venv-docs
PYTEST := OMP_NUM_THREADS=1 $(VENV)/bin/python -m pytest

export HF_HUB_OFFLINE := 1
export TRANSFORMERS_OFFLINE := 1
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: help demo test slow gold conformance lowest docs wheel format clean
.DEFAULT_GOAL := help

help:  ## list the targets
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 16
	@echo "Variables: PYTHON=$(PYTHON)  WORKERS=$(WORKERS) (test processes)  TORCH=$(TORCH) (for lowest)"

demo: $(if $(wildcard $(VENV)/installed),$(VENV),$(DEMO))/installed  ## see ELMo at work
	$(<D)/bin/python examples/demo.py

test: $(VENV)/installed  ## lint, check types, run the quick tests
	$(VENV)/bin/ruff check
	$(VENV)/bin/ruff format --check
	@$(VENV)/bin/mypy & types=$$!; \
	$(PYTEST) -m "not slow" -n $(WORKERS) --dist worksteal; tests=$$?; \
	wait $$types && exit $$tests

slow: $(VENV)/installed  ## run the slow proofs
	$(PYTEST) -m slow -n $(WORKERS)

conformance: $(VENV)/transformers/unpacked  ## run transformers' own common tests on our classes
	PYTHONPATH=$(CURDIR)/$(VENV)/transformers $(PYTEST) tests/conformance/check_*.py \
	-n $(WORKERS) --dist worksteal -rfE

gold: $(VENV)/installed  ## fetch AllenNLP's own test files; `make test` then uses them
	$(VENV)/bin/python tests/gold/fetch_allennlp.py

lowest: $(LOWEST)/installed  ## run the quick tests on the lowest supported versions
	OMP_NUM_THREADS=1 $(LOWEST)/bin/python -m pytest -m "not slow" -n $(WORKERS)

docs: $(DOCS)/installed  ## build the guide into build/site; a warning fails it
	NO_MKDOCS_2_WARNING=1 $(DOCS)/bin/mkdocs build --strict

wheel: $(VENV)/installed  ## build the wheel and the source distribution in dist/
	$(VENV)/bin/python -m build --no-isolation

format: $(VENV)/installed  ## mend what ruff can mend
	$(VENV)/bin/ruff check --fix
	$(VENV)/bin/ruff format

clean:  ## remove the environments, caches and builds
	rm -rf $(VENV) $(DEMO) $(LOWEST) $(DOCS) build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# An environment is `unfinished` from its first file to its last, then `installed`; a new run begins
# an unfinished one again. torch goes first and alone, so that nothing else chooses its version.
define begin
	@echo "Setting up $(@D) takes some minutes: torch first, then the other packages."
	@test ! -e $(@D)/unfinished || rm -rf $(@D)
	@mkdir -p $(@D) && touch $(@D)/unfinished
	$(PYTHON) -m venv $(@D)
endef

define finish
	@mv $(@D)/unfinished $@
endef

$(VENV)/installed: EXTRA := test
$(DEMO)/installed: EXTRA := convert
$(VENV)/installed $(DEMO)/installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("constraints.txt needs \
	Python 3.11 or newer, this is %d.%d: name another with make PYTHON=..., or try make lowest" \
	% sys.version_info[:2])'
	$(begin)
	$(@D)/bin/python -m pip install --progress-bar off -c constraints.txt torch
	$(@D)/bin/python -m pip install --progress-bar off -c constraints.txt -e '.[$(EXTRA)]'
	$(finish)

$(VENV)/transformers/unpacked: $(VENV)/installed tests/conformance/unpack.py \
	$(wildcard tests/conformance/left_out/*/*)
	$(VENV)/bin/python -m pip install --quiet -c constraints.txt parameterized
	$(VENV)/bin/python tests/conformance/unpack.py $(@D)
	@touch $@

# The guide is read from the sources' text: neither torch nor elmo_hf is installed.
$(DOCS)/installed: pyproject.toml
	$(begin)
	@sed -n 's/^docs = \[\(.*\)\]/\1/p' pyproject.toml | tr -d '",' | tr ' ' '\n' > $(@D)/docs.txt
	$(@D)/bin/python -m pip install --quiet -r $(@D)/docs.txt
	$(finish)

# Every `name[extra]>=version; marker` in pyproject.toml becomes `name==version`.
$(LOWEST)/installed: pyproject.toml
	$(begin)
	@sed -nE 's/"([a-z0-9-]+)(\[[a-z,]+\])?>=([0-9.]+)[^"]*"/\n\1==\3\n/gp' pyproject.toml \
	| grep -E '^[a-z0-9-]+==[0-9.]+$$' | sort -u \
	| sed 's/^torch==.*/torch==$(TORCH)/' > $(@D)/lowest.txt
	@cat $(@D)/lowest.txt
	$(@D)/bin/python -m pip install --quiet -c $(@D)/lowest.txt torch
	$(@D)/bin/python -m pip install --quiet -c $(@D)/lowest.txt -e '.[test]'
	$(finish)
