"""Cross entropies of tokens, and the perplexity of stretches of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch

PERPLEXITY_SPAN = 2048  # positions whose losses make one perplexity
LOGIT_ROWS = 128  # positions whose logits are in f32 at a time


def next_token_losses(logits: torch.Tensor, targets: torch.Tensor) -> np.ndarray:
    """Cross entropies in nats of `targets` [token], each given the logits [token, word] at its index; f32."""
    from torch.nn.functional import cross_entropy

    targets = targets.to(logits.device)
    losses = [
        cross_entropy(logits[start:end].float(), targets[start:end], reduction="none").cpu().numpy()
        for start in range(0, len(targets), LOGIT_ROWS)
        for end in (min(start + LOGIT_ROWS, len(targets)),)
    ]
    return np.concatenate(losses) if losses else np.zeros(0, "f4")


def perplexity_by_position(losses: np.ndarray | list[float], span: int = PERPLEXITY_SPAN) -> str:
    """Perplexity of each `span` positions, in words. `losses[i]` is the loss of the token at position `i + 1`."""
    losses, parts = np.asarray(losses, "f8"), []
    for start in range(0, len(losses) + 1, span):
        first, end = max(start, 1), min(start + span, len(losses) + 1)
        if first < end:
            parts.append(f"{first}..{end - 1} {np.exp(losses[first - 1 : end - 1].mean()):.2f}")
    return "; ".join(parts)
