# make demo                train all stages on rendered scenes; samples and a report in runs/demo/
# make demo-reinforced     train the demo's transformer by rewards of its samples; a report in runs/demo-reinforced/
# make demo-unclip         train DALL·E 2's CLIP, prior and decoder on the scenes; a report in runs/demo-unclip/
# make test                lint and all fast tests
# make lint                ruff and mypy
# make bench               compare speed with DALLE-pytorch, min-dalle, diffusers and transformers: benchmarks/README.md
# make test-slow           tests of minutes; make test-plan: compilation for TPUs: CONTRIBUTING.md
# make fuzz                200,000 mutated files of every kind that is read; FUZZ='--only N' repeats one
# make parity PARITY=DIR   published layouts against recorded outputs of their reference implementations
# Each target installs its dependencies into .venv/ once and reuses them.

PYTHON ?= python3
VENV   := .venv
RUN    := $(VENV)/bin/python
# Without --no-compile, pip compiles 14,000 files of which few are ever imported.
PIP    := $(RUN) -m pip install --quiet --disable-pip-version-check --no-compile --constraint constraints.txt

.PHONY: demo demo-reinforced demo-unclip test test-slow test-plan fuzz parity lint bench clean

# Huge pages, if the kernel grants them, save a few percent in addition to commands/memory.py.
demo: $(VENV)/.installed
	GLIBC_TUNABLES=glibc.malloc.hugetlb=1 $(RUN) -m dalle_jax demo --out runs/demo

# Needs runs/demo, which make demo writes.
demo-reinforced: $(VENV)/.installed
	GLIBC_TUNABLES=glibc.malloc.hugetlb=1 $(RUN) -m dalle_jax demo-reinforced --out runs/demo-reinforced

# Takes text tokenizer and image tokenizer from runs/demo, if make demo ran before.
demo-unclip: $(VENV)/.installed
	GLIBC_TUNABLES=glibc.malloc.hugetlb=1 $(RUN) -m dalle_jax demo-unclip --out runs/demo-unclip

# One worker per core, at most four. Each takes up to 3 GB.
test: lint
	$(RUN) -m pytest --numprocesses auto --maxprocesses 4 --dist worksteal

# Processes killed at random moments (KILLS=100 is the number of each kind), and slow compilations on every mesh: many minutes.
test-slow: $(VENV)/.installed-test
	$(RUN) -m pytest -m slow

# FUZZ: flags of tests/fuzz/run_fuzz.py, such as --seed 1 --count 1000. Ends with 1 if a file was not read or refused.
fuzz: $(VENV)/.installed-test
	JAX_PLATFORMS=cpu $(RUN) -m tests.fuzz.run_fuzz $(FUZZ)

# PARITY: a folder of small models in published layouts, with outputs of their reference implementations.
parity: $(VENV)/.installed-test
	@test -d "$(PARITY)" || { echo "make parity PARITY=FOLDER: expected a folder, got '$(PARITY)'"; exit 2; }
	DALLE_JAX_PARITY="$(abspath $(PARITY))" $(RUN) -m pytest tests/parity

# Compilation for TPUs that are not present. libtpu has its own environment.
test-plan: .venv-plan/.installed
	.venv-plan/bin/python -m pytest tests/plan tests/layers/test_attend_tpu.py

lint: $(VENV)/.installed-test
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy

bench: $(VENV)/.installed .venv-bench/.installed
	$(RUN) benchmarks/transformer_step.py
	$(RUN) benchmarks/generation.py
	$(RUN) benchmarks/tokenizer_step.py
	$(RUN) benchmarks/unet_step.py
	$(RUN) benchmarks/bart_generation.py
	$(RUN) benchmarks/clip_forward.py

$(VENV)/bin/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "dalle_jax needs Python 3.11 or newer, this is " + sys.version.split()[0] + "; try: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: setup.py constraints.txt | $(VENV)/bin/python
	$(PIP) --editable '.[serve]'
	touch $@

$(VENV)/.installed-test: setup.py constraints.txt | $(VENV)/bin/python
	$(PIP) --editable '.[test]'
	touch $@ $(VENV)/.installed

.venv-plan/.installed: setup.py constraints.txt
	$(PYTHON) -m venv .venv-plan
	.venv-plan/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[test,plan]'
	touch $@

.venv-bench/.installed: benchmarks/peer-requirements.txt
	$(PYTHON) -m venv .venv-bench
	.venv-bench/bin/python -m pip install --quiet --disable-pip-version-check -r benchmarks/peer-requirements.txt
	.venv-bench/bin/python -m pip install --quiet --disable-pip-version-check --no-deps dalle-pytorch==1.6.6 min-dalle==0.4.11
	touch $@

clean:
	rm -rf $(VENV) .venv-bench .venv-plan build *.egg-info
