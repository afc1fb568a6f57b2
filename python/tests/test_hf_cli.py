"""`pimattn-record` and what it is made of: options, rotations, perplexity by position."""

import argparse
import hashlib
import types

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

import hf_models
import torch
from pimattn.hf import cli, rotation
from pimattn.hf.losses import LOGIT_ROWS, next_token_losses, perplexity_by_position
from safetensors import safe_open
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A model with a tokenizer in a folder, and a text of 60 words."""
    folder = tmp_path_factory.mktemp("model")
    hf_models.tiny("llama").save_pretrained(folder)
    words = {f"w{i}": i for i in range(96)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="w0"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="w0").save_pretrained(folder)
    text = folder / "text.txt"
    text.write_text(" ".join(f"w{i}" for i in hf_models.ids(60)[0].tolist()))
    return folder, text


def run(saved, output, *more):
    folder, text = saved
    cli.main(["--model", str(folder), "--text", str(text), "--prefill", "40", "--decode", "6", "-o", str(output), *more])
    with safe_open(output, "pt") as file:
        return file.metadata(), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


def test_a_dump_of_a_text(saved, tmp_path, capsys):
    options = ("--layers", "1-2", "--chunk", "7", "--prefill-queries", "5", "--title", "noise", "--licence", "CC0")
    said, dump = run(saved, tmp_path / "x", *options)
    assert (dump["k"].shape, dump["q"].shape, dump["layers"].tolist()) == ((2, 2, 46, 16), (2, 6, 11, 16), [1, 2])
    assert (said["prefill_len"], said["query_start"], said["licence"]) == ("40", "35", "CC0")
    assert said["text"] == "noise, 40 tokens prefill, then 6 tokens decoded greedily"
    assert said["text_sha256"] == hashlib.sha256(saved[1].read_bytes()).hexdigest()
    assert said["token_ids"].split()[:40] == [str(i) for i in hf_models.ids(60)[0, :40].tolist()]
    model = hf_models.tiny("llama")
    with torch.inference_mode():
        logits = model(hf_models.ids(60)[:, :40]).logits[0]
    loss = torch.nn.functional.cross_entropy(logits[:-1], hf_models.ids(60)[0, 1:40]).exp()
    assert said["perplexity"] == f"1..39 {loss:.2f}"
    assert said["perplexity"] in capsys.readouterr().err
    greedy = model.generate(hf_models.ids(60)[:, :40], max_new_tokens=6, do_sample=False, pad_token_id=0)
    assert said["token_ids"] == " ".join(map(str, greedy[0].tolist()))


def test_decoding_follows_the_text_or_samples(saved, tmp_path):
    said, _ = run(saved, tmp_path / "x", "--follow-text")
    assert said["token_ids"].split() == [str(i) for i in hf_models.ids(60)[0, :46].tolist()]
    assert said["text"].endswith("6 tokens as it goes on")
    hot = [run(saved, tmp_path / "x", "--temperature", "9", "--seed", seed)[0]["token_ids"] for seed in ("1", "1", "2")]
    assert hot[0] == hot[1] != hot[2]


def test_types_and_rotations(saved, tmp_path):
    said, dump = run(saved, tmp_path / "x", "--dtype", "bf16", "--rope-scaling", "yarn:4")
    assert (dump["k"].dtype, said["rope_scaling"]) == (torch.bfloat16, "yarn:4 from 512 tokens")
    said, dump = run(saved, tmp_path / "x")
    assert (dump["k"].dtype, said["rope_scaling"]) == (torch.float32, "none")


def test_what_is_wrong_is_said_without_a_traceback(saved, tmp_path, capsys):
    folder, _ = saved
    for options, message in (
        (("--layers", "3,9"), "there is no layer 9; the model has layers 0..3"),
        (("--prefill", "70"), "has 60 tokens; 70 are wanted"),
        (("--prefill", "55", "--follow-text"), "has 60 tokens; 61 are wanted"),
        (("--text", str(folder / "none.txt")), "none.txt"),
        (("--rope-scaling", "linear:4"), "expected yarn:FACTOR or dynamic:FACTOR"),
        (("--chunk", "0"), "must be at least 1"),
        (("--prefill-queries", "-1"), "must be at least 0"),
    ):
        with pytest.raises(SystemExit) as end:
            run(saved, tmp_path / "x", *options)
        assert message in f"{end.value.code} {capsys.readouterr().err}"
    assert not (tmp_path / "x").exists()


def test_an_architecture_is_refused_before_weights_and_text(tmp_path):
    hf_models.AutoConfig.for_model("gpt2").save_pretrained(tmp_path)
    with pytest.raises(SystemExit, match="'gpt2' cannot be recorded"):
        cli.main(["--model", str(tmp_path), "--text", "none", "--prefill", "4", "--decode", "1", "-o", str(tmp_path / "x")])


def test_a_layer_list():
    assert cli.number_list("9,2-4,3") == [2, 3, 4, 9]


def new_config(**parameters):
    config = types.SimpleNamespace(
        rope_parameters={"rope_type": "default", "rope_theta": 1e5} | parameters,
        max_position_embeddings=8192, hidden_size=576, num_attention_heads=9,
    )  # fmt: skip
    config.get_text_config = lambda decoder: config
    return config


def old_config(rope_scaling=None):
    config = types.SimpleNamespace(
        rope_theta=1e5, rope_scaling=rope_scaling, max_position_embeddings=8192, hidden_size=576, num_attention_heads=9
    )
    config.get_text_config = lambda decoder: config
    return config


def test_a_rotation_is_a_kind_and_a_factor_above_1():
    assert cli.scaling("yarn:4") == ("yarn", 4.0)
    assert cli.scaling("dynamic:2.5") == ("dynamic", 2.5)
    for wrong in ("yarn", "yarn:", "yarn:x", "yarn:1", "yarn:0.5", "yarn:nan", "yarn:inf", "linear:2", "4", ""):
        with pytest.raises(argparse.ArgumentTypeError, match="yarn:FACTOR or dynamic:FACTOR"):
            cli.scaling(wrong)


def test_yarn_is_told_to_either_version_of_transformers():
    yarn = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 8192}
    for config in (new_config(), old_config()):
        assert rotation.rescale(config, "yarn", 4.0, 100) == "yarn:4 from 8192 tokens"
        assert config.max_position_embeddings == 32768
        if hasattr(config, "rope_parameters"):
            assert config.rope_parameters == yarn | {"rope_theta": 1e5}
        else:
            assert (config.rope_scaling, config.rope_theta) == (yarn, 1e5)
        assert rotation.described(config) == "yarn:4 from 8192 tokens"


def test_dynamic_ntk_has_one_base_for_the_whole_length():
    new, old = new_config(), old_config()
    for config in (new, old):
        assert "dynamic:4 from 8192 tokens: base " in rotation.rescale(config, "dynamic", 4.0, 32768)
    assert new.rope_parameters["rope_theta"] == pytest.approx(1e5 * 13 ** (64 / 62), abs=1e-3)
    assert old.rope_theta == new.rope_parameters["rope_theta"]
    # a length that the model was trained for leaves it as it is
    short = new_config()
    rotation.rescale(short, "dynamic", 4.0, 4096)
    assert short.rope_parameters["rope_theta"] == 1e5


def test_a_model_that_is_already_rescaled_is_refused():
    scaled = [{"rope_type": "linear", "factor": 2.0}, {"type": "linear", "factor": 2.0}]
    for config in (new_config(rope_type="llama3"), *map(old_config, scaled)):
        with pytest.raises(ValueError, match="rotation of its own"):
            rotation.rescale(config, "yarn", 4.0, 32768)


def test_a_rotation_is_described_in_the_words_that_fit_reads():
    other = "as the model's config has it"
    yarn = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 8192}
    for config, words in (
        (new_config(), "none"),
        (old_config(), "none"),
        (old_config(yarn), "yarn:4 from 8192 tokens"),
        (new_config(**yarn, beta_fast=32.0, beta_slow=1.0), "yarn:4 from 8192 tokens"),
        (new_config(**yarn, truncate=False), f"yarn, {other}"),
        (new_config(**yarn, attention_factor=1.0), f"yarn, {other}"),
        (new_config(rope_type="llama3"), f"llama3, {other}"),
        (new_config(partial_rotary_factor=0.5), f"default, of a part of 0.5 of each vector, {other}"),
        (new_config(full_attention={}), f"differs between kinds of layers, {other}"),
    ):
        assert rotation.described(config) == words


def test_perplexity_is_of_the_positions_that_it_names():
    losses = np.log([2.0] * 3 + [8.0] * 4 + [5.0])  # of positions 1..8
    assert perplexity_by_position(losses, span=4) == "1..3 2.00; 4..7 8.00; 8..8 5.00"
    assert perplexity_by_position(losses[:3], span=4) == "1..3 2.00"
    assert perplexity_by_position([]) == ""


def test_losses_are_of_their_targets():
    logits = torch.randn(2 * LOGIT_ROWS + 3, 7)
    targets = torch.arange(2 * LOGIT_ROWS + 2) % 7
    want = torch.nn.functional.cross_entropy(logits[:-1], targets, reduction="none")
    np.testing.assert_allclose(next_token_losses(logits, targets), want, rtol=1e-6)
    assert next_token_losses(logits, targets[:0]).shape == (0,)
