"""A `DecodeSession` in NumPy whose policies are known in closed form: an oracle for what `attach` hands over."""

from __future__ import annotations

import numpy as np


class FakeSession:
    """Selects all tokens (`full`), or the first `sinks` and the latest up to the budget (`streaming`)."""

    made: list[FakeSession] = []  # noqa: RUF012

    def __init__(self, *, policy, budget, parameters, layers, query_heads, kv_heads, dim, seed, dense_layers, element_bytes):
        if policy not in ("full", "streaming"):
            raise ValueError(f"policy {policy!r} is not known")
        self.policy, self.budget, self.sinks = policy, budget, (parameters or {}).get("sinks", 4)
        self.group, self.dense_layers = query_heads // kv_heads, dense_layers
        self.seed, self.element_bytes = seed, element_bytes
        self.layers, self.shape = layers, (query_heads, kv_heads, dim)
        self.prefills: dict[int, tuple[np.ndarray, np.ndarray, np.ndarray]] = {}
        self.kept: dict[int, tuple[np.ndarray, np.ndarray]] = {}
        self.steps: list[tuple[int, int]] = []
        FakeSession.made.append(self)

    def prefill(self, layer, k, v, q):
        assert layer in self.layers and layer not in self.prefills
        heads, kv_heads, dim = self.shape
        assert k.shape == v.shape and (k.shape[0], k.shape[2]) == (kv_heads, dim)
        assert (q.shape[0], q.shape[2]) == (heads, dim)
        assert all(x.dtype == np.float32 and x.flags.c_contiguous for x in (k, v, q))
        self.prefills[layer] = (k, v, q)
        self.kept[layer] = (k, v)

    def step(self, layer, k, v, q):
        assert all(x.dtype == np.float32 and x.flags.c_contiguous for x in (k, v, q))
        keys, values = (np.concatenate([old, new[:, None]], 1) for old, new in zip(self.kept[layer], (k, v), strict=True))
        self.kept[layer] = (keys, values)
        tokens = self.selected(layer, keys.shape[1])
        self.steps.append((layer, keys.shape[1] - 1))
        keys, values = (np.repeat(x[:, tokens], self.group, 0).astype("f8") for x in (keys, values))
        scores = np.einsum("hd,htd->ht", q, keys) / np.sqrt(q.shape[1])
        weights = np.exp(scores - scores.max(1, keepdims=True))
        return np.einsum("ht,htd->hd", weights / weights.sum(1, keepdims=True), values).astype("f4")

    def selected(self, layer, length):
        if self.policy == "full" or layer < self.dense_layers or length <= self.budget:
            return np.arange(length)
        return np.r_[0 : self.sinks, length - (self.budget - self.sinks) : length]

    def cache(self, provenance):
        return provenance, self.kept

    def selection(self):
        return [self.selected(layer, token + 1) for layer, token in self.steps]

    def stats(self):
        return self.steps
