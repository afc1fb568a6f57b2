"""Losses of given tokens, decoded one by one with the selection of a policy."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any

import numpy as np
from transformers import PreTrainedModel

from .attach import attach
from .losses import next_token_losses
from .stream import Stream, parts, token_ids


def token_losses(
    model: PreTrainedModel,
    ids: Any,
    prefill: int,
    policy: str | None = None,
    budget: int | None = None,
    *,
    dense_layers: int = 0,
    parameters: Mapping[str, Any] | None = None,
    prefill_queries: int = 256,
    seed: int = 1,
    chunk: int = 1024,
) -> np.ndarray:
    """Cross entropies in nats of the tokens from `prefill` on, [token]: each token of `ids` given those before it.

    The first `prefill` tokens are computed as the model does, `chunk` at a time; the others one by one with the policy's
    selection. Without a policy, or with `full`, all are computed as the model does. The first loss is of the last logits of
    the prefill.

    Raises ValueError for a prefill that leaves no token, and what `attach` raises.
    """
    ids = token_ids(ids)
    if not 1 <= prefill < len(ids):
        raise ValueError(f"prefill is {prefill}; expected 1 to {len(ids) - 1}, so that tokens are left to decode")
    if chunk < 1:
        raise ValueError(f"chunk is {chunk}; expected at least 1 token")
    selects = policy is not None and policy != "full"
    if selects and budget is None:
        raise TypeError(f"policy {policy!r} needs a budget: tokens that a query head may select in a step")
    attached: Any = nullcontext()
    if selects:
        prepared = {"parameters": parameters, "prefill_queries": prefill_queries, "seed": seed}
        attached = attach(model, policy, budget, dense_layers, prefill=prefill, **prepared)
    stream, losses = Stream(model), []
    with attached:
        for part in parts(ids[:prefill], chunk):
            logits = stream.feed(part, last=1)
        losses.append(next_token_losses(logits, ids[prefill : prefill + 1]))
        # The last token's own logits would be of a token that is not given.
        for part in parts(ids[prefill:-1], 1 if selects else chunk):
            logits = stream.feed(part)
            losses.append(next_token_losses(logits, ids[stream.tokens - len(part) + 1 : stream.tokens + 1]))
    return np.concatenate(losses)


def perplexity(
    model: PreTrainedModel, ids: Any, prefill: int, policy: str | None = None, budget: int | None = None, **options: Any
) -> float:
    """Perplexity of the tokens from `prefill` on: exp of the mean of `token_losses`, which has the parameters."""
    return float(np.exp(token_losses(model, ids, prefill, policy, budget, **options).mean()))
