"""Tests of cut_kv.py and kvfile.py. Run: python3 -m unittest discover tools"""

import os
import tempfile
import unittest

import cut_kv
import kvfile
import numpy as np


def small_dump(tokens=20, decode=6, layers=(3, 5)):
    def heads(n, rows, base):
        values = np.arange(n * rows * 4).reshape(n, rows, 4)
        return [(base + i * 1000 + values).astype("<f4") for i in range(len(layers))]

    metadata = {
        "prefill_len": tokens - decode,
        "query_start": tokens - decode,
        "positions": f"k,v 0..{tokens - 1} post-RoPE; q {tokens - decode}..{tokens - 1}, unscaled",
        "layout": "k,v [layer,kv_head,token,dim]; q [layer,query_head,query,dim]; query head h uses kv head h//2",
        "model": "m",
    }
    arrays = {
        "k": np.stack(heads(2, tokens, 0)),
        "v": np.stack(heads(2, tokens, 1)),
        "q": np.stack(heads(4, decode, 2)),
        "layers": np.array(layers, "<i4"),
    }
    return metadata, arrays


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
