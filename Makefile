# `make help` lists what there is. Everything runs in a virtual environment of its own.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
PACKAGES = shared router worker deploy

.DEFAULT_GOAL := help
.PHONY: help install demo test test-unit check format soak-queue chaos bench bench-other-queues bench-gpu contact-sheet demo-repositories clean

help: ## List the targets.
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  \1\t\2/p' $(MAKEFILE_LIST) | expand -t 22

$(VENV)/demo.stamp: pyproject.toml constraints.txt
	@$(BIN)/python -c 'import pip' 2>/dev/null || $(PYTHON) -m venv $(VENV)
	@echo "Installing into $(VENV): a minute or more; with a CUDA build of torch, several GB …"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[demo]"
	@touch $@

$(VENV)/dev.stamp: $(VENV)/demo.stamp
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[demo,dev]"
	@touch $@

install: $(VENV)/dev.stamp ## Create the virtual environment with everything.

demo: $(VENV)/demo.stamp ## Install what is missing, start everything, print a URL. Ctrl-C stops it.
	$(BIN)/warmbase up --demo

# Most tests wait, for servers and for processes: with two cores, three at a time take half as long as one.
PROCESSES ?= 3
test: $(VENV)/dev.stamp ## Run all tests, PROCESSES=3 files at a time.
	$(BIN)/python -m pytest -n $(PROCESSES) --dist loadfile

test-unit: $(VENV)/dev.stamp ## Run the tests that need no socket.
	$(BIN)/python -m pytest tests/unit

check: $(VENV)/dev.stamp ## Check format, lint, types and import contracts.
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/mypy --explicit-package-bases tests/bench tests/chaos tests/gpu
	$(BIN)/lint-imports

format: $(VENV)/dev.stamp ## Format and fix what can be fixed.
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

soak-queue: $(VENV)/dev.stamp ## Compare a million operations of the queue with its model (half an hour).
	$(BIN)/python -m pytest tests/integration/shared/queue/test_model.py --model-examples 10000

JOBS ?= 2000
SEED ?= 1
chaos: $(VENV)/dev.stamp ## Kill, freeze and cut off everything while JOBS=2000 are drawn by SEED=1, then judge the history.
	$(BIN)/python -m tests.chaos --jobs $(JOBS) --seed $(SEED) $(CHAOS)

bench: $(VENV)/dev.stamp ## Measure, and print ratios against the reference arms.
	@for bench in picture_equality swap "swap --quarter" switch_interval router startup affinity fairness eviction prefetch \
		queue_depth queue_cost recovery; do \
		echo "== $$bench"; set -- $$bench; name=$$1; shift; \
		OMP_WAIT_POLICY=passive $(BIN)/python tests/bench/$$name.py "$$@" || exit 1; \
	done

bench-other-queues: $(VENV)/dev.stamp ## Measure other queues for Redis beside ours (installs them into build/).
	$(BIN)/python tests/bench/other_queues.py

NO_CUDA = PyTorch finds no CUDA device: it needs a GPU, its driver, and a CUDA build of torch in $(VENV)
bench-gpu: $(VENV)/dev.stamp ## Test and measure on a CUDA device, with SDXL in full width and random weights (8 minutes).
	@$(BIN)/python -c "import sys, torch; sys.exit(None if torch.cuda.is_available() else '$(NO_CUDA)')"
	$(BIN)/python -m pytest tests/gpu
	OMP_WAIT_POLICY=passive $(BIN)/python tests/bench/swap.py --device cuda --full

contact-sheet: $(VENV)/demo.stamp ## Draw docs/contact-sheet.png from a running demo.
	$(BIN)/python -m deploy.demo.contact_sheet --out docs/contact-sheet.png

demo-repositories: $(VENV)/demo.stamp ## Train the demo's bases and adapters anew (hours; continues where it stopped).
	$(BIN)/python -m deploy.demo.recipe --work build/recipe

clean: ## Remove the virtual environment and what tools left behind.
	rm -rf $(VENV) build .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
