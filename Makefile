# make train | test | slow | lint | docs | verify | reference | bench    (PYTHON=python3.12 to choose another interpreter)
PYTHON ?= python3
BIN := .venv/bin

.venv/installed: pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit("jaxcnn needs Python 3.11 or newer, this is " + sys.version.split()[0]) if sys.version_info < (3, 11) else None'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --editable '.[cli,dev]'
	touch $@

.PHONY: train test slow lint docs verify reference bench
train: .venv/installed
	$(BIN)/jaxcnn train

test: .venv/installed
	$(BIN)/python -m pytest -n 2

slow: .venv/installed
	$(BIN)/python -m pytest -n 2 -m slow

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python

docs: .venv/installed
	$(BIN)/python -m pip install --quiet --editable '.[docs]'
	$(BIN)/sphinx-build --fail-on-warning --keep-going --fresh-env --quiet docs build/site
	@! grep -rnE 'src="https?:|<link[^>]*href="https?:|@import[^;]*https?:|url\(.?https?:' build/site --include=*.html --include=*.css
	@echo "open build/site/index.html"

verify: .venv/installed
	$(BIN)/jaxcnn verify

reference: .venv/installed
	$(BIN)/python -m reference

bench: .venv/installed
	$(BIN)/python -m benchmarks.speed
