"""The seam between a model's attention layers and the function that computes their attention.

transformers looks that function up by name, with the name in the model's configuration, and the function that makes masks
by the same name. An `AttentionTap` puts a name of ours there while it is entered, and the old one back afterwards.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import torch
from transformers import PreTrainedModel, StaticCache
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from .architectures import Architecture, examine

# Implementations of transformers that a tap can stand before. Those of flash attention look at the configured name themselves.
IMPLEMENTATIONS = ("eager", "sdpa")

# The tap that is entered for a configuration, by the identity of the configuration.
_TAPS: dict[int, AttentionTap] = {}

Attended = tuple[torch.Tensor, "torch.Tensor | None"]


@dataclass(frozen=True)
class AttentionCall:
    """What an attention layer asks for: one sequence, queries of its latest tokens, keys and values of those it attends to.

    query is [query_head, query, dim], key and value are [kv_head, token, dim], all after the rotary embedding. Scores are
    `factor * q.k / sqrt(dim)`. softcap and has_sinks say what the layer asks for besides.
    """

    layer: int
    query: torch.Tensor
    key: torch.Tensor
    value: torch.Tensor
    factor: float
    softcap: float | None
    has_sinks: bool

    @property
    def new_tokens(self) -> int:
        """Tokens that this call adds to the cache: each has a query."""
        return self.query.shape[1]

    def scaled_queries(self) -> torch.Tensor:
        """Queries whose scores are `q.k / sqrt(dim)`: those of the layer, or times `factor` in f32."""
        return self.query if self.factor == 1.0 else self.query.float() * self.factor


class AttentionTap:
    """Sees each call of a model's attention layers. Enter it with `with`; a model has one at a time.

    Subclasses say in `attend` what becomes of a call, and in `begin` what is known of a forward pass before it.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        """Checks that the model can be tapped. Raises TypeError or ValueError with the reason if not; changes nothing."""
        if hasattr(model, "_orig_mod") or getattr(model, "_compiled_call_impl", None) is not None:
            raise ValueError("the model is compiled, so its attention calls no Python; pass the model as it was loaded")
        if not isinstance(model, PreTrainedModel):
            raise TypeError(f"model is a {type(model).__name__}; expected a model of transformers")
        self.model = model
        self.architecture: Architecture = examine(model.config)
        self._configs = _attention_configs(model)
        self._implementations: dict[int, str] = {}
        self._hooks: list[Any] = []
        self._calls = 0

    def __enter__(self) -> Any:
        names = {id(config): config._attn_implementation for config in self._configs}
        for key, name in names.items():
            if key in _TAPS:
                raise RuntimeError("the model is being recorded or attached to already; leave that `with` first")
            if name not in IMPLEMENTATIONS:
                raise ValueError(
                    f"the model computes its attention by {name!r}; load it with attn_implementation='sdpa' or 'eager'"
                )
        self._implementations = names
        for config in self._configs:
            _TAPS[id(config)] = self
            config._attn_implementation = _registered(names[id(config)])
        self._hooks = [
            self.model.register_forward_pre_hook(self._before_forward, prepend=True, with_kwargs=True),
            self.model.register_forward_hook(self._after_forward),
        ]
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        for hook in self._hooks:
            hook.remove()
        for config in self._configs:
            config._attn_implementation = self._implementations[id(config)]
            del _TAPS[id(config)]

    @property
    def implementation(self) -> str:
        """The implementation of attention that the model has without the tap."""
        return self._implementations.get(id(self._configs[0]), self._configs[0]._attn_implementation)

    def begin(self, ids: torch.Tensor | None, options: dict[str, Any]) -> None:
        """Called before a forward pass of the whole model, with its token ids [token], where it is given any."""

    def attend(self, call: AttentionCall, dense: Callable[[], Attended]) -> Attended:
        """Output [1, query, query_head, dim] of a call, and weights or None. `dense()` is what the model computes itself."""
        raise NotImplementedError

    def _before_forward(self, _model: Any, args: tuple[Any, ...], options: dict[str, Any]) -> None:
        ids = args[0] if args else options.get("input_ids")
        for given in (ids, options.get("inputs_embeds")):
            if given is not None and given.shape[0] != 1:
                raise ValueError(f"{given.shape[0]} sequences at once; pass one (batch size 1, no beams)")
        if isinstance(options.get("cache", options.get("past_key_values")), StaticCache):
            raise ValueError("a static cache has room for tokens that are not there; use one that grows (the default)")
        mask = options.get("attention_mask")
        if mask is not None:
            if not isinstance(mask, torch.Tensor) or mask.ndim != 2:
                raise ValueError("attention_mask is not [1, token]; leave it out, for keys and queries do not hold it")
            if not bool((mask != 0).all()):
                raise ValueError("attention_mask leaves tokens out (padding?); pass one sequence without padding")
        positions = options.get("position_ids")
        if positions is not None and positions.ndim == 2 and bool((positions.diff() != 1).any()):
            raise ValueError("position_ids are not those of one sequence without gaps; leave them out")
        self._calls = 0
        self.begin(None if ids is None else ids[0], options)

    def _after_forward(self, *_passed: Any) -> None:
        if self._calls == 0:
            raise RuntimeError(
                f"this version of transformers computes the attention of {self.architecture.model_type!r} without its "
                "interface, so that nothing was seen of it; install a newer one"
            )


