# make demo: what each policy costs and keeps on the bundled real KV cache. make reproduce: the paper's experiment, set
# against its claims. make test, make lint, make bench. make scale: time and memory against size.
# make test-cluster: the Snakemake and Slurm scripts of tools/cluster. make test-kill: a sweep killed many times.
# make test-crash, make test-power: all commands killed, or without power, at random moments. make fuzz: every parser and the whole path.
# make test-long: the fast engine against the plain one on many random traces.
# make archive: the archive of a release, with a bill of materials.
# make ci: what the hosted checks run. make msrv, make library, make deny, make miri: parts of it.
# make test-page: a page of pimsim report in headless Chromium.
# make wheel: the Python package, in target/wheels. make test-wheel: the wheel in an environment of its own.
# make test-hf: the wheel with models of Hugging Face.
# make test-guides: does what docs/add-a-*.md say, in a copy of the tree.
# make test-golden: the tests that need golden results, in $PIMATTN_SHARED or ../shared; make test runs them where they are.
# make snapshots: accepts what reports and help texts say now.
# make docs: writes the figures of the documentation that a run gives, and the pages that the code gives.
# make guard: instructions of five fixed cases against benches/instructions.toml; needs valgrind, without it checks nothing.

CARGO ?= cargo
OUT ?= out
REPORT ?= report
PLAN ?= configs/report/starc.toml
# Dumps for what is said of real KV caches; FULL=1 has windows four times as dense, and nine policies;
# MODEL=LLaMA-7B leaves out the others.
KV ?=
FULL ?=
MODEL ?=
POLICIES ?= full streaming quest starc
BIN = $(shell $(CARGO) metadata --format-version 1 --no-deps | sed 's/.*"target_directory":"\([^"]*\)".*/\1/')/release

.PHONY: build demo reproduce test test-cluster test-kill test-crash test-power fuzz test-long test-guides test-golden test-page wheel test-wheel test-hf docs snapshots lint ci msrv \
  msrv-version library deny miri bench guard \
  record-instructions scale archive

build:
	$(CARGO) build --release --locked

demo: build
	@mkdir -p $(OUT)
	@for p in $(POLICIES); do \
	  $(BIN)/tracegen run --config configs/workload/demo.toml $(if $(KV),--kv $(firstword $(KV))) --policy $$p \
	    -o $(OUT)/$$p.ptrace --metrics $(OUT)/$$p.metrics.csv || exit $$?; \
	done
	@$(BIN)/pimsim run $(POLICIES:%=$(OUT)/%.ptrace) --config configs/system/hbm3-pim.toml -o $(OUT) --replace
	@echo "Decode on $(if $(KV),$(firstword $(KV)),a real KV cache (SmolLM2-135M, layers 9 and 16, 2,048 tokens of prefill, 128 steps)), one HBM3-PIM stack;"
	@echo "time and energy of the attention layers per step; accuracy is the mean over steps, layers and query heads:"
	@$(BIN)/pimsim summary $(OUT)/run.csv --metrics $(POLICIES:%=$(OUT)/%.metrics.csv)
	@echo "Tables: $(OUT)/run.csv, steps.csv, phases.csv, layers.csv, heads.csv, channels.csv, origins.csv; accuracy: $(OUT)/*.metrics.csv."

reproduce: build
	@$(BIN)/pimsim reproduce $(PLAN) -o $(REPORT) --work $(OUT)/reproduce $(KV:%=--kv %) $(MODEL:%=--model %) \
	  $(if $(FULL),--set grids.masks=configs/sweep/paper-full.toml --set window_every=2000)

# Golden results that do not ship with the sources; the tests that need them are ignored where they are not.
export PIMATTN_SHARED ?= $(abspath ../shared)
test:
	$(CARGO) test --locked $(if $(wildcard $(PIMATTN_SHARED)/golden),-- --include-ignored)

test-golden:
	$(CARGO) test --locked --test all -- --ignored

# Needs Python 3.11 or newer with venv, and the network: Snakemake comes from PyPI.
test-cluster: build
	tools/cluster/test.sh $(BIN)/pimsim $(BIN)/../cluster

# Needs Node 20 or newer with npm, the network (puppeteer-core and axe-core come from npm), and Chromium or Chrome. Screenshots
# are left in the folder.
test-page: build
	tools/page/test.sh $(BIN)/pimsim $(BIN)/tracegen $(BIN)/../page

# Needs Python 3.10 or newer with venv, and the network: maturin comes from PyPI.
WHEELS = $(BIN)/../wheels
PYENV = $(BIN)/../python
wheel:
	python3 -m venv $(PYENV)/build
	$(PYENV)/build/bin/pip install --quiet 'maturin>=1.9,<2'
	rm -f $(WHEELS)/pimattn-*.whl
	$(PYENV)/build/bin/maturin build --release --locked --out $(WHEELS)

# The wheel with numpy alone, then with what its tables can be turned into, on a Dask cluster of this machine, and in notebooks.
test-wheel: wheel
	python3 -m venv --clear $(PYENV)/test
	$(PYENV)/test/bin/pip install --quiet $(WHEELS)/pimattn-*.whl pytest
	cd $(PYENV) && test/bin/python -m pytest -q $(CURDIR)/python/tests/test_wheel.py
	$(PYENV)/test/bin/pip install --quiet pandas polars pyarrow tqdm distributed nbclient ipykernel
	cd $(PYENV) && test/bin/python -m pytest -q $(CURDIR)/python/tests/test_wheel.py $(CURDIR)/python/tests/test_cluster.py \
	  $(CURDIR)/python/tests/test_notebooks.py

