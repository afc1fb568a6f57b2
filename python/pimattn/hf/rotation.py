"""The rotary position embedding of a configuration: in words for a dump, and rescaled for contexts beyond the model's."""

from __future__ import annotations

import math
from typing import Any

SCALINGS = ("yarn", "dynamic")


def described(config: Any) -> str:
    """How a configuration rescales its rotation, in the words that `tracegen fit` reads where it knows them.

    `none`, `yarn:FACTOR from TOKENS tokens` for YaRN with its usual parameters, otherwise the kind.
    """
    text = config.get_text_config(decoder=True)
    parameters = _parameters(text)
    kind = parameters.get("rope_type", parameters.get("type", "default"))
    partial = parameters.get("partial_rotary_factor", getattr(text, "partial_rotary_factor", None)) or 1.0
    if getattr(text, "rope_local_base_freq", None) or any(isinstance(value, dict) for value in parameters.values()):
        return "differs between kinds of layers, as the model's config has it"
    if partial != 1.0:
        return f"{kind}, of a part of {partial:g} of each vector, as the model's config has it"
    if kind == "default":
        return "none"
    usual = {"beta_fast": (None, 32), "beta_slow": (None, 1), "truncate": (None, True)}
    original = parameters.get("original_max_position_embeddings")
    plain = all(parameters.get(name) in known for name, known in usual.items()) and original is not None
    length = parameters.get("attention_factor") or 0.1 * math.log(parameters.get("factor", 1.0)) + 1.0
    expected = 0.1 * math.log(parameters.get("factor", 1.0)) + 1.0
    if kind == "yarn" and plain and not parameters.get("mscale") and abs(length - expected) < 1e-6:
        return f"yarn:{parameters['factor']:g} from {original} tokens"
    return f"{kind}, as the model's config has it"


def rescale(config: Any, kind: str, factor: float, tokens: int) -> str:
    """Rescales the rotation of a configuration for `tokens` positions; what was done, in words for the metadata.

    YaRN is by parts (beta 32 and 1), with an attention factor of 0.1 ln(factor) + 1. The base of dynamic NTK grows with the
    length, and transformers leaves cached keys in the rotation that they were cached in; here every token has the base of
    `tokens` tokens, so that a dump has one rotation.
    """
    if kind not in SCALINGS:
        raise ValueError(f"{kind!r} is no rescaled rotation; expected {' or '.join(SCALINGS)}")
    # From version 5 on, transformers has base and scaling in `rope_parameters`; before, in `rope_theta` and `rope_scaling`.
    parameters = getattr(config, "rope_parameters", None)
    known = _parameters(config)
    base = known.get("rope_theta", getattr(config, "rope_theta", None))
    if known.get("rope_type", known.get("type", "default")) != "default" or base is None:
        raise ValueError("the model's config has a rotation of its own, which is not replaced")
    trained = config.max_position_embeddings
    if kind == "yarn":
        scaled = {"rope_type": "yarn", "factor": factor, "original_max_position_embeddings": trained}
        config.max_position_embeddings = round(trained * factor)
        if parameters is not None:
            config.rope_parameters = scaled | {"rope_theta": base}
        else:
            config.rope_scaling = scaled
        return f"yarn:{factor:g} from {trained} tokens"
    dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    stretched = base * (factor * max(tokens, trained) / trained - (factor - 1)) ** (dim / (dim - 2))
    if parameters is not None:
        config.rope_parameters = parameters | {"rope_theta": stretched}
    else:
        config.rope_theta = stretched
    return f"dynamic:{factor:g} from {trained} tokens: base {stretched:.8g} in place of {base:g}"


def _parameters(config: Any) -> dict[str, Any]:
    parameters = getattr(config, "rope_parameters", None)
    if parameters is None:
        parameters = getattr(config, "rope_scaling", None)
    return dict(parameters or {})
