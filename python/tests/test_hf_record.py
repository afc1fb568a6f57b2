"""What a recording holds, where it stops, and that the model is as it was afterwards."""

import copy

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

import hf_models
import torch
from pimattn.hf.record import record
from pimattn.hf.vectors import LastVectors, VectorLog
from safetensors import safe_open
from safetensors.torch import load_file
from transformers import DynamicCache, StaticCache


def greedy(model, tokens=9, new=5, **options):
    return model.generate(hf_models.ids(tokens), max_new_tokens=new, do_sample=False, pad_token_id=0, **options)


@pytest.fixture(scope="module")
def model():
    return hf_models.tiny("llama")


def test_a_dump_says_what_it_holds(model, tmp_path):
    with record(model, layers=[3, 1], prefill_queries=4) as rec:
        greedy(model)
    rec.save(tmp_path / "x.safetensors", text="noise", licence="none needed")
    with safe_open(tmp_path / "x.safetensors", "np") as file:
        said = file.metadata()
        shapes = {name: file.get_tensor(name).shape for name in file.keys()}  # noqa: SIM118
        assert file.get_tensor("layers").tolist() == [1, 3]
    assert shapes == {"k": (2, 2, 13, 16), "v": (2, 2, 13, 16), "q": (2, 6, 8, 16), "layers": (2,)}
    assert said["positions"] == "k,v 0..12 post-RoPE; q 5..12, unscaled"
    assert (said["prefill_len"], said["query_start"], said["text"], said["licence"]) == ("9", "5", "noise", "none needed")
    assert said["token_ids"].split() == [str(i) for i in rec.token_ids]
    assert (said["element_bytes"], rec.element_bytes) == ("2", 2)
    assert said["layout"].endswith("query head h uses kv head h//3")
    assert "cautions" not in said and "window" not in said
    assert [p.name for p in tmp_path.iterdir()] == ["x.safetensors"]


def test_parts_of_a_prefill_and_given_ids_record_what_one_pass_does(model, tmp_path):
    given = hf_models.ids(24)
    ways = {}
    for name, chunk in (("whole", 24), ("parts", 5)):
        with record(model, prefill_queries=7, prefill=16) as rec:
            rec.feed(given, chunk=chunk)
        rec.save(tmp_path / name)
        ways[name] = load_file(tmp_path / name)
    with record(model, prefill_queries=7) as rec, torch.inference_mode():
        cache = DynamicCache(config=model.config)
        for part in [*given[:, :16].split(6, dim=1), *given[:, 16:].split(1, dim=1)]:
            model(part, past_key_values=cache)
    rec.save(tmp_path / "steps")
    ways["steps"] = load_file(tmp_path / "steps")
    assert ways["whole"]["q"].shape == (4, 6, 7 + 8, 16) and rec.prefill == 16
    for other in ("parts", "steps"):
        for name in ("k", "v", "q"):
            whole = ways["whole"][name]
            assert (ways[other][name] - whole).norm() < 1e-5 * whole.norm()


def test_types_are_the_models_or_those_asked_for(tmp_path):
    for dtype, name in ((torch.bfloat16, "BF16"), (torch.float16, "F16")):
        model = hf_models.tiny("llama").to(dtype)
        with record(model, layers=[0]) as rec:
            greedy(model)
        rec.save(tmp_path / "x")
        dump = load_file(tmp_path / "x")
        assert {dump[t].dtype for t in "kvq"} == {dtype}, name
        rec.save(tmp_path / "y", dtype="f32")
        assert all(torch.equal(load_file(tmp_path / "y")[t], dump[t].float()) for t in "kvq")
        assert rec.metadata["element_bytes"] == "2"
    # a scale that is no power of two stays exact: q in f32
    model = hf_models.tiny("granite").to(torch.bfloat16)
    with record(model, layers=[0]) as rec:
        greedy(model)
    rec.save(tmp_path / "z")
    dump = load_file(tmp_path / "z")
    assert (dump["k"].dtype, dump["q"].dtype) == (torch.bfloat16, torch.float32)
    assert not torch.equal(dump["q"], dump["q"].bfloat16().float())


def test_a_value_that_does_not_fit_leaves_no_file(model, tmp_path):
    with record(model, layers=[0]) as rec:
        greedy(model)
    rec._logs[0].values.append(torch.full((2, 1, 16), 1e6))
    rec._logs[0].keys.append(torch.zeros(2, 1, 16))
    rec._logs[0].queries.append(torch.zeros(6, 1, 16))
    rec._logs[0].tokens += 1
    with pytest.raises(ValueError, match="layer 0 in 'v' does not fit f16; save in bf16 or f32"):
        rec.save(tmp_path / "x", dtype="f16")
    assert list(tmp_path.iterdir()) == []


