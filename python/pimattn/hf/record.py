"""Recording keys, values and queries of a model while it decodes."""

from __future__ import annotations

import hashlib
import math
import os
import tempfile
from collections.abc import Callable, Sequence
from typing import Any

import torch
from transformers import PreTrainedModel

from .dump import dump_file, type_name
from .interface import Attended, AttentionCall, AttentionTap, checked_element_bytes, fits_before
from .rotation import described
from .stream import Stream, parts, token_ids
from .vectors import LastVectors, VectorLog


class Recorder(AttentionTap):
    """What `record` gives: one sequence of a model, layer by layer.

    `prefill` is the number of tokens before the first decode step, None as long as there was none; `tokens` the number of
    tokens recorded; `layers` the layers recorded.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        layers: Sequence[int] | None,
        prefill_queries: int,
        prefill: int | None,
        memory_bytes: int,
        folder: str | None,
        element_bytes: int,
    ) -> None:
        super().__init__(model)
        if prefill_queries < 0:
            raise ValueError(f"prefill_queries is {prefill_queries}; expected 0 or more")
        if prefill is not None and prefill < 1:
            raise ValueError(f"prefill is {prefill}; expected at least 1 token")
        self.layers = self.architecture.chosen(None if layers is None else list(layers))
        self.prefill = prefill
        self.element_bytes = checked_element_bytes(element_bytes)
        self._given_prefill = prefill is not None
        self._prefill_queries = prefill_queries
        self._folder = folder
        share = memory_bytes // (3 * len(self.layers))
        self._logs = {layer: _LayerLog(share, folder, prefill_queries) for layer in self.layers}
        self._ids: list[int] = []

    @property
    def tokens(self) -> int:
        """Tokens recorded. Raises RuntimeError if the model was stopped within a step, so that layers differ."""
        lengths = {layer: log.tokens for layer, log in self._logs.items()}
        if len(set(lengths.values())) > 1:
            layer, other = min(lengths, key=lengths.__getitem__), max(lengths, key=lengths.__getitem__)
            raise RuntimeError(
                f"layer {layer} has {lengths[layer]} tokens, layer {other} has {lengths[other]}: the model was stopped within "
                "a step; record again"
            )
        return next(iter(lengths.values()))

    @property
    def token_ids(self) -> list[int] | None:
        """Ids of the tokens recorded, or None if the model was given embeddings, or was called below its top."""
        return list(self._ids) if len(self._ids) == self.tokens else None

    def feed(self, ids: Any, chunk: int = 1024) -> None:
        """Runs the model over given token ids (teacher forcing), `chunk` at a time; `prefill` says where decoding begins."""
        ids = token_ids(ids)
        if not self._given_prefill:
            raise ValueError("where does the prefill of these ids end? say record(..., prefill=TOKENS)")
        if chunk < 1:
            raise ValueError(f"chunk is {chunk}; expected at least 1 token")
        stream = Stream(self.model)
        for part in parts(ids, chunk):
            stream.feed(part, last=1)

    def begin(self, ids: torch.Tensor | None, options: dict[str, Any]) -> None:
        if ids is not None:
            self._ids += ids.tolist()

    def attend(self, call: AttentionCall, dense: Callable[[], Attended]) -> Attended:
        log = self._logs.get(call.layer)
        if log is not None:
            self._add(log, call)
        return dense()

    def _add(self, log: _LayerLog, call: AttentionCall) -> None:
        new, seen = call.new_tokens, log.tokens
        if fits_before(call, seen, self.architecture.windows[call.layer]) != seen:
            raise RuntimeError(
                "a second sequence began (or the model ran without its cache); a recording holds one: use a `with` for each"
            )
        if not self._given_prefill:
            self._find_prefill(seen, new)
        log.append(call, self._first_query())

    def _find_prefill(self, seen: int, new: int) -> None:
        """The first call of a single token, behind another, is the first decode step."""
        if self.prefill is None and seen > 0 and new == 1:
            self.prefill = seen
        elif self.prefill is not None and seen >= self.prefill and new > 1:
            raise RuntimeError(
                f"{new} tokens at once after decoding began at token {self.prefill}; say where the prefill ends: "
                "record(..., prefill=TOKENS)"
            )

    def _first_query(self) -> int | None:
        """First token whose query is kept, as a count from the start if that is known, otherwise None."""
        return None if self.prefill is None else max(0, self.prefill - self._prefill_queries)

    @property
    def metadata(self) -> dict[str, str]:
        """What a dump says of itself."""
        first, tokens, a = self._checked(), self.tokens, self.architecture
        ids = self.token_ids
        said = {
            "prefill_len": str(self.prefill),
            "query_start": str(first),
            "positions": f"k,v 0..{tokens - 1} post-RoPE; q {first}..{tokens - 1}, unscaled",
            "layout": "k,v [layer,kv_head,token,dim]; q [layer,query_head,query,dim]; "
            f"query head h uses kv head h//{a.query_heads // a.kv_heads}",
            "element_bytes": str(self.element_bytes),
            "model": self.model.config._name_or_path or type(self.model).__name__,
            "architecture": a.model_type,
            "attention": self.implementation,
            "rope_scaling": described(self.model.config),
        }
        windows = [(layer, a.windows[layer]) for layer in self.layers if a.windows[layer] is not None]
        if windows:
            said["window"] = ", ".join(f"{layer}:{window}" for layer, window in windows)
        unrotated = [str(layer) for layer in self.layers if layer in a.unrotated]
        if unrotated:
            said["without_rope"] = ",".join(unrotated)
        if ids is not None:
            said["token_ids"] = " ".join(map(str, ids))
            said["token_ids_sha256"] = hashlib.sha256(said["token_ids"].encode()).hexdigest()
        cautions = self._cautions()
        if cautions:
            said["cautions"] = "; ".join(cautions)
        return said

    def _cautions(self) -> list[str]:
        """What the model's attention has that softmax(q.k/sqrt(dim)) over the dump's tokens has not."""
        logs = self._logs
        cautions = []
        if any(self.architecture.windows[layer] is not None for layer in self.layers):
            cautions.append("layers with a window (window) attend to their latest tokens only; all are in the dump")
        factors = sorted({log.factor for log in logs.values() if log.factor != 1.0})
        if factors:
            scales = ", ".join(f"{factor / math.sqrt(self.architecture.dim):.8g}" for factor in factors)
            cautions.append(f"the model scales its scores by {scales}, not by 1/sqrt(dim); q holds the difference")
        caps = sorted({log.softcap for log in logs.values() if log.softcap})
        if caps:
            how = "which" if self.implementation == "eager" else f"which its {self.implementation} attention leaves out; it"
            cautions.append(f"the model caps its scores at {caps[0]:g} by a tanh, {how} is not in q and k")
        if any(log.has_sinks for log in logs.values()):
            cautions.append("the softmax has a learnt logit per query head beside the tokens (sink), which is not in the dump")
        return cautions

    def _checked(self) -> int:
        """Token of the first query. Raises RuntimeError if the recording is not one of a prefill and decode steps."""
        tokens = self.tokens
        if tokens == 0:
            raise RuntimeError("nothing was recorded; run the model inside the `with`")
        if self.prefill is None or tokens <= self.prefill:
            raise RuntimeError(
                f"{tokens} tokens were recorded and none of them is a decode step; generate at least two tokens, or say where "
                "the prefill ends: record(..., prefill=TOKENS)"
            )
        return max(0, self.prefill - self._prefill_queries)

    def save(self, path: str | os.PathLike[str], dtype: str | None = None, **described_as: str) -> None:
        """Writes the recording as a safetensors dump: in the model's type, or `f16`, `bf16` or `f32`.

        Further words (`text=`, `licence=`, ...) go into the metadata as they are. Queries that hold a scale which is no power
        of two are in f32. Raises RuntimeError if there is no decode step, ValueError if a value does not fit the type, OSError.
        """
        first, tokens = self._checked(), self.tokens
        logs = [self._logs[layer] for layer in self.layers]
        kind = dtype or type_name(logs[0].keys.dtype)
        exact = not any(log.holds_scale for log in logs)
        size = (len(logs), self.architecture.kv_heads, tokens, self.architecture.dim)
        shapes = {
            "k": (kind, size),
            "v": (kind, size),
            "q": (
                kind if exact else "f32",
                (len(logs), self.architecture.query_heads, tokens - first, self.architecture.dim),
            ),
        }
        with dump_file(path, self.metadata | described_as, self.layers, shapes) as tensors:
            for index, (layer, log) in enumerate(zip(self.layers, logs, strict=True)):
                for name, vectors in (("k", log.keys), ("v", log.values), ("q", log.queries)):
                    start = 0
                    for block in vectors.blocks():
                        tensors[name].put(index, layer, start, block)
                        start += block.shape[1]

    @property
    def cache(self) -> Any:
        """The recording as a `pimattn.KvCache`, as `save` writes it."""
        from pimattn._native import KvCache

        with tempfile.TemporaryDirectory(dir=self._folder) as folder:
            path = os.path.join(folder, "recording.safetensors")
            self.save(path)
            return KvCache.load(path)

    def close(self) -> None:
        """Frees memory and disk."""
        for log in self._logs.values():
            log.close()


class _LayerLog:
    """Keys, values and queries of a layer, and what it asked for besides."""

    def __init__(self, memory_bytes: int, folder: str | None, prefill_queries: int) -> None:
        self._memory_bytes, self._folder = memory_bytes, folder
        self._waiting = LastVectors(prefill_queries)
        self.tokens = 0
        self.factor = 1.0
        self.softcap: float | None = None
        self.has_sinks = False
        self.keys: VectorLog
        self.values: VectorLog
        self.queries: VectorLog

    @property
    def holds_scale(self) -> bool:
        """Whether queries were multiplied by a factor that their own type would round."""
        return math.frexp(self.factor)[0] != 0.5

    def append(self, call: AttentionCall, first_query: int | None) -> None:
        """Adds the new tokens of a call. `first_query` is the token from which on queries are kept; as long as it is not
        known, the latest wait."""
        new = call.new_tokens
        if self.tokens == 0:
            self._open(call)
        self.keys.append(call.key[:, -new:])
        self.values.append(call.value[:, -new:])
        queries = call.scaled_queries()
        if first_query is None:
            self._waiting.add(queries)
        else:
            self.queries.append(self._waiting.taken(queries))
            skipped = max(0, first_query - self.tokens)
            if skipped < new:
                self.queries.append(queries[:, skipped:])
        self.tokens += new

    def _open(self, call: AttentionCall) -> None:
        """The logs, once it is known what they are of."""
        self.factor, self.softcap, self.has_sinks = call.factor, call.softcap, call.has_sinks
        kind = call.key.dtype
        type_name(kind)
        queries = torch.float32 if self.holds_scale else kind
        self.keys, self.values, self.queries = (VectorLog(of, self._memory_bytes, self._folder) for of in (kind, kind, queries))

    def close(self) -> None:
        if self.tokens:
            for log in (self.keys, self.values, self.queries):
                log.close()


def record(
    model: PreTrainedModel,
    layers: Sequence[int] | None = None,
    prefill_queries: int = 256,
    *,
    prefill: int | None = None,
    memory_bytes: int = 4 << 30,
    folder: str | None = None,
    element_bytes: int = 2,
) -> Recorder:
    """Records what a model decodes inside a `with`:

        with pimattn.record(model) as rec:
            model.generate(**inputs, max_new_tokens=64)
        rec.save("dump.safetensors")

    layers: numbers of the layers to record; without a choice those that attend to all tokens, or all if none does.
    prefill_queries: how many of the last queries of the prefill are kept, for policies that prepare from them.
    prefill: tokens before the first decode step; without it, decoding begins with the first forward pass of one token behind
    another.
    memory_bytes: memory for the recording; what is more goes to temporary files in `folder` (the system's if None).
    element_bytes: bytes of an element of the cache that is simulated: those of the types that models are served in, also where
    the model runs in f32 here.

    Raises TypeError or ValueError, before anything is recorded, if the model cannot be recorded. Inside the `with`, a batch,
    padding, a second sequence and a static cache are errors.
    """
    return Recorder(model, layers, prefill_queries, prefill, memory_bytes, folder, element_bytes)
