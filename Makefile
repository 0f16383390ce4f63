# Everything runs from a fresh clone: each target sets up the environment it needs.
#
#   make demo         set up and train a small model uniformly and with a strategy, from real text
#   make test         set up and run the tests with all extras (torch 2.7, Composer, MosaicML streaming)
#                     (PYTEST='-k store' for some of them; JOBS=1: one at a time)
#   make test-newest  the same tests with the newest torch and transformers, without the two MosaicML packages
#   make check        ruff and mypy --strict
#   make soak         what takes hours: MINUTES=120 of training with restarts and kills, the long proofs (SEED=…)
#   make bench        the benchmarks in their quick form, two cores and 20 minutes: JSON and tables in RESULTS=runs/bench
#                     (set WEIGHTED_STREAM_DATA to the folder of the real data sets, if you have it)
#   make bench-gpu    those of a GPU, in parts of 10 minutes; BENCH_PYTHON=python3: with an environment that is there
#   make bench-peers  ours beside DataFlex, InfoBatch and loops by hand, in an environment of its own
#                     (set WEIGHTED_STREAM_INFOBATCH to a clone of InfoBatch's repository, if you have it)
#   make results      docs/results.md and the figures in other pages, from the published results
#   make docs         the documentation as a site, build/site/index.html
#   make package      build wheel and sdist, and use the wheel in an environment without the source
#   make package-slow the same in an environment that has nothing else; every extra is resolved (minutes, gigabytes)

PYTHON ?= python3
PYTHON_NEWEST ?= $(shell python3.12 -c 'import sys; print(sys.executable)' 2>/dev/null || echo $(PYTHON))
DEMO ?=
MINUTES ?= 120
SEED ?=
SOAK ?=
JOBS ?= 2
PYTEST ?=
RESULTS ?= runs/bench
BENCH ?=
BENCH_PYTHON ?= .venv/bin/python

EVERYTHING := .venv/.ready
NEWEST := .venv-newest/.ready
PEERS := .venv-peers/.ready

.PHONY: demo test test-newest check soak bench bench-gpu bench-peers results docs package package-slow clean

demo: $(EVERYTHING)
	.venv/bin/weighted-stream demo $(DEMO)

test: $(EVERYTHING)
	.venv/bin/python -m pytest -n $(JOBS) --dist worksteal $(PYTEST)

test-newest: $(NEWEST)
	.venv-newest/bin/python -m pytest -n $(JOBS) --dist worksteal $(PYTEST)

check: $(EVERYTHING)
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy

soak: $(EVERYTHING)
	.venv/bin/python -m tools.soak --minutes $(MINUTES) $(if $(SEED),--seed $(SEED)) $(SOAK)

bench: $(if $(filter .venv/%,$(BENCH_PYTHON)),$(EVERYTHING))
	$(BENCH_PYTHON) -m benchmarks --results $(RESULTS) $(BENCH)

bench-gpu: $(if $(filter .venv/%,$(BENCH_PYTHON)),$(EVERYTHING))
	$(BENCH_PYTHON) -m benchmarks --gpu --results $(RESULTS) $(BENCH)

bench-peers: $(PEERS)
	.venv-peers/bin/python -m benchmarks peers --full --results $(RESULTS) $(BENCH)

results: $(EVERYTHING)
	.venv/bin/python -m benchmarks.results_page

docs: $(EVERYTHING)
	NO_MKDOCS_2_WARNING=1 .venv/bin/mkdocs build --strict

package: $(EVERYTHING)
	.venv/bin/python -m tools.check_package

package-slow: $(EVERYTHING)
	.venv/bin/python -m tools.check_package --slow

clean:
	rm -rf build dist .venv .venv-newest .venv-peers .pytest_cache .mypy_cache .ruff_cache .hypothesis runs

$(EVERYTHING): pyproject.toml constraints/everything.txt
	$(PYTHON) -m venv .venv
	.venv/bin/python -m pip install --quiet --disable-pip-version-check -c constraints/everything.txt -e '.[all,demo,dev]'
	touch $@

$(NEWEST): pyproject.toml constraints/newest.txt
	$(PYTHON_NEWEST) -m venv .venv-newest
	.venv-newest/bin/python -m pip install --quiet --disable-pip-version-check -c constraints/newest.txt \
		-e '.[webdataset,embed,hf,lightning,report,cli,ray,test]'
	touch $@

$(PEERS): pyproject.toml constraints/peers.txt
	$(PYTHON) -m venv .venv-peers
	.venv-peers/bin/python -m pip install --quiet --disable-pip-version-check -c constraints/peers.txt \
		-e . torch transformers accelerate
	.venv-peers/bin/python -m pip install --quiet --disable-pip-version-check --no-deps -c constraints/peers.txt dataflex
	touch $@
