"""Decoding a model with the selection of a policy: each decode step of its attention is computed by a `DecodeSession`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel

from .architectures import Architecture
from .interface import Attended, AttentionCall, AttentionTap, checked_element_bytes, fits_before
from .vectors import LastVectors


class Attachment(AttentionTap):
    """What `attach` gives: a model whose decode steps attend to the tokens that a policy selects.

    `layers` are the layers whose decode steps the policy computes; `windowed_layers` those that stay as the model has them,
    because they attend to their latest tokens only. `sequences` counts the sequences that have decoded so far.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        policy: str,
        budget: int,
        parameters: Mapping[str, Any] | None,
        dense_layers: int,
        prefill: int | None,
        prefill_queries: int,
        seed: int,
        element_bytes: int,
    ) -> None:
        super().__init__(model)
        a = self.architecture
        if prefill_queries < 0:
            raise ValueError(f"prefill_queries is {prefill_queries}; expected 0 or more")
        if prefill is not None and prefill < 1:
            raise ValueError(f"prefill is {prefill}; expected at least 1 token")
        _check_attachable(a)
        self.layers = a.full_layers
        self.windowed_layers = tuple(layer for layer in range(a.layers) if layer not in self.layers)
        self.sequences = 0
        self._prefill, self._prefill_queries = prefill, prefill_queries
        # Of the current forward pass: tokens before it and behind it, and what it is.
        self._before = self._tokens = 0
        self._is_step = self._hands_over = self._decoding = False
        self._waiting = {layer: LastVectors(prefill_queries) for layer in self.layers}
        size = checked_element_bytes(element_bytes)
        self._make = lambda: _session_type()(
            policy=policy,
            budget=budget,
            parameters=None if parameters is None else dict(parameters),
            layers=list(self.layers),
            query_heads=a.query_heads,
            kv_heads=a.kv_heads,
            dim=a.dim,
            seed=seed,
            dense_layers=dense_layers,
            element_bytes=size,
        )
        self._session = self._make()

    @property
    def selection(self) -> Any:
        """Tokens that each query head of `layers` attended to at each step of the last sequence: a `pimattn.Selection`."""
        self._check_decoded()
        return self._session.selection()

    @property
    def cache(self) -> Any:
        """What the last sequence decoded, with the queries of its prefill that were kept: a `pimattn.KvCache` of `layers`."""
        self._check_decoded()
        return self._session.cache(provenance=f"{self.model.config._name_or_path or type(self.model).__name__}, decoded")

    @property
    def stats(self) -> Any:
        """What each query head of `layers` selected and kept of its attention at each step of the last sequence: a
        `pimattn.Table` with the columns of the accuracy metrics."""
        self._check_decoded()
        return self._session.stats()

    def _check_decoded(self) -> None:
        if self.sequences == 0:
            raise RuntimeError("no decode step was taken; generate at least two tokens inside the `with`")

    def begin(self, ids: torch.Tensor | None, options: dict[str, Any]) -> None:
        if options.get("output_attentions") or getattr(self.model.config, "output_attentions", False):
            raise ValueError("output_attentions is set, but a policy has no weights of the tokens it leaves out; unset it")

    def attend(self, call: AttentionCall, dense: Callable[[], Attended]) -> Attended:
        if call.layer not in self._waiting:
            return dense()
        if call.layer == self.layers[0]:
            self._begin_pass(call)
        elif fits_before(call, self._before, None) != self._before:
            raise RuntimeError(
                f"layer {call.layer} is not at token {self._before}, as layer {self.layers[0]} is; begin a new sequence"
            )
        if not self._is_step:
            self._waiting[call.layer].add(call.scaled_queries())
            return dense()
        if self._hands_over:
            queries = self._waiting[call.layer].taken(call.query)
            self._session.prefill(call.layer, _floats(call.key[:, :-1]), _floats(call.value[:, :-1]), _floats(queries))
        return self._step(call), None

    def _begin_pass(self, call: AttentionCall) -> None:
        """Decides what a forward pass is: the beginning of a sequence, more of its prefill, or a decode step."""
        self._before = fits_before(call, self._tokens, None)
        if self._before == 0:
            self._decoding = False
            self._waiting = {layer: LastVectors(self._prefill_queries) for layer in self.layers}
        self._tokens = self._before + call.new_tokens
        self._is_step = self._takes_step(call.new_tokens)
        self._hands_over = self._is_step and not self._decoding
        if self._hands_over:
            if self.sequences > 0:
                self._session = self._make()
            self.sequences += 1
            self._decoding = True

    def _takes_step(self, new: int) -> bool:
        """Whether `new` tokens behind `_before` are a decode step: one token, behind the prefill that was given or any other."""
        prefill = self._before if self._prefill is None else self._prefill
        if new == 1 and self._before >= max(prefill, 1):
            return True
        if not self._decoding and (self._prefill is None or self._tokens <= self._prefill):
            return False
        said = "say where the prefill ends: prefill=TOKENS" if self._prefill is None else f"the prefill ends at {self._prefill}"
        raise RuntimeError(f"{new} tokens at once at token {self._before}, where decoding goes by one token; {said}")

    def _step(self, call: AttentionCall) -> torch.Tensor:
        """Output [1, 1, query_head, dim] of a decode step, on the model's device and in its type."""
        output = self._session.step(
            call.layer, _floats(call.key[:, -1]), _floats(call.value[:, -1]), _floats(call.scaled_queries()[:, 0])
        )
        return torch.from_numpy(np.asarray(output))[None, None].to(call.query.device, call.query.dtype)


