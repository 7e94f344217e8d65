PYTHON ?= python3
VENV   ?= .venv
ZOO    ?= zoo
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready
BENCH  := $(VENV)/.bench

.DEFAULT_GOAL := help
.PHONY: help setup demo test check golden rules bench measure zoo docs fixtures fuzz clean

help: ## show this help
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(READY) ## make a virtual environment in .venv with everything that is needed

$(READY): pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "graphopt needs Python 3.11 or newer; set PYTHON=")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -qq --upgrade pip
	$(BIN)/python -m pip install -qq --editable ".[dev]"
	@touch $(READY)

$(BENCH): $(READY)
	$(BIN)/python -m pip install -qq --editable ".[bench]"
	@touch $(BENCH)

demo: $(READY) ## quantize a trained network and show the table, accuracy before and after
	@mkdir -p build
	$(BIN)/graphopt run fixtures/models/residual_cnn.onnx -p fuse,quant -t ort-cpu \
	  --data fixtures/data/digits_calib.npz --eval fixtures/accuracy.py:accuracy \
	  -o build/residual_cnn.int8.onnx

test: $(READY) ## everything that is checked: style, types, all tests
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/pytest -n auto

check: $(READY) ## style, types and the fast tests, in two to three minutes
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/pytest -n auto -m "not slow"

golden: $(READY) ## write down what the rules make of the models in tests/golden; read the difference
	$(BIN)/graphopt rules test tests/golden --update

bench: $(BENCH) ## compare with other optimizers, as ratios from interleaved runs
	$(BIN)/python -m tests.bench

measure: $(READY) ## measure which rewrites pay on ONNX Runtime here, and write the table that decides
	$(BIN)/python -m tests.measure ort-cpu
	$(BIN)/python -m tests.measure.kinds ort-cpu

zoo: $(READY) ## run over a folder of models: make zoo ZOO=path
	$(BIN)/python -m tests.zoo $(ZOO)

rules: $(READY) ## try every built-in rule on random models, before and after
	$(BIN)/graphopt rules check cleanup simplify fuse

fuzz: $(READY) ## random models through every level, compared before and after: make fuzz GRAPHS=20000 SEED=1
	$(BIN)/python -m tests.fuzz --graphs $(or $(GRAPHS),1000) --target onnx,ort-cpu --stats $(if $(SEED),--seed $(SEED))

docs: $(READY) ## make the pages about the built-in rules anew, in docs/rules
	@mkdir -p docs/rules
	$(BIN)/python -m graphopt.report.pages graphopt_passes docs/rules

fixtures: $(READY) ## train and export the fixture networks anew (needs PyTorch)
	$(BIN)/python -m pip install -qq --editable ".[torch]"
	$(BIN)/python fixtures/train.py

clean: ## remove what was built
	rm -rf build $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis
