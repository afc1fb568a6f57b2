# make demo: what each policy costs and keeps on the bundled real KV cache. make test, make lint, make bench.
# make guard: instructions of five fixed cases against benches/instructions.toml; needs valgrind, without it checks nothing.

CARGO ?= cargo
OUT ?= out
POLICIES ?= full streaming quest starc
BIN = $(shell $(CARGO) metadata --format-version 1 --no-deps | sed 's/.*"target_directory":"\([^"]*\)".*/\1/')/release

.PHONY: build demo test lint bench guard record-instructions

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

test:
	$(CARGO) test --locked

lint:
	$(CARGO) fmt --check
	$(CARGO) clippy --all-targets --locked -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --no-deps --locked --document-private-items

bench:
	$(CARGO) bench --locked

guard:
	$(CARGO) bench --locked --bench instructions

record-instructions:
	$(CARGO) bench --locked --bench instructions -- --record
