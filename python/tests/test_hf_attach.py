"""A model that is attached to decodes as its policy says: all tokens as without it, a window as with a mask of that window."""

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

import hf_models
import torch
from fake_session import FakeSession
from pimattn.hf import attach as attach_module
from pimattn.hf.architectures import SUPPORTED
from pimattn.hf.attach import attach
from pimattn.hf.perplexity import perplexity, token_losses
from pimattn.hf.record import record
from transformers import DynamicCache

# Layers with a window, in the cases of hf_models.
WINDOWED = {
    "cohere2": (0, 2),
    "exaone4": (0, 2),
    "gemma2": (0, 2),
    "gemma3_text": (0, 2),
    "ministral": (1, 3),
    "olmo3": (0, 1, 2),
}
ATTACHABLE = [kind for kind in SUPPORTED if kind != "gpt_oss"]


@pytest.fixture(autouse=True)
def fake(monkeypatch):
    monkeypatch.setattr(attach_module, "_session_type", lambda: FakeSession)
    FakeSession.made.clear()
    return FakeSession


@pytest.fixture(scope="module")
def model():
    return hf_models.tiny("llama", "eager")


def greedy(model, tokens=13, new=9, seed=0):
    return model.generate(
        hf_models.ids(tokens, seed), max_new_tokens=new, do_sample=False, pad_token_id=0, output_logits=True,
        return_dict_in_generate=True, eos_token_id=None,
    )  # fmt: skip


@pytest.mark.parametrize("kind", ATTACHABLE)
def test_a_policy_that_selects_all_tokens_changes_nothing(kind):
    model = hf_models.tiny(kind)
    plain = greedy(model)
    with attach(model, policy="full", budget=1) as a:
        attached = greedy(model)
    assert torch.equal(plain.sequences, attached.sequences)
    torch.testing.assert_close(torch.stack(attached.logits), torch.stack(plain.logits), rtol=1e-4, atol=1e-4)
    assert a.windowed_layers == WINDOWED.get(kind, ())
    assert sorted(a.layers + a.windowed_layers) == [0, 1, 2, 3]
    assert a.stats == [(layer, token) for token in range(13, 21) for layer in a.layers]


def masked_losses(model, ids, prefill, sinks, budget, dense_layers):
    """Losses of a forward pass whose rows from `prefill` on see what streaming selects, in the layers above `dense_layers`."""
    tokens = ids.shape[1]
    causal = torch.ones(tokens, tokens).tril().bool()
    windowed = causal.clone()
    for token in range(prefill, tokens):
        if token + 1 > budget:
            windowed[token, sinks : token + 1 - (budget - sinks)] = False
    hooks = []
    for layer, module in hf_models.attention_layers(model).items():
        allowed = causal if layer < dense_layers else windowed
        mask = torch.zeros(1, 1, tokens, tokens).masked_fill(~allowed, torch.finfo(torch.float32).min)
        hooks.append(module.register_forward_pre_hook(
            lambda _module, args, options, mask=mask: (args, options | {"attention_mask": mask}), with_kwargs=True
        ))  # fmt: skip
    with torch.inference_mode():
        logits = model(ids).logits[0]
    for hook in hooks:
        hook.remove()
    return torch.nn.functional.cross_entropy(logits[prefill - 1 : -1], ids[0, prefill:], reduction="none").numpy()


@pytest.mark.parametrize("dense_layers", [0, 1])
def test_a_window_gives_the_losses_of_a_masked_forward_pass(model, dense_layers):
    ids = hf_models.ids(40)
    parameters = {"sinks": 3}
    got = token_losses(model, ids, 25, "streaming", 10, dense_layers=dense_layers, parameters=parameters, chunk=7)
    want = masked_losses(model, ids, 25, 3, 10, dense_layers)
    np.testing.assert_allclose(got, want, rtol=2e-4)
    assert not np.allclose(got[2:], token_losses(model, ids, 25)[2:], rtol=1e-2)


def test_the_prefill_that_a_session_gets_is_what_was_recorded(model, fake):
    ids = hf_models.ids(21)
    with record(model, prefill_queries=5, prefill=16) as rec:
        rec.feed(ids)
    with attach(model, "full", 1, prefill=16, prefill_queries=5):
        cache = DynamicCache(config=model.config)
        for part in [*ids[:, :16].split(3, dim=1), *ids[:, 16:].split(1, dim=1)]:
            model(part, past_key_values=cache)
    for layer in range(4):
        k, v, q = fake.made[-1].prefills[layer]
        keys, values = fake.made[-1].kept[layer]
        log = rec._logs[layer]
        assert k.shape == (2, 16, 16)
        for got, want in (
            (k, next(log.keys.blocks())[:, :16]), (v, next(log.values.blocks())[:, :16]), (keys, next(log.keys.blocks())),
            (values, next(log.values.blocks())), (q, next(log.queries.blocks())[:, :5]),
        ):  # fmt: skip
            assert np.linalg.norm(got - want.numpy()) < 1e-5 * np.linalg.norm(want.numpy())