def _check_attachable(architecture: Architecture) -> None:
    """Raises ValueError if a policy's attention would not be the model's even if it selected all tokens."""
    if architecture.softcap:
        raise ValueError(
            f"the model caps its scores at {architecture.softcap:g} by a tanh, which no policy computes; record it instead"
        )
    if architecture.has_sinks:
        raise ValueError(
            "the model's softmax has a learnt logit per query head beside the tokens (attention sink), which no policy "
            "computes; record it instead"
        )
    if not architecture.full_layers:
        raise ValueError("all layers of the model attend to their latest tokens only (sliding window), so no policy has a choice")


def _session_type() -> Any:
    from pimattn._native import DecodeSession

    return DecodeSession


def _floats(tensor: torch.Tensor) -> np.ndarray:
    """A tensor as an array in f32 that lies in one piece."""
    return np.ascontiguousarray(tensor.detach().float().cpu().numpy())


def attach(
    model: PreTrainedModel,
    policy: str,
    budget: int,
    dense_layers: int = 0,
    *,
    parameters: Mapping[str, Any] | None = None,
    prefill: int | None = None,
    prefill_queries: int = 256,
    seed: int = 1,
    element_bytes: int = 2,
) -> Attachment:
    """Lets a model decode with the selection of a policy inside a `with`:

        with pimattn.attach(model, policy="starc", budget=256, dense_layers=2) as a:
            model.generate(**inputs, max_new_tokens=64)
        a.selection, a.stats

    The prefill is computed as the model does. Each token behind it attends to what the policy selects with its
    parameters: up to `budget` tokens per query head, in layers below `dense_layers` to all. Layers with a sliding window
    stay as they are.

    prefill: tokens before the first decode step; without it, decoding begins with the first forward pass of one token behind
    another.
    prefill_queries: how many of the last queries of the prefill policies may prepare from.
    seed: of the policies that draw at random.
    element_bytes: of `cache`, as in `record`.

    One sequence at a time, any number of them: `selection` and `stats` are of the last one that decoded.

    Raises TypeError or ValueError, before anything is computed, if the model, the policy or a parameter is not as
    expected. Inside the `with`, a batch, padding, a static cache, and several tokens at once behind the prefill are errors.
    """
    return Attachment(model, policy, budget, parameters, dense_layers, prefill, prefill_queries, seed, element_bytes)
