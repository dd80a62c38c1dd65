# make demo | make test | make audit | make venv      The environment lies in .venv and is made on the first call.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
PINNED := -c requirements/tested.txt
CODE   := recbole_soft tests benchmarks .ci run_recbole_soft.py setup.py
# The two commands need nothing of it, and it takes a minute to say that a newer pip exists.
export PIP_DISABLE_PIP_VERSION_CHECK = 1

.PHONY: demo test venv lint audit clean

venv: $(VENV)/.ready
demo: $(VENV)/.ready
	$(BIN)/python run_recbole_soft.py --model=BIGRec_SOFT --dataset=ml-100k
# Two processes of one thread each: the models of the tests are too small for a second thread to help.
test: $(VENV)/.ready-test
	$(BIN)/ruff check $(CODE)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal
lint: $(VENV)/.ready-test
	$(BIN)/ruff check $(CODE)
# Known vulnerabilities of the pinned packages; ruff's security rules are part of lint. See SECURITY.md.
audit: $(VENV)/.ready-audit
	$(BIN)/python .ci/audit.py
clean:
	rm -rf $(VENV) build *.egg-info saved log log_tensorboard

# torch first and alone: any other order lets pip choose a build with CUDA.
$(VENV)/.ready: setup.py requirements/tested.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet torch==2.13.0
	$(BIN)/python -m pip install --quiet $(PINNED) -e .
	touch $@
$(VENV)/.ready-test: $(VENV)/.ready
	$(BIN)/python -m pip install --quiet $(PINNED) -e ".[test,quant,tune,prep]"
	touch $@
$(VENV)/.ready-audit: $(VENV)/.ready
	$(BIN)/python -m pip install --quiet $(PINNED) pip-audit
	touch $@
