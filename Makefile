# make demo: what each policy costs and keeps on the bundled real KV cache. make reproduce: the paper's experiment, set
# against its claims. make test, make lint, make bench.
# make test-cluster: the Snakemake and Slurm scripts of tools/cluster.

CARGO ?= cargo
OUT ?= out
REPORT ?= report
PLAN ?= configs/report/starc.toml
# A dump for what is said of a real KV cache; FULL=1 has windows four times as dense, and nine policies;
# MODEL=LLaMA-7B leaves out the others.
KV ?=
FULL ?=
MODEL ?=
POLICIES ?= full streaming quest starc
BIN = $(shell $(CARGO) metadata --format-version 1 --no-deps | sed 's/.*"target_directory":"\([^"]*\)".*/\1/')/release

.PHONY: build demo reproduce test test-cluster lint bench

build:
	$(CARGO) build --release --locked

demo: build
	@mkdir -p $(OUT)
	@for p in $(POLICIES); do \
	  $(BIN)/tracegen run --config configs/workload/demo.toml --policy $$p \
	    -o $(OUT)/$$p.ptrace --metrics $(OUT)/$$p.metrics.csv || exit $$?; \
	done
	@$(BIN)/pimsim run $(POLICIES:%=$(OUT)/%.ptrace) --config configs/system/hbm3-pim.toml -o $(OUT)
	@echo "Decode on a real KV cache (SmolLM2-135M, layers 9 and 16, 2,048 tokens of prefill, 128 steps), one HBM3-PIM stack;"
	@echo "time and energy of the attention layers per step; accuracy is the mean over steps, layers and query heads:"
	@$(BIN)/pimsim summary $(OUT)/run.csv --metrics $(POLICIES:%=$(OUT)/%.metrics.csv)
	@echo "Tables: $(OUT)/run.csv, steps.csv, phases.csv, heads.csv, channels.csv; accuracy: $(OUT)/*.metrics.csv."

reproduce: build
	@$(BIN)/pimsim reproduce $(PLAN) -o $(REPORT) --work $(OUT)/reproduce $(if $(KV),--kv $(KV)) $(MODEL:%=--model %) \
	  $(if $(FULL),--set grids.masks=configs/sweep/paper-full.toml --set window_every=2000)

test:
	$(CARGO) test --locked

# Needs Python 3.11 or newer with venv, and the network: Snakemake comes from PyPI.
test-cluster: build
	tools/cluster/test.sh $(BIN)/pimsim $(BIN)/../cluster

lint:
	$(CARGO) fmt --check
	$(CARGO) clippy --all-targets --locked -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --no-deps --locked --document-private-items

bench:
	$(CARGO) bench --locked
