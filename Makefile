# `make demo` and `make test` make .venv first; both are safe to repeat.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
EXTRA ?=
# Containers often set this. With bytecode kept, a worker of the tests starts in 15 s instead of 25.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test test-fast proofs lint type smoke check torture reliability explain peer benchmark clean

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip

# A stamp for each extra, older than pyproject.toml where dependencies may have changed.
$(VENV)/.installed: pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --editable .
	touch $@

$(VENV)/.installed-dev: pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $@ $(VENV)/.installed

demo: $(VENV)/.installed  ## trains MobileNetV3-small + AdamW on the embedded Fashion-MNIST
	$(BIN)/effbench train recipe=mobilenet_adamw

test: $(VENV)/.installed-dev  ## the tests but for the proofs, warnings as errors; four workers keep two cores busy
	$(BIN)/python -m pytest -n 4 -m "not proof"

proofs: $(VENV)/.installed-dev  ## kills at random, kernels for other processors, sanitizers, whole exports, README commands: half an hour beside other work
	$(BIN)/python -m pytest -n 2 -m proof

test-fast: $(VENV)/.installed-dev  ## the tests that start no process and train nothing, under two minutes
	$(BIN)/python -m pytest -n 2 -m unit

lint: $(VENV)/.installed-dev  ## ruff, and which layer may import which
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

type: $(VENV)/.installed-dev
	$(BIN)/mypy

smoke: $(VENV)/.installed-dev  ## every recipe and every group YAML, two steps each; every arm of every study
	$(BIN)/python tests/smoke.py

torture: $(VENV)/.installed-dev  ## 300 kills of runs and all other proofs of exact resume, 30 of a study; docs/torture.json, docs/study_kills.json
	$(BIN)/python -m tests.torture --kills 300 --folder $(or $(wildcard /dev/shm),/tmp) --output docs/torture.json
	$(BIN)/python -m tests.study.kills --kills 30 --output docs/study_kills.json

reliability: $(VENV)/.installed-dev  ## docs/reliability.md, from the tests that try each row of faults
	$(BIN)/python -m tests.reliability -n 2

explain: $(VENV)/.installed-dev  ## docs/explain, from the topics of `effbench explain`
	$(BIN)/effbench explain all output=docs/explain

peer: $(VENV)/.installed-dev  ## the same faults against pytorch-lightning, some minutes; docs/peer.json
	$(BIN)/python -m pip install --quiet --editable '.[dev,benchmarks]'
	$(BIN)/python benchmarks/reliability_peer.py --kills 60 --json docs/peer.json

benchmark: $(VENV)/.installed-dev  ## docs/performance.md, all of it again, hours; ROWS='7 8' measures some
	$(BIN)/python -m pip install --quiet --editable '.[dev,benchmarks]'
	$(BIN)/python -m benchmarks $(ROWS)

check: lint type test proofs smoke  ## what CI runs

clean:
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache
