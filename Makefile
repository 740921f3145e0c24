# Every target sets itself up: a virtual environment in .venv with the tested versions. Needs Python >= 3.11, pip and make.
#   PYTHON=python3.12 make test           another interpreter
#   make test TORCH='torch==2.11.0 --index-url https://download.pytorch.org/whl/cpu'   another build of torch
PYTHON ?= python3
TORCH ?= torch==2.13.0
WORKERS ?= 2
DEMO ?= demo

BIN := .venv/bin
ACCURACY := aspirin models published attention nbody tubes slmc slmc_depth data_scale
PIP := $(BIN)/python -m pip --disable-pip-version-check
# Two workers with one thread each are faster than one worker with two: most tests are many small operations.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest

.PHONY: demo test slow gpu lint bench bench-compiled bench-accuracy docs FORCE

demo: .venv/ready
	@$(BIN)/covarium demo --out $(DEMO)

test: lint
	$(PYTEST) -n $(WORKERS)

slow: .venv/ready
	$(PYTEST) -m slow

# on a machine with a GPU: its tests, steps beside the published implementations, training
gpu: .venv/ready
	$(BIN)/python benchmarks/gpu.py tests
	$(PIP) install -q torch_geometric opt_einsum
	$(PIP) install -q --upgrade --no-deps --target runs/gpu/peers fairchem-core==1.10.0 e3nn==0.4.4 opt_einsum_fx
	PYTHONPATH=runs/gpu/peers $(BIN)/python benchmarks/gpu.py speed
	$(BIN)/python benchmarks/gpu.py training

lint: .venv/ready
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

# speed, memory and exactness: within 45 minutes on two cores, environments of the peers included
bench: .venv/ready
	@set -e; for script in "speed.py --again" gatr.py exactness.py startup.py; do \
	  echo "== $$script"; $(BIN)/python benchmarks/$$script; done

# ours as compiled graphs: an hour, most of it compiling
bench-compiled: .venv/ready
	$(BIN)/python benchmarks/speed.py --compiled

# what has to be trained or sampled first: hours
bench-accuracy: .venv/ready
	@set -e; for script in $(ACCURACY); do echo "== $$script"; $(BIN)/python benchmarks/$$script.py; done

# what the pages say that commands print, as it is printed now
docs: .venv/ready
	$(BIN)/python docs/print_outputs.py

# torch comes first, from the place TORCH names; what follows finds it satisfied and leaves it alone.
# The environment is made without pip and filled by the pip outside, which Debian's bare python3 can do too.
.venv/torch: FORCE
	@printf '%s\n' "$(TORCH)" | cmp -s - $@ || { \
	  $(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python >= 3.11 is needed, PYTHON=$(PYTHON) is " + sys.version.split()[0])' && \
	  { test -x $(BIN)/python || $(PYTHON) -m venv --without-pip .venv; } && \
	  { $(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m pip --python $(BIN)/python install pip; } && \
	  $(PIP) install $(TORCH) && \
	  printf '%s\n' "$(TORCH)" > $@; }

.venv/ready: .venv/torch pyproject.toml constraints.txt
	$(PIP) install -c constraints.txt -e '.[test]'
	@touch $@