def test_what_does_not_fit_in_memory_is_on_disk(model, tmp_path):
    dumps = []
    for memory in (1 << 30, 0):
        with record(model, memory_bytes=memory, folder=str(tmp_path)) as rec:
            greedy(model, tokens=40)
        assert all(log.keys._file._rolled == (memory == 0) for log in rec._logs.values())
        rec.save(tmp_path / "x")
        dumps.append((tmp_path / "x").read_bytes())
        rec.close()
    assert dumps[0] == dumps[1]


def test_logs_give_back_blocks_of_what_was_added(monkeypatch):
    monkeypatch.setattr("pimattn.hf.vectors.BLOCK_BYTES", 100)
    vectors = torch.arange(2 * 11 * 3).reshape(2, 11, 3).float()
    log = VectorLog(torch.float32, 50, None)
    for part in vectors.split([4, 1, 0, 6], dim=1):
        log.append(part)
    blocks = list(log.blocks())
    assert len(blocks) == 3
    assert torch.equal(torch.cat(blocks, dim=1), vectors)
    for most in (0, 1, 3, 5, 11, 20):
        for sizes in ([4, 1, 6], [6, 4, 1]):
            last = LastVectors(most)
            for part in vectors.split(sizes, dim=1):
                last.add(part)
            assert torch.equal(last.taken(vectors), vectors[:, max(0, 11 - most) :]), (most, sizes)
            assert last.taken(vectors).shape == (2, 0, 3)


def test_the_model_is_as_it_was_even_after_an_exception(model):
    before = model.config._attn_implementation
    with pytest.raises(KeyError), record(model):
        assert model.config._attn_implementation == f"pimattn_{before}"
        raise KeyError
    assert model.config._attn_implementation == before
    assert not model._forward_pre_hooks
    with record(model) as rec, pytest.raises(RuntimeError, match="being recorded or attached to already"), record(model):
        pass
    assert model.config._attn_implementation == before
    with record(model) as rec:
        greedy(model)
    assert rec.tokens == 13


def test_two_models_are_recorded_at_the_same_time(model):
    other = hf_models.tiny("qwen2")
    with record(model) as one, record(other) as two:
        greedy(model)
        greedy(other, tokens=7)
    assert (one.tokens, two.tokens) == (13, 11)


def test_a_batch_and_padding_are_refused(model):
    two = hf_models.ids(6).repeat(2, 1)
    with record(model), pytest.raises(ValueError, match="2 sequences at once; pass one"):
        model.generate(two, max_new_tokens=3)
    with record(model), pytest.raises(ValueError, match="sequences at once"):
        greedy(model, num_beams=2)
    padded = torch.ones(1, 9, dtype=torch.long)
    padded[0, 0] = 0
    with record(model), pytest.raises(ValueError, match="without padding"):
        greedy(model, attention_mask=padded)
    with record(model), pytest.raises(ValueError, match="attention_mask is not"):
        model(hf_models.ids(4), attention_mask=torch.zeros(1, 1, 4, 4))
    with record(model), pytest.raises(ValueError, match="position_ids"):
        model(hf_models.ids(4), position_ids=torch.tensor([[0, 1, 0, 1]]))


def test_a_second_sequence_and_other_caches_are_refused(model):
    with record(model), pytest.raises(RuntimeError, match="second sequence"):
        greedy(model)
        greedy(model)
    with record(model), pytest.raises(RuntimeError, match="second sequence"):
        greedy(model, use_cache=False)
    with record(model), pytest.raises(ValueError, match="static cache has room"):
        greedy(model, cache_implementation="static", disable_compile=True)
    with record(model), pytest.raises(ValueError, match="static cache has room"):
        model(hf_models.ids(4), past_key_values=StaticCache(config=model.config, max_cache_len=32))
    cache = DynamicCache(config=model.config)
    model(hf_models.ids(4), past_key_values=cache)
    with record(model), pytest.raises(RuntimeError, match="begin the sequence inside the `with`"):
        model(hf_models.ids(1), past_key_values=cache)


