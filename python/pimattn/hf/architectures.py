"""Which models can be recorded and attached to, decided from their configuration, before any weight is loaded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

# Model types whose attention has been compared with what was recorded of it (python/tests/test_architectures.py).
SUPPORTED = (
    "apertus", "arcee", "cohere", "cohere2", "ernie4_5", "ernie4_5_moe", "exaone4", "gemma", "gemma2", "gemma3_text", "glm",
    "glm4", "glm4_moe", "gpt_oss", "granite", "granitemoe", "helium", "hunyuan_v1_dense", "hunyuan_v1_moe", "llama",
    "ministral", "mistral", "mixtral", "olmo", "olmo2", "olmo3", "phi3", "qwen2", "qwen3", "qwen3_moe", "seed_oss", "smollm3",
    "starcoder2",
)  # fmt: skip

# Model types that take `sliding_window` for every layer, whatever kinds of layers their configuration names.
ONE_WINDOW = ("mistral", "mixtral", "phi3", "qwen3_moe", "starcoder2")

# Model types whose layers rotate keys and queries only where they have a window, if any layer has one.
ROTATED_IN_WINDOWS = ("cohere2", "exaone4")

# Kinds of layers whose keys and values grow by one vector per token and KV head.
GROWING = ("full_attention", "sliding_attention")


@dataclass(frozen=True)
class Architecture:
    """What the attention layers of a decoder are like.

    `windows[layer]` is the number of latest tokens that a layer attends to, its own included, or None for all. `unrotated`
    are the layers without rotary position embedding. `softcap` bounds the scores by a tanh, where the model computes it.
    `has_sinks` says that each query head has a learnt logit beside those of the tokens.
    """

    model_type: str
    layers: int
    query_heads: int
    kv_heads: int
    dim: int
    windows: tuple[int | None, ...]
    unrotated: tuple[int, ...]
    softcap: float | None
    has_sinks: bool

    @property
    def full_layers(self) -> tuple[int, ...]:
        """Layers that attend to all tokens."""
        return tuple(layer for layer, window in enumerate(self.windows) if window is None)

    def chosen(self, layers: list[int] | None) -> tuple[int, ...]:
        """The layers to record: those named; without a choice those that attend to all tokens, or all if none does."""
        if layers is None:
            return self.full_layers or tuple(range(self.layers))
        wrong = [layer for layer in layers if isinstance(layer, bool) or not isinstance(layer, int)]
        if wrong:
            raise TypeError(f"layers holds {wrong[0]!r}; expected layer numbers")
        chosen = tuple(sorted(set(layers)))
        if not chosen:
            raise ValueError("layers is empty; name at least one, or leave it out")
        if chosen[0] < 0 or chosen[-1] >= self.layers:
            outside = chosen[0] if chosen[0] < 0 else chosen[-1]
            raise ValueError(f"there is no layer {outside}; the model has layers 0..{self.layers - 1}")
        return chosen


def examine(config: Any) -> Architecture:
    """The architecture of a transformers configuration (`AutoConfig.from_pretrained(...)` or `model.config`).

    Raises ValueError with the reason, and with what to do instead, if its keys and values cannot be recorded.
    """
    text = config.get_text_config(decoder=True)
    reason = _reason_against(config, text)
    if reason:
        raise ValueError(f"model type {text.model_type!r} cannot be recorded: {reason}; supported: {', '.join(SUPPORTED)}")
    heads, windows = text.num_attention_heads, _windows(text)
    return Architecture(
        model_type=text.model_type,
        layers=text.num_hidden_layers,
        query_heads=heads,
        kv_heads=getattr(text, "num_key_value_heads", None) or heads,
        dim=getattr(text, "head_dim", None) or text.hidden_size // heads,
        windows=windows,
        unrotated=_unrotated(text, windows),
        softcap=getattr(text, "attn_logit_softcapping", None),
        has_sinks=text.model_type == "gpt_oss",
    )


def _reason_against(config: Any, text: Any) -> str | None:
    """Why a model is refused; None if it is not."""
    kinds = sorted(set(getattr(text, "layer_types", None) or ()) - set(GROWING))
    if getattr(config, "is_encoder_decoder", False):
        return "it is an encoder with a decoder, whose cross attention has a cache of another length; take a decoder-only model"
    if getattr(text, "kv_lora_rank", None):
        return (
            "its cache holds a latent vector in place of keys and values (multi-head latent attention), and its keys and "
            "values differ in size; take a model with grouped-query attention"
        )
    if kinds:
        return f"it has layers of kind {', '.join(kinds)}, which keep no key and value per token; take a model without them"
    if getattr(text, "num_kv_shared_layers", None):
        return "some of its layers use the keys and values of other layers; take a model whose layers have their own"
    if getattr(text, "alibi", False):
        return "it adds a bias by distance to its scores (ALiBi), which keys and queries do not hold; take a model with RoPE"
    if not getattr(text, "is_causal", True) or getattr(text, "use_bidirectional_attention", False):
        return "its tokens attend to later ones; take a causal model"
    if text.model_type not in SUPPORTED:
        return (
            "nobody has compared its attention with what is recorded of it; if it is as in a supported model, convert it to "
            "that type, or add it to pimattn/hf/architectures.py with a case in the tests"
        )
    return None


def _windows(text: Any) -> tuple[int | None, ...]:
    """The window of each layer: by kind of layer where the configuration names kinds, otherwise one for all."""
    kinds = getattr(text, "layer_types", None)
    window = getattr(text, "sliding_window", None)
    if not getattr(text, "use_sliding_window", True):
        window = None
    if kinds is None or text.model_type in ONE_WINDOW:
        return (window,) * text.num_hidden_layers
    return tuple(window if kind == "sliding_attention" else None for kind in kinds)


def _unrotated(text: Any, windows: tuple[int | None, ...]) -> tuple[int, ...]:
    """Layers without rotary position embedding. `no_rope_layers` holds 1 for a layer that has it."""
    if text.model_type in ROTATED_IN_WINDOWS and getattr(text, "sliding_window", None):
        return tuple(layer for layer, window in enumerate(windows) if window is None)
    return tuple(layer for layer, rotated in enumerate(getattr(text, "no_rope_layers", None) or ()) if not rotated)
