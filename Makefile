# make demo    generate, ask the built-in model, judge, publish: results in demo/
# make test    the tests
# make check   lint, types, documentation, file sizes
# make fix     what lint and format can mend by themselves
# The first of them builds .venv (see scripts/setup.sh); later ones start at once.

BIN := .venv/bin
# Two processes, each on half of the cores; one where there is a GPU, whose memory an engine takes whole, or with SPLIT=
SPLIT := $(shell nvidia-smi >/dev/null 2>&1 || echo --numprocesses 2 --dist loadfile --no-loadscope-reorder)

.PHONY: demo test check fix setup

setup:
	@bash scripts/setup.sh

demo: setup
	$(BIN)/stepgame demo

test: setup
	$(BIN)/python -m pytest $(SPLIT) --durations 30 --durations-min 10

check: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python scripts/check_tree.py
	$(BIN)/python scripts/make_docs.py --check
	$(BIN)/stepgame board check

fix: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