# The wheel with models of Hugging Face, in the newest and the oldest version of transformers that are supported; see the script.
HF_NEWEST ?= 5.24.0
HF_OLDEST ?= 4.57.6
test-hf: wheel
	tools/test_hf.sh $(WHEELS) $(PYENV) $(HF_NEWEST) $(HF_OLDEST)

# A sweep killed at so many moments, not ten.
KILLS ?= 200
test-kill:
	PIMATTN_KILLS=$(KILLS) $(CARGO) test --locked --test all sweep::a_sweep_killed_at_any_moment

# Each target of fuzz/, or TARGETS, for T seconds under libFuzzer, with the stable toolchain; needs a C++ compiler. What makes a target
# panic is left in fuzz/found, and belongs in fuzz/corpus once it is mended, where make test runs it.
T ?= 60
TARGETS ?= $(sort $(notdir $(wildcard fuzz/corpus/*)))
HOST = $(shell rustc -vV | sed -n 's/^host: //p')
COVERAGE = -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
  -Cllvm-args=-sanitizer-coverage-pc-table -Cllvm-args=-sanitizer-coverage-trace-compares -Coverflow-checks -Cdebug-assertions --cfg fuzzing
FUZZ = $(BIN)/../fuzz
fuzz:
	RUSTFLAGS="$(COVERAGE)" $(CARGO) build --release --locked -p pimattn-fuzz --features libfuzzer --target $(HOST) --target-dir $(FUZZ)
	@mkdir -p fuzz/found
	@for target in $(TARGETS); do \
	  mkdir -p $(FUZZ)/corpus/$$target; \
	  PIMATTN_FUZZ=$$target $(FUZZ)/$(HOST)/release/pimattn-fuzz $(FUZZ)/corpus/$$target fuzz/corpus/$$target -max_total_time=$(T) \
	    -rss_limit_mb=2048 -timeout=20 -max_len=65536 -artifact_prefix=fuzz/found/$$target- -print_final_stats=1 -verbosity=0 || exit $$?; \
	done

# The programs killed at so many moments, and the power of their disk cut (root, mkfs.ext4). Needs Python 3.9 or newer.
CRASHES ?= 100
test-crash: build
	tools/crash.py kill --bin $(BIN) --times $(CRASHES)
test-power: build
	tools/crash.py power --bin $(BIN) --times $(CRASHES)

# As many random traces through both engines, not a thousand; a million takes hours.
CASES ?= 1000000
test-long:
	PIMATTN_FAST_CASES=$(CASES) $(CARGO) test --release --locked --test all fast_path::

# Needs Python 3.9 or newer and git.
test-guides:
	tools/try-guides.py

# Accepts what reports and help texts say now; git shows what changed.
snapshots:
	INSTA_UPDATE=always $(CARGO) test --locked --test all -- snapshots:: sweep::the_papers_experiment

docs:
	UPDATE_DOCS=1 $(CARGO) test --locked --test all -- figures:: readme::the_documented guides::keys::

lint:
	$(CARGO) fmt --check
	$(CARGO) clippy --workspace --all-targets --locked -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --no-deps --locked --document-private-items

# What .github/workflows/ci.yml runs, without what this machine lacks the tools for, and says so.
ci: lint test demo library
	@if $(CARGO) deny --version >/dev/null 2>&1; then $(MAKE) deny; else echo "not run: make deny (no cargo-deny)"; fi
	@if rustup run $(MSRV) cargo --version >/dev/null 2>&1; then $(MAKE) msrv; \
	  else echo "not run: make msrv (no toolchain $(MSRV))"; fi
	@if $(CARGO) +nightly miri --version >/dev/null 2>&1; then $(MAKE) miri; else echo "not run: make miri (no miri)"; fi

# The oldest toolchain that must build everything, tests included.
MSRV = $(shell sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml)
msrv-version:
	@echo $(MSRV)

msrv:
	$(CARGO) +$(MSRV) check --locked --workspace --all-targets

# Without the feature cli, no crate of the command line is compiled.
library:
	$(CARGO) check --locked --no-default-features --lib
	@! $(CARGO) tree --locked --no-default-features --edges normal | grep -E ' (clap|indicatif|ctrlc) v'

# The archive of a release, the same bytes from every clone. Needs git and Python 3.11 or newer.
archive:
	tools/archive.py

deny:
	$(CARGO) deny --locked check

# Vector code and raw memory, interpreted: the crates that have `unsafe`. Miri maps no files, and has no AVX-512, so the
# kernels run at the level that it detects. Random tests have one case, for it is slow, and nothing is shrunk.
MIRI_TESTS ?= linalg::tests linalg::reaching
miri:
	PROPTEST_CASES=1 PROPTEST_MAX_SHRINK_ITERS=0 MIRIFLAGS="-Zmiri-disable-isolation" $(CARGO) +nightly miri test --locked -p pimattn-kv --lib -- $(MIRI_TESTS)

bench:
	$(CARGO) bench --locked

guard:
	$(CARGO) bench --locked --bench instructions

record-instructions:
	$(CARGO) bench --locked --bench instructions -- --record

# Time and memory against size; SCALE="--most 1e9 --longest 1048576" for the largest. Needs Python 3.9 or newer.
scale: build
	tools/scale.py --bin $(BIN) -o $(OUT)/scale.csv $(SCALE)
	$(BIN)/pimsim plot $(OUT)/scale.csv --x size --y cpu_s --y peak_mib --by program --panel series --log-x --log-y \
	  --title "Processor time (s) and peak memory (MiB) against size" -o $(OUT)/scale.svg
