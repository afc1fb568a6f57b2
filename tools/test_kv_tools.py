"""Tests of the KV tools that need no model. Run: python3 -m unittest discover tools"""

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
