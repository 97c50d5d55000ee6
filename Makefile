# make study   compile and measure; leaves a run in results/runs with its report.html
# make test    the test suite
# Each makes .venv and installs what it needs.

PRESET ?= quick
ARGS ?=

# The first interpreter that is supported and runs; override with `make PYTHON=... study`.
SUPPORTED = import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11 python; do \
	if $$p -c '$(SUPPORTED)' 2>/dev/null; then command -v $$p; break; fi; done)
BIN = .venv/bin

.PHONY: study gpu check test torture oldest lint site notebooks goldens peers tpus matrix validate clean

study: .venv/study
	$(BIN)/normbench study --preset $(PRESET) $(ARGS)

# On a machine with a GPU and a JAX for it, within a budget: make gpu PRESET=standard ARGS='--budget 8m'. Uses that JAX.
gpu:
	$(PYTHON) -m normbench.cli.main gpu --preset $(PRESET) $(ARGS)

test: .venv/test
	JAX_PLATFORMS=cpu $(BIN)/python -m pytest -n 2 --dist loadfile $(ARGS)

# Slow proofs that `make test` leaves out.
torture: .venv/test
	JAX_PLATFORMS=cpu $(BIN)/python -m pytest -m torture $(ARGS)

lint: .venv/test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy normbench analysis benchmarks

# What CI runs: the style, the tests, the notebooks, and beside them the site and a small study from end to end.
check:
	$(MAKE) lint
	$(MAKE) test
	$(MAKE) notebooks ARGS=--check & notebooks=$$!; $(MAKE) site && $(MAKE) study PRESET=smoke && wait $$notebooks

# docs/ as a site, in build/site; a link that leads nowhere, or a page that is in no menu, fails.
site: .venv/docs
	$(BIN)/python -m mkdocs build --strict --quiet $(ARGS)

# Executes analysis/notebooks/*.py into the .ipynb beside them; ARGS=--check writes nothing.
notebooks: .venv/notebooks
	JAX_PLATFORMS=cpu $(BIN)/python tools/notebooks.py $(ARGS)

# PyTorch, against which the tests of normbench.kernels.aten judge, and the other peers; large.
peers: .venv/test
	$(BIN)/python -m pip install -q -q --disable-pip-version-check -e '.[peers]'

# The compiler for TPUs, without which the tests of its output skip; 680 MB unpacked.
tpus: .venv/test
	$(BIN)/python -m pip install -q -q --disable-pip-version-check -e '.[tpu-targets]'

# The tests of the compiler's output also run under every other JAX for which there is a `.venv-<version>`.
matrix:
	tools/matrix.sh $(ARGS) 0.11.2 0.12.0.1

# Tests under the oldest of what the package asks for: make oldest ARGS="tests/report tests/cli"
oldest:
	$(PYTHON) -m venv build/oldest
	build/oldest/bin/python -m pip install -q --disable-pip-version-check -e '.[test,gpu-targets]' \
		$$($(PYTHON) tools/oldest.py)
	JAX_PLATFORMS=cpu build/oldest/bin/python -m pytest -n 2 --dist loadfile $(ARGS)

# What each JAX here (.venv and every .venv-<version>) makes of the presets standard and smoke, into results/golden, and
# docs/history.md; compiles only what changed. The cases of the asv classes are renewed with them.
goldens: .venv/study
	for python in $(BIN)/python $(wildcard .venv-*/bin/python); do $$python -m normbench.goldens.renew $(ARGS) || exit; done
	$(BIN)/python -m analysis.pages.history

# Every golden of the installed JAX, compiled anew; `make test` checks the preset smoke and a sample of the rest.
goldens-check: .venv/study
	$(BIN)/python -m normbench.goldens.renew --check $(ARGS)

# docs/history.md and its plot, out of the committed goldens.
history: .venv/study
	$(BIN)/python -m analysis.pages.history $(ARGS)

# Published device times against predicted ones: compiles their programs, without a GPU, and writes docs/predictions.md.
validate: .venv/study
	JAX_PLATFORMS=cpu $(BIN)/python -m analysis.pages.predictions $(ARGS)

.venv/bin/python:
	@if [ -z "$(PYTHON)" ]; then echo "normbench needs Python 3.11 to 3.13; found none. Give one: make PYTHON=/path/to/python3" >&2; exit 2; fi
	$(PYTHON) -m venv .venv

.venv/study: pyproject.toml | .venv/bin/python
	$(BIN)/python -m pip install -q -q --disable-pip-version-check -e '.[gpu-targets]'
	@touch $@

.venv/test: pyproject.toml | .venv/bin/python
	$(BIN)/python -m pip install -q -q --disable-pip-version-check -e '.[gpu-targets,test]'
	@touch $@ .venv/study

.venv/docs: pyproject.toml | .venv/bin/python
	$(BIN)/python -m pip install -q -q --disable-pip-version-check -e '.[docs]'
	@touch $@

.venv/notebooks: pyproject.toml | .venv/bin/python
	$(BIN)/python -m pip install -q -q --disable-pip-version-check -e '.[gpu-targets,notebooks]'
	@touch $@

clean:
	rm -rf .venv .venv-* build dist *.egg-info