def fits_before(call: AttentionCall, seen: int, window: int | None) -> int:
    """Tokens that a layer had before this call, when `seen` were there after its last one: `seen`, or 0 in a new sequence.

    Raises RuntimeError if the keys of the call are neither those of the tokens seen and the new ones, nor the part of them
    that a cache of a window keeps.
    """
    length, new = call.key.shape[1], call.new_tokens
    kept = seen if window is None else min(seen, window - 1)
    if kept + new <= length <= seen + new:
        return seen
    if length == new:
        return 0
    where = f"layer {call.layer} attends to {length} keys, and {seen} tokens were seen before its {new} new ones"
    if length > seen + new:
        raise RuntimeError(f"{where}; begin the sequence inside the `with`, with a cache that grows (the default)")
    raise RuntimeError(f"{where}: tokens were taken out of the cache (assisted generation?), which is not supported")


def checked_element_bytes(given: int) -> int:
    """Bytes of an element of the cache that is simulated. Raises ValueError for a size that no device multiplies."""
    if given not in (1, 2, 4):
        raise ValueError(f"element_bytes is {given}; expected 1, 2 or 4")
    return given


def _attention_configs(model: PreTrainedModel) -> list[Any]:
    """The configurations that the decoder's attention layers look at, each once. Parts of a model may hold copies."""
    kind = type(model.config.get_text_config(decoder=True))
    found = {id(m.config): m.config for m in model.modules() if isinstance(getattr(m, "config", None), kind)}
    return list(found.values())


def _registered(implementation: str) -> str:
    """The name by which transformers finds the tap that stands before an implementation, and the same masks as for that."""
    name = f"pimattn_{implementation}"
    if name not in ALL_ATTENTION_FUNCTIONS:
        ALL_ATTENTION_FUNCTIONS.register(name, _tapped(implementation))
        ALL_MASK_ATTENTION_FUNCTIONS.register(name, ALL_MASK_ATTENTION_FUNCTIONS[implementation])
    return name


def _tapped(implementation: str) -> Callable[..., Attended]:
    def attention(
        module: torch.nn.Module,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attention_mask: torch.Tensor | None,
        scaling: float | None = None,
        dropout: float = 0.0,
        **options: Any,
    ) -> Attended:
        tap = _TAPS.get(id(module.config))
        if tap is None:
            raise RuntimeError("the model is a copy, made while the original was recorded or attached to; copy it before")
        own = _implementation_of(module, implementation)

        def dense() -> Attended:
            return own(module, query, key, value, attention_mask, scaling=scaling, dropout=dropout, **options)

        if dropout:
            raise ValueError("the model drops out attention weights, for it is in training mode; call model.eval() first")
        tap._calls += 1
        return tap.attend(_call(tap, module, query, key, value, scaling, options), dense)

    return attention


def _implementation_of(module: torch.nn.Module, implementation: str) -> Callable[..., Attended]:
    """An implementation as the file of the module's class has it: some models bring their own."""
    file = sys.modules[type(module).__module__]
    if implementation == "eager":
        return file.eager_attention_forward
    return getattr(file, "ALL_ATTENTION_FUNCTIONS", ALL_ATTENTION_FUNCTIONS)[implementation]


def _call(
    tap: AttentionTap,
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    scaling: float | None,
    options: dict[str, Any],
) -> AttentionCall:
    layer, dim = module.layer_idx, query.shape[-1]
    if query.shape[0] != 1:
        raise ValueError(f"{query.shape[0]} sequences at once; pass one (batch size 1, no beams)")
    if value.shape != key.shape or key.shape[-1] != dim:
        raise ValueError(f"layer {layer} has keys {tuple(key.shape)} and values {tuple(value.shape)}; expected equal sizes")
    window = tap.architecture.windows[layer]
    if options.get("sliding_window", window) != window:
        raise ValueError(
            f"layer {layer} has a window of {options['sliding_window']} tokens, but its configuration says {window}; "
            "the model was changed after it was loaded, or pimattn/hf/architectures.py is wrong about it"
        )
    factor = 1.0 if scaling is None else scaling * dim**0.5
    return AttentionCall(
        layer=layer,
        query=query[0].detach(),
        key=key[0].detach(),
        value=value[0].detach(),
        factor=1.0 if abs(factor - 1.0) < 1e-6 else factor,
        softcap=options.get("softcap"),
        has_sinks=options.get("s_aux") is not None,
    )
