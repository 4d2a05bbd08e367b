# make demo and make test work on a fresh clone: both set up .venv first.
PYTHON ?= python3
VENV := .venv
# The tests run side by side already.
export OMP_NUM_THREADS ?= 1
BIN := $(VENV)/bin
DONE := $(VENV)/.done

.PHONY: setup demo test test-all lint clean

setup: $(DONE)

# torch comes first and by itself, at the version that constraints.txt pins: a range could pick a CUDA build of gigabytes.
# The zoos are for the tests; torchvision and timm without their dependencies, which would replace torch.
$(DONE): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check "$$(grep '^torch==' constraints.txt)"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[demo,dev]"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt --no-deps torchvision timm pillow
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt transformers diffusers
	touch $(DONE)

demo: setup
	$(BIN)/autoperm demo --out demo-output --force

test: setup
	$(BIN)/python -m pytest -n 2 -q
	$(BIN)/python -m pytest -q --doctest-modules autoperm

test-all: setup
	$(BIN)/python -m pytest -n 2 -q -m ""
	$(BIN)/python -m pytest -q --doctest-modules autoperm

lint: setup
	$(BIN)/ruff check .
	$(BIN)/mypy

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis demo-output
