# make setup   the environment in .venv        make demo   cache -> fit -> report on the real model
# make test    the whole suite                  make steer  is a direction causal? steered, with controls
# make rl      does behaviour follow a head?    make study  knowledge awareness, end to end, small
# make check   lint and types                   make bench  speed beside its peers
# make docs    the site, in out/site             make pictures  those of the docs, after demo, steer and rl
PYTHON ?= python3
BIN := .venv/bin

.PHONY: setup model demo steer rl study test check bench docs pictures clean

setup: .venv/ready

.venv/ready: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "probekit needs Python >= 3.11: make PYTHON=python3.11 $(MAKECMDGOALS)" >&2; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,hf]'
	@touch $@

model: setup
	$(BIN)/probekit models pull smollm2-135m

demo: model
	$(BIN)/probekit cache --data demo:researchers_pairs --positions last,turn_end,mean,first:16 \
	  --out out/demo/acts.h5 --force
	$(BIN)/probekit fit out/demo/acts.h5 --out out/demo/sweep --force

steer: model
	$(BIN)/probekit cache --data demo:sentiment --positions mean --out out/steer/acts.h5 --force
	$(BIN)/probekit fit out/steer/acts.h5 --kind mean-difference --out out/steer/sweep --force
	$(BIN)/probekit steer --probe out/steer/sweep --prompts demo:sentiment_prompts --coeff -0.2:0.2:0.1 \
	  --behaviours sentiment --rerank --out out/steer/steered --force

RL := $(BIN)/probekit rl --probe out/rl/sweep --prompts demo:sentiment --held-out demo:sentiment_prompts \
  --behaviours sentiment --behaviour positive --steps 30 --max-new-tokens 32 --temperature 0.8 \
  --learning-rate 3e-4 --kl-coeff 0.05 --estimator grpo --eval-prompts 48 --eval-samples 4 --force

rl: model
	$(BIN)/probekit sample --model smollm2-135m --prompts demo:sentiment --samples 12 --max-new-tokens 32 \
	  --temperature 0.8 --behaviours sentiment --behaviour positive --seed 1 --out out/rl/rows.jsonl --force
	$(BIN)/probekit cache --data out/rl/rows.jsonl --positions mean --layers 8:30:4 --out out/rl/acts.h5 --force
	$(BIN)/probekit fit out/rl/acts.h5 --kind logistic,mean-difference --out out/rl/sweep --force
	$(RL) --target chosen --out out/rl/chosen
	$(RL) --target max --out out/rl/max
	$(BIN)/probekit report out/rl/chosen --with out/rl/max --out out/rl/report.html --force

study: model
	$(BIN)/probekit study knowledge-awareness --quick --jobs 2 --out out/study

# Two workers of one thread do more than one of two: small models leave a second thread waiting.
test: model
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --maxprocesses 4 --dist worksteal

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: model
	$(BIN)/python benchmarks/bench_capture.py
	$(BIN)/python benchmarks/bench_ridge_sweep.py
	$(BIN)/python benchmarks/bench_steer.py
	$(BIN)/python benchmarks/bench_rl.py

docs: setup
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[docs]'
	$(BIN)/mkdocs build --quiet --strict

pictures: setup
	$(BIN)/python docs/pictures.py out

clean:
	rm -rf out .pytest_cache .mypy_cache .ruff_cache
