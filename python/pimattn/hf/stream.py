"""A model that is fed one sequence, part by part."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from transformers import PreTrainedModel


class Stream:
    """One sequence in a model's own cache. Works without gradients."""

    def __init__(self, model: PreTrainedModel) -> None:
        self.model = model
        self.tokens = 0
        self._cache: dict[str, Any] = {}

    def feed(self, ids: torch.Tensor, last: int = 0) -> torch.Tensor:
        """Logits [token, word] after the tokens `ids` [token], which follow those fed before: of all, or of the `last`."""
        ids = ids.to(self.model.device).reshape(1, -1)
        with torch.inference_mode():
            out = self.model(input_ids=ids, use_cache=True, logits_to_keep=last, **self._cache)
        # Newer versions call the cache `cache`, older ones `past_key_values`.
        name = "cache" if out.get("cache") is not None else "past_key_values"
        self._cache = {name: out[name]}
        self.tokens += ids.shape[1]
        return out.logits[0]


def parts(ids: torch.Tensor, size: int) -> Iterator[torch.Tensor]:
    """Token ids [token] in parts of up to `size`; no part of no tokens, other than by `torch.split`."""
    return (ids[start : start + size] for start in range(0, len(ids), size))


def token_ids(ids: Any) -> torch.Tensor:
    """Token ids as a tensor [token], from a list, an array, a tensor [token] or [1, token]."""
    tensor = torch.as_tensor(ids)
    if tensor.ndim == 2 and tensor.shape[0] == 1:
        tensor = tensor[0]
    if tensor.ndim != 1 or tensor.is_floating_point() or tensor.dtype == torch.bool:
        raise ValueError(f"ids are {tensor.dtype} of shape {tuple(tensor.shape)}; expected whole numbers [token]")
    return tensor.long()
