# make train | test | slow | lint | docs | verify | reference | bench    (PYTHON=python3.12 to choose another interpreter)
PYTHON ?= python3
BIN := .venv/bin

.venv/installed: pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit("jaxcnn needs Python 3.11 or newer, this is " + sys.version.split()[0]) if sys.version_info < (3, 11) else None'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --config-settings editable_mode=compat --editable '.[cli,dev]'
	touch $@

# oneDNN's convolutions, against the jax that is installed; without them everything works, on CPU more slowly
.venv/native: .venv/installed native/pyproject.toml native/CMakeLists.txt $(wildcard native/jaxcnn_onednn/*)
	@if [ "$$(uname -sm)" != "Linux x86_64" ] || ! command -v c++ >/dev/null; then \
		echo "no C++ compiler, or not Linux on x86: oneDNN is not built, convolutions are XLA's"; \
	elif ! { $(BIN)/python -m pip install 'scikit-build-core>=0.10' $$(command -v cmake >/dev/null || echo cmake) \
			onednn-cpu-gomp==2023.2.0 onednn-devel-cpu-gomp==2023.2.0 && \
		$(BIN)/python -m pip install --no-build-isolation --force-reinstall --no-deps ./native; } >.venv/native.log 2>&1; then \
		echo "oneDNN could not be built (.venv/native.log says why), convolutions are XLA's"; \
	fi
	@touch $@

.PHONY: train test slow lint docs verify reference bench
train: .venv/native
	$(BIN)/jaxcnn train

test: .venv/native
	$(BIN)/python -m pytest -n 2

slow: .venv/native
	$(BIN)/python -m pytest -n 2 -m slow

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python

docs: .venv/installed
	$(BIN)/python -m pip install --quiet --config-settings editable_mode=compat --editable '.[docs]'
	$(BIN)/sphinx-build --fail-on-warning --keep-going --fresh-env --quiet docs build/site
	@! grep -rnE 'src="https?:|<link[^>]*href="https?:|@import[^;]*https?:|url\(.?https?:' build/site --include=*.html --include=*.css
	@echo "open build/site/index.html"

verify: .venv/native
	$(BIN)/jaxcnn verify

reference: .venv/native
	$(BIN)/python -m reference

bench: .venv/native
	$(BIN)/python -m benchmarks.speed
