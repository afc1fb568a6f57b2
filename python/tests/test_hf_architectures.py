"""What is recorded of an architecture gives what its attention computes; other architectures are refused by configuration."""

import types

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

import hf_models
import torch
from pimattn.hf.architectures import SUPPORTED, examine
from pimattn.hf.record import record
from safetensors.torch import load_file
from transformers import AutoConfig, Gemma2ForCausalLM, Gemma3Config, Gemma3ForConditionalGeneration

PROMPT, NEW = 13, 12


def generated(model, **options):
    return model.generate(
        hf_models.ids(PROMPT), max_new_tokens=NEW, do_sample=False, pad_token_id=0, eos_token_id=None, **options
    )


def worst_error(model, path, rec, out, softcap=None) -> float:
    """Largest relative error of softmax(q.k/sqrt(dim)) v of a dump's tensors against what the layers computed."""
    dump, worst = load_file(path), 0.0
    first = int(rec.metadata["query_start"])
    for index, layer in enumerate(rec.layers):
        computed = out.of(layer).double()
        sinks = getattr(hf_models.attention_layers(model)[layer], "sinks", None)
        for query in range(dump["q"].shape[2]):
            got = hf_models.attention(
                dump["q"][index, :, query],
                dump["k"][index],
                dump["v"][index],
                first + query,
                window=rec.architecture.windows[layer],
                softcap=softcap,
                sinks=None if sinks is None else sinks.detach(),
            )
            want = computed[first + query]
            worst = max(worst, ((got - want).norm() / want.norm()).item())
    return worst


@pytest.mark.parametrize("kind", SUPPORTED)
def test_the_attention_of_recorded_tensors_is_the_models_own(kind, tmp_path):
    model = hf_models.tiny(kind)
    plain = generated(model)
    with hf_models.OutputsOf(model) as out, record(model, layers=range(4), prefill_queries=3) as rec:
        assert torch.equal(generated(model), plain)
    rec.save(tmp_path / "x.safetensors")
    assert (rec.prefill, rec.tokens, rec.metadata["query_start"]) == (PROMPT, PROMPT + NEW - 1, str(PROMPT - 3))
    assert worst_error(model, tmp_path / "x.safetensors", rec, out) < 1e-5
    assert rec.token_ids == plain[0, :-1].tolist()


@pytest.mark.parametrize("kind", SUPPORTED)
def test_the_layers_without_rope_are_those_whose_keys_do_not_turn(kind):
    """A token that is repeated has the same hidden state everywhere, so its keys differ by their rotation only."""
    model = hf_models.tiny(kind)
    with record(model, layers=range(4), prefill=5) as rec:
        rec.feed([7] * 6)
    # the weight of a sink falls with the number of tokens, and the next layers see that
    for layer in rec.layers[: 1 if rec.architecture.has_sinks else 4]:
        keys = next(rec._logs[layer].keys.blocks())
        turns = (keys[:, 0] - keys[:, -1]).norm() > 1e-2 * keys.norm()
        assert turns == (layer not in rec.architecture.unrotated), layer


def test_every_supported_architecture_has_a_case():
    assert set(hf_models.EXTRA) == set(SUPPORTED)


def test_a_cap_is_in_the_scores_of_eager_attention_only_and_said(tmp_path):
    ways = {"eager": 2.0}
    if Gemma2ForCausalLM._supports_sdpa:  # some versions compute it so, without the cap
        ways["sdpa"] = None
    for implementation, softcap in ways.items():
        model = hf_models.tiny("gemma2", implementation, attn_logit_softcapping=2.0)
        with hf_models.OutputsOf(model) as out, record(model, layers=[1, 3]) as rec:
            generated(model)
        rec.save(tmp_path / "x.safetensors")
        assert worst_error(model, tmp_path / "x.safetensors", rec, out, softcap) < 1e-5
        assert "caps its scores at 2 by a tanh" in rec.metadata["cautions"]
        assert ("leaves out" in rec.metadata["cautions"]) == (implementation == "sdpa")


def test_windows_are_of_the_layers_that_have_them(tmp_path):
    model = hf_models.tiny("gemma3_text")
    with record(model) as rec:
        generated(model)
    assert (rec.layers, rec.metadata.get("window")) == ((1, 3), None)
    with record(model, layers=[2, 1]) as rec:
        generated(model)
    assert (rec.layers, rec.metadata["window"]) == ((1, 2), "2:8")
    assert "window" in rec.metadata["cautions"]
    # a model whose layers all have one is recorded whole, beyond what its cache keeps
    model = hf_models.tiny("mistral", sliding_window=8)
    with hf_models.OutputsOf(model) as out, record(model) as rec:
        generated(model)
    rec.save(tmp_path / "x.safetensors")
    assert (rec.layers, rec.metadata["window"]) == ((0, 1, 2, 3), "0:8, 1:8, 2:8, 3:8")
    assert worst_error(model, tmp_path / "x.safetensors", rec, out) < 1e-5


def test_the_text_part_of_a_larger_model_is_recorded(tmp_path):
    vision = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 28}
    config = Gemma3Config(
        text_config=hf_models.tiny_config("gemma3_text"), vision_config=vision, image_token_index=95, boi_token_index=94,
        eoi_token_index=93, mm_tokens_per_image=4,
    )  # fmt: skip
    torch.manual_seed(1)
    model = Gemma3ForConditionalGeneration(config).eval()
    before = model.config.vision_config._attn_implementation
    with hf_models.OutputsOf(model) as out, record(model, layers=range(4)) as rec:
        assert model.config.vision_config._attn_implementation == before
        generated(model)
    rec.save(tmp_path / "x.safetensors")
    assert worst_error(model, tmp_path / "x.safetensors", rec, out) < 1e-5
    assert (rec.metadata["architecture"], rec.metadata["window"]) == ("gemma3_text", "0:8, 2:8")
    assert model.config.get_text_config()._attn_implementation == before


def test_a_window_of_qwen_counts_only_if_it_is_used():
    used = {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 2}
    assert examine(hf_models.tiny_config("qwen2", **used)).windows == (None, None, 8, 8)
    assert examine(hf_models.tiny_config("qwen2", **(used | {"use_sliding_window": False}))).windows == (None,) * 4


@pytest.mark.parametrize("kind", ["mistral", "mixtral", "phi3", "qwen3_moe", "starcoder2"])
def test_kinds_of_layers_that_a_model_takes_no_notice_of_change_nothing(kind):
    given = {"sliding_window": 8, "use_sliding_window": True, "layer_types": ["full_attention"] * 4}
    assert examine(hf_models.tiny_config(kind, **given)).windows == (8,) * 4


def test_other_architectures_are_refused_with_a_reason_and_a_way_out():
    cases = {
        "t5": "encoder with a decoder.*take a decoder-only model",
        "deepseek_v3": "latent vector.*grouped-query attention",
        "qwen3_next": "linear_attention.*take a model without them",
        "gpt2": "nobody has compared.*architectures.py",
        "gemma3n_text": "values of other layers",
    }
    for kind, reason in cases.items():
        with pytest.raises(ValueError, match=f"(?s)cannot be recorded.*{reason}.*supported: "):
            examine(AutoConfig.for_model(kind))
    with pytest.raises(ValueError, match="attend to later ones"):
        examine(hf_models.tiny_config("gemma3_text", use_bidirectional_attention=True))
    falcon = types.SimpleNamespace(model_type="falcon", alibi=True)
    falcon.get_text_config = lambda decoder: falcon
    with pytest.raises(ValueError, match="ALiBi"):
        examine(falcon)
