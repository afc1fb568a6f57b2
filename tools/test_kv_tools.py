"""Tests of the KV tools that need no model. Run: python3 -m unittest discover tools"""

import argparse
import os
import tempfile
import types
import unittest

import cut_kv
import dump_kv
import kvfile
import numpy as np


def small_dump(tokens=20, decode=6, layers=(3, 5)):
    def heads(n, rows, base):
        values = np.arange(n * rows * 4).reshape(n, rows, 4)
        return [(base + i * 1000 + values).astype("<f4") for i in range(len(layers))]

    return dump_kv.pack(
        heads(2, tokens, 0), heads(2, tokens, 1), heads(4, decode, 2), list(layers), tokens - decode, {"model": "m"}
    )


class Pack(unittest.TestCase):
    def test_shapes_and_metadata(self):
        metadata, arrays = small_dump()
        self.assertEqual(arrays["k"].shape, (2, 2, 20, 4))
        self.assertEqual(arrays["q"].shape, (2, 4, 6, 4))
        self.assertEqual((metadata["prefill_len"], metadata["query_start"], metadata["model"]), (14, 14, "m"))
        self.assertEqual(metadata["positions"], "k,v 0..19 post-RoPE; q 14..19, unscaled")
        self.assertIn("h//2", metadata["layout"])

    def test_a_cache_that_dropped_tokens_is_refused(self):
        array = np.zeros((1, 5, 4), "<f2")
        with self.assertRaisesRegex(ValueError, "sliding window"):
            dump_kv.pack([array], [array], [array[:, :2]], [0], 4, {})

    def test_bf16_is_stacked(self):
        part = kvfile.Bf16(np.full((1, 3, 4), 0x3F80))
        metadata, arrays = dump_kv.pack([part], [part], [part[:, 2:]], [0], 2, {})
        self.assertEqual(arrays["k"].shape, (1, 1, 3, 4))

    def test_tap_keeps_queries_and_steps_aside(self):
        def original(q, k, cos, sin):
            return q + cos, k + sin

        module = types.SimpleNamespace(apply_rotary_pos_emb=original)
        with dump_kv.RotaryTap(module) as tap:
            self.assertEqual(module.apply_rotary_pos_emb(1, 2, 10, sin=20), (11, 22))
            self.assertEqual(tap.queries, [11])
        self.assertIs(module.apply_rotary_pos_emb, original)


class LongContexts(unittest.TestCase):
    def new_config(self, **parameters):
        return types.SimpleNamespace(
            rope_parameters={"rope_type": "default", "rope_theta": 1e5} | parameters,
            max_position_embeddings=8192, hidden_size=576, num_attention_heads=9,
        )

    def old_config(self, rope_scaling=None):
        return types.SimpleNamespace(
            rope_theta=1e5, rope_scaling=rope_scaling,
            max_position_embeddings=8192, hidden_size=576, num_attention_heads=9,
        )

    def test_an_option_is_a_kind_and_a_factor_above_1(self):
        self.assertEqual(dump_kv.scaling("yarn:4"), ("yarn", 4.0))
        self.assertEqual(dump_kv.scaling("dynamic:2.5"), ("dynamic", 2.5))
        for wrong in ("yarn", "yarn:", "yarn:x", "yarn:1", "yarn:0.5", "yarn:nan", "yarn:inf", "linear:2", "4", ""):
            with self.assertRaisesRegex(argparse.ArgumentTypeError, "yarn:FACTOR or dynamic:FACTOR"):
                dump_kv.scaling(wrong)

    def test_yarn_is_told_to_either_version_of_transformers(self):
        yarn = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 8192}
        for config in (self.new_config(), self.old_config()):
            self.assertEqual(dump_kv.rescale(config, "yarn", 4.0, 100), "yarn:4 from 8192 tokens")
            self.assertEqual(config.max_position_embeddings, 32768)
            if hasattr(config, "rope_parameters"):
                self.assertEqual(config.rope_parameters, yarn | {"rope_theta": 1e5})
            else:
                self.assertEqual((config.rope_scaling, config.rope_theta), (yarn, 1e5))

    def test_dynamic_ntk_has_one_base_for_the_whole_length(self):
        new, old = self.new_config(), self.old_config()
        for config in (new, old):
            self.assertIn("dynamic:4 from 8192 tokens: base ", dump_kv.rescale(config, "dynamic", 4.0, 32768))
        self.assertAlmostEqual(new.rope_parameters["rope_theta"], 1e5 * 13 ** (64 / 62), places=3)
        self.assertEqual(old.rope_theta, new.rope_parameters["rope_theta"])
        # a length that the model was trained for leaves it as it is
        short = self.new_config()
        dump_kv.rescale(short, "dynamic", 4.0, 4096)
        self.assertEqual(short.rope_parameters["rope_theta"], 1e5)

    def test_a_model_that_is_already_rescaled_is_refused(self):
        scaled = [{"rope_type": "linear", "factor": 2.0}, {"type": "linear", "factor": 2.0}]
        for config in (self.new_config(rope_type="llama3"), *map(self.old_config, scaled)):
            with self.assertRaisesRegex(ValueError, "rotation of its own"):
                dump_kv.rescale(config, "yarn", 4.0, 32768)

    def test_perplexity_is_of_the_positions_that_it_names(self):
        losses = np.log([2.0] * 3 + [8.0] * 4 + [5.0])  # of positions 1..8
        self.assertEqual(dump_kv.perplexity_by_position(losses, span=4), "1..3 2.00; 4..7 8.00; 8..8 5.00")
        self.assertEqual(dump_kv.perplexity_by_position(losses[:3], span=4), "1..3 2.00")
        self.assertEqual(dump_kv.perplexity_by_position([]), "")