def test_without_queries_of_the_prefill_a_session_gets_none(model, fake):
    with attach(model, "full", 1, prefill_queries=0):
        greedy(model)
    assert fake.made[-1].prefills[0][2].shape == (6, 0, 16)


def test_each_sequence_has_a_session_of_its_own(model, fake):
    with attach(model, "full", 1) as a:
        greedy(model, tokens=9, new=4)
        first = a.stats
        model(hf_models.ids(30))  # no step: the session stays that of the sequence before
        assert a.stats is first
        greedy(model, tokens=5, new=3, seed=1)
    assert (a.sequences, len(fake.made)) == (2, 2)
    assert [token for layer, token in a.stats if layer == 0] == [5, 6]
    assert [token for layer, token in first if layer == 0] == [9, 10, 11]


def test_the_end_of_the_prefill_can_be_said(model):
    ids = hf_models.ids(9)
    with attach(model, "full", 1, prefill=6) as a:
        cache = DynamicCache(config=model.config)
        for part in ids[:, :8].split([4, 1, 1, 1, 1], dim=1):
            model(part, past_key_values=cache)
        assert [token for layer, token in a.stats if layer == 0] == [6, 7]
    with attach(model, "full", 1, prefill=6), pytest.raises(RuntimeError, match="prefill ends at 6"):
        model(ids)
    with attach(model, "full", 1), pytest.raises(RuntimeError, match=r"2 tokens at once at token 7.*prefill=TOKENS"):
        cache = DynamicCache(config=model.config)
        for part in ids.split([6, 1, 2], dim=1):
            model(part, past_key_values=cache)


def test_the_output_has_the_models_type():
    model = hf_models.tiny("llama").to(torch.bfloat16)
    with attach(model, "full", 1) as a:
        out = greedy(model)
    assert (a._session.element_bytes, a.cache[0]) == (2, "LlamaForCausalLM, decoded")
    assert out.logits[0].dtype in (torch.bfloat16, torch.float32) and torch.isfinite(torch.stack(out.logits)).all()


def test_what_no_policy_computes_is_refused_before_work(model):
    with pytest.raises(ValueError, match="sink"):
        attach(hf_models.tiny("gpt_oss"), "full", 1)
    with pytest.raises(ValueError, match="caps its scores at 2"):
        attach(hf_models.tiny("gemma2", "eager", attn_logit_softcapping=2.0), "full", 1)
    with pytest.raises(ValueError, match="no policy has a choice"):
        attach(hf_models.tiny("mistral", sliding_window=8), "full", 1)
    with pytest.raises(ValueError, match="'nonsense' is not known"):
        attach(model, "nonsense", 1)
    for wrong in ({"prefill": 0}, {"prefill_queries": -1}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            attach(model, "full", 1, **wrong)
    with attach(model, "full", 1), pytest.raises(ValueError, match="output_attentions"):
        model(hf_models.ids(3), output_attentions=True)
    with attach(model, "full", 1) as a, pytest.raises(RuntimeError, match="no decode step"):
        _ = a.selection


def test_recording_and_attaching_at_once_is_an_error(model):
    with attach(model, "full", 1), pytest.raises(RuntimeError, match="attached to already"), record(model):
        pass
    assert model.config._attn_implementation == "eager"


def test_perplexity_of_all_tokens_is_that_of_one_forward_pass(model):
    ids = hf_models.ids(50)
    with torch.inference_mode():
        logits = model(ids).logits[0]
    want = torch.nn.functional.cross_entropy(logits[19:-1], ids[0, 20:]).exp().item()
    for options in ({}, {"policy": "full"}, {"chunk": 7}, {"policy": "full", "budget": 3}):
        assert perplexity(model, ids, 20, **options) == pytest.approx(want, rel=1e-4)
    assert perplexity(model, ids, 20, "streaming", 64) == pytest.approx(want, rel=1e-4)
    assert perplexity(model, ids[0].tolist(), prefill=49) == pytest.approx(
        torch.nn.functional.cross_entropy(logits[48:49], ids[0, 49:]).exp().item(), rel=1e-4
    )


def test_a_wrong_perplexity_is_refused(model):
    ids = hf_models.ids(10)
    for prefill in (0, 10):
        with pytest.raises(ValueError, match=f"prefill is {prefill}; expected 1 to 9"):
            perplexity(model, ids, prefill)
    with pytest.raises(TypeError, match="needs a budget"):
        perplexity(model, ids, 5, "streaming")
    with pytest.raises(ValueError, match="expected whole numbers"):
        perplexity(model, ids.repeat(2, 1), 5)
    with pytest.raises(ValueError, match="chunk is 0"):
        perplexity(model, ids, 5, chunk=0)
