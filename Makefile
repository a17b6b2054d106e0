# Every target first makes .venv with the tested versions (constraints.txt), if it is missing or out of date.
PYTHON ?= python3
SLUG ?= poincare_resnet
SEED ?= 0
BIN := .venv/bin
READY := .venv/.ready
ROOMS := manifolds optim models theory examples

.PHONY: help demo test test-slow fuzz peers claims verify bench bench-quick accuracy pictures lint links format docs dist clean
.DEFAULT_GOAL := help

help:  ## show this list
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

$(READY): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --editable '.[dev]' -c constraints.txt
	touch $@

demo: $(READY)  ## reproduce one paper (SLUG=...), with its claim table and figures in runs/
	$(BIN)/holonomy run $(SLUG)

test: $(READY)  ## the test-suite, on all cores
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist worksteal -m "not slow and not peers"

test-slow: $(READY)  ## the tests that take long
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist worksteal -m slow

fuzz: $(READY)  ## a million operations on hard inputs, all manifolds and dtypes (SEED=...)
	OMP_NUM_THREADS=1 $(BIN)/python tests/manifolds/fuzz.py --seed $(SEED)

peers: $(READY)  ## the property tests and diagnostics that geomstats and pymanopt ship, on our manifolds
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m peers tests/peers

claims: $(READY)  ## every ready paper, one after the other
	for slug in $$($(BIN)/python -c 'from holonomy.catalogue import PAPERS; print(*(p.slug for p in PAPERS if p.ready))'); \
	do $(BIN)/holonomy run $$slug || exit $$?; done

verify: $(READY)  ## every theory check
	$(BIN)/holonomy verify

bench: $(READY)  ## time against peers, and write benchmarks/results
	$(BIN)/python -m benchmarks

bench-quick: $(READY)  ## show that the benchmarks run
	$(BIN)/python -m benchmarks --quick

accuracy: $(READY)  ## compare errors with the peers', against fifty digits, and write docs/accuracy.md
	$(BIN)/python -m benchmarks.accuracy

pictures: $(READY)  ## draw the manifolds of docs/manifolds.md
	$(BIN)/python -m benchmarks.pictures

lint: $(READY) links  ## style, types and the direction of imports
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	cd build/lint && ../../$(BIN)/mypy --config-file ../../pyproject.toml
	cd build/lint && ../../$(BIN)/lint-imports --config ../../pyproject.toml

# Tools that do not import look for holonomy.<room> in a folder: these links are that folder.
links:
	rm -rf build/lint && mkdir -p build/lint/holonomy
	ln -s $(CURDIR)/holonomy/*.py $(CURDIR)/holonomy/py.typed $(addprefix $(CURDIR)/,$(ROOMS)) build/lint/holonomy

format: $(READY)  ## write the style
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

docs: $(READY) links  ## the reference, in build/site
	$(BIN)/python -m pip install --quiet --editable '.[docs]' -c constraints.txt
	$(BIN)/mkdocs build --strict

dist: $(READY)  ## wheel and sdist in dist/
	$(BIN)/python -m build --no-isolation

clean:  ## remove what was built, and .venv
	rm -rf .venv build dist runs *.egg-info .mypy_cache .pytest_cache .ruff_cache .import_linter_cache