class File(unittest.TestCase):
    def test_round_trip(self):
        metadata, arrays = small_dump()
        arrays["b"] = kvfile.Bf16(np.arange(6).reshape(2, 3))
        with tempfile.TemporaryDirectory() as directory:
            path = os.path.join(directory, "x.safetensors")
            kvfile.write(path, metadata, arrays)
            self.assertEqual(os.listdir(directory), ["x.safetensors"])
            metadata_read, arrays_read = kvfile.read(path)
        self.assertEqual(metadata_read, {name: str(value) for name, value in metadata.items()})
        np.testing.assert_array_equal(arrays_read.pop("b").bits, arrays.pop("b").bits)
        for name, array in arrays.items():
            np.testing.assert_array_equal(arrays_read[name], array)

    def test_layer_list(self):
        self.assertEqual(kvfile.number_list("9,2-4,3"), [2, 3, 4, 9])


class Cut(unittest.TestCase):
    def test_keeps_sinks_recent_and_decode(self):
        metadata, arrays = small_dump()
        m, a = cut_kv.cut(metadata, arrays, layers=[5], sinks=2, recent=3, decode=4)
        kept = [0, 1, 11, 12, 13, 14, 15, 16, 17]
        np.testing.assert_array_equal(a["k"], arrays["k"][1:, :, kept])
        np.testing.assert_array_equal(a["v"], arrays["v"][1:, :, kept])
        np.testing.assert_array_equal(a["q"], arrays["q"][1:, :, :4])
        self.assertEqual((m["prefill_len"], m["query_start"], m["model"]), (5, 5, "m"))
        self.assertEqual(m["source_positions"], "0..1,11..17 of 20 tokens; queries 14..17")
        self.assertEqual(m["positions"], "k,v 0..8 post-RoPE; q 5..8, unscaled")

    def test_refuses_what_the_dump_does_not_have(self):
        metadata, arrays = small_dump()
        with self.assertRaisesRegex(ValueError, "no layer 4"):
            cut_kv.cut(metadata, arrays, [4], 2, 3, 4)
        with self.assertRaisesRegex(ValueError, "queries from token 14 on"):
            cut_kv.cut(metadata, arrays, [5], 2, 3, 7)
        with self.assertRaisesRegex(ValueError, "do not fit"):
            cut_kv.cut(metadata, arrays, [5], 12, 3, 4)

    def test_positions_in_free_text(self):
        text = "k,v 0..8191 post-RoPE; q_late 7680..8191, unscaled"
        self.assertEqual(cut_kv.query_start({"positions": text}, 8192, 512), 7680)
        self.assertEqual(cut_kv.query_start({}, 10, 3), 7)


if __name__ == "__main__":
    unittest.main()