def test_tokens_taken_out_of_the_cache_are_noticed(model):
    cache = DynamicCache(config=model.config)
    with record(model), pytest.raises(RuntimeError, match="taken out of the cache"):
        model(hf_models.ids(9), past_key_values=cache)
        cache.crop(-3) if hasattr(cache.layers[0], "is_sliding") else cache.crop(6)
        model(hf_models.ids(2), past_key_values=cache)


def test_several_tokens_behind_the_first_step_need_the_end_of_the_prefill(model):
    ids = hf_models.ids(12)
    for prefill in (None, 4):
        cache = DynamicCache(config=model.config)
        with record(model, prefill=prefill) as rec:
            model(ids[:, :4], past_key_values=cache)
            model(ids[:, 4:5], past_key_values=cache)
            if prefill is None:
                with pytest.raises(RuntimeError, match="say where the prefill ends"):
                    model(ids[:, 5:9], past_key_values=cache)
            else:
                model(ids[:, 5:9], past_key_values=cache)
                assert (rec.tokens, rec.prefill) == (9, 4)


def test_a_recording_without_a_decode_step_is_no_dump(model, tmp_path):
    with record(model) as rec:
        pass
    with pytest.raises(RuntimeError, match="nothing was recorded"):
        rec.save(tmp_path / "x")
    with record(model) as rec:
        model(hf_models.ids(4))
    with pytest.raises(RuntimeError, match="none of them is a decode step"):
        rec.save(tmp_path / "x")
    with record(model, prefill=30) as rec:
        rec.feed(hf_models.ids(20))
    with pytest.raises(RuntimeError, match="none of them is a decode step"):
        rec.save(tmp_path / "x")
    with record(model) as rec, pytest.raises(ValueError, match="prefill=TOKENS"):
        rec.feed(hf_models.ids(4))


def test_a_step_that_was_cut_short_is_noticed(model, tmp_path):
    def stop(_module, _args):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), record(model) as rec:
        cache = DynamicCache(config=model.config)
        model(hf_models.ids(4), past_key_values=cache)
        model.model.layers[2].register_forward_pre_hook(stop)
        try:
            model(hf_models.ids(1), past_key_values=cache)
        finally:
            model.model.layers[2]._forward_pre_hooks.clear()
    with pytest.raises(RuntimeError, match="layer 2 has 4 tokens, layer 0 has 5"):
        rec.save(tmp_path / "x")


def test_wrong_arguments_and_models_are_refused_before_work(model):
    with pytest.raises(ValueError, match=r"no layer 4; the model has layers 0\.\.3"):
        record(model, layers=[0, 4])
    with pytest.raises(ValueError, match="layers is empty"):
        record(model, layers=[])
    with pytest.raises(TypeError, match="'1'; expected layer numbers"):
        record(model, layers=["1"])
    with pytest.raises(ValueError, match="prefill_queries is -1"):
        record(model, prefill_queries=-1)
    with pytest.raises(ValueError, match="element_bytes is 3"):
        record(model, element_bytes=3)
    with pytest.raises(ValueError, match="prefill is 0"):
        record(model, prefill=0)
    with pytest.raises(TypeError, match="Linear; expected a model of transformers"):
        record(torch.nn.Linear(2, 2))
    with pytest.raises(ValueError, match="compiled"):
        record(torch.compile(model))
    with pytest.raises(ValueError, match="load it with attn_implementation='sdpa' or 'eager'"):
        flex = hf_models.tiny("llama", "flex_attention")
        record(flex).__enter__()
    training = hf_models.tiny("llama", attention_dropout=0.5).train()
    with record(training), pytest.raises(ValueError, match=r"call model.eval\(\) first"):
        training(hf_models.ids(4))


def test_a_copy_of_a_model_that_is_being_recorded_says_so(model):
    with record(model):
        other = copy.deepcopy(model)
    with pytest.raises(RuntimeError, match="a copy, made while the original was recorded"):
        other(hf_models.ids(4))


def test_attention_that_passes_by_the_interface_is_noticed():
    model = hf_models.tiny("llama")
    model.model.layers = torch.nn.ModuleList()
    with record(model), pytest.raises(RuntimeError, match="install a newer one"):
        model(hf_models.ids(4))


def test_without_ids_the_dump_has_none(model, tmp_path):
    with record(model, prefill=5) as rec:
        model(inputs_embeds=torch.randn(1, 9, 96))
    assert rec.token_ids is None and "token_ids" not in rec.metadata
    rec.save(tmp_path / "x")
    assert np.isfinite(load_file(tmp_path / "x")["k"].numpy()).all()
