"""Tiny models at random init, one per architecture, and what their attention layers compute."""

from __future__ import annotations

import torch
from transformers import AutoConfig, AutoModelForCausalLM

# Beside the sizes below: what makes each architecture differ from the others, in small.
EXTRA: dict[str, dict] = {
    "apertus": {},
    "arcee": {},
    "cohere": {},
    "cohere2": {"sliding_window": 8, "sliding_window_pattern": 2},
    "ernie4_5": {},
    "ernie4_5_moe": {"moe_num_experts": 4, "moe_k": 2, "moe_intermediate_size": 32, "moe_layer_start_index": 1},
    "exaone4": {"sliding_window": 8, "sliding_window_pattern": 2},
    "gemma": {},
    "glm": {"partial_rotary_factor": 0.5},
    "glm4_moe": {"n_routed_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32, "first_k_dense_replace": 1},
    "granitemoe": {"num_local_experts": 4, "num_experts_per_tok": 2, "attention_multiplier": 0.25},
    "helium": {},
    "hunyuan_v1_dense": {},
    "hunyuan_v1_moe": {"num_experts": 4, "moe_topk": 2},
    "ministral": {"sliding_window": 8, "layer_types": ["full_attention", "sliding_attention"] * 2},
    "olmo": {},
    "olmo3": {"sliding_window": 8},
    "seed_oss": {},
    "starcoder2": {"sliding_window": None},
    "llama": {},
    "mistral": {"sliding_window": None},
    "qwen2": {},
    "qwen3": {"head_dim": 16},
    "mixtral": {"num_local_experts": 4, "num_experts_per_tok": 2},
    "qwen3_moe": {"head_dim": 16, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32},
    "olmo2": {},
    "phi3": {"partial_rotary_factor": 0.5},
    "glm4": {"head_dim": 16, "partial_rotary_factor": 0.5},
    "granite": {"attention_multiplier": 0.09},
    "smollm3": {"no_rope_layers": [1, 0, 1, 1]},
    "gemma2": {"head_dim": 16, "query_pre_attn_scalar": 10, "sliding_window": 8, "attn_logit_softcapping": None},
    "gemma3_text": {
        "head_dim": 16, "query_pre_attn_scalar": 10, "sliding_window": 8,
        "layer_types": ["sliding_attention", "full_attention", "sliding_attention", "full_attention"],
    },
    "gpt_oss": {"head_dim": 16, "sliding_window": 8, "num_local_experts": 4, "num_experts_per_tok": 2},
}  # fmt: skip


def tiny_config(kind: str, **extra):
    sizes = {
        "vocab_size": 96, "pad_token_id": 0, "hidden_size": 96, "intermediate_size": 48, "num_hidden_layers": 4,
        "num_attention_heads": 6, "num_key_value_heads": 2, "head_dim": 16, "max_position_embeddings": 512,
    }  # fmt: skip
    return AutoConfig.for_model(kind, **(sizes | EXTRA[kind] | extra))


def tiny(kind: str, implementation: str | None = None, **extra):
    """A model in f32 with weights that make its attention far from uniform."""
    torch.manual_seed(1)
    options = {} if implementation is None else {"attn_implementation": implementation}
    model = AutoModelForCausalLM.from_config(tiny_config(kind, **extra), **options).eval().float()
    with torch.no_grad():
        for name, weights in model.named_parameters():
            if any(part in name for part in ("q_proj", "k_proj", "v_proj", "qkv_proj")):
                weights.normal_(0.0, 0.3)
            elif "sinks" in name:
                weights.normal_(0.0, 1.0)
    return model


def ids(n: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(3, 96, (1, n), generator=torch.Generator().manual_seed(seed))


class OutputsOf:
    """The inputs of each layer's output projection, [token, query_head, dim]: what attention computed."""

    def __init__(self, model, dim: int = 16) -> None:
        self.outputs: dict[int, list[torch.Tensor]] = {}
        self._hooks = [
            module.o_proj.register_forward_pre_hook(self._hook(module.layer_idx, dim))
            for module in model.modules()
            if hasattr(module, "o_proj") and hasattr(module, "layer_idx")
        ]

    def _hook(self, layer: int, dim: int):
        def keep(_module, args):
            self.outputs.setdefault(layer, []).append(args[0].detach()[0].reshape(args[0].shape[1], -1, dim))

        return keep

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        for hook in self._hooks:
            hook.remove()

    def of(self, layer: int) -> torch.Tensor:
        return torch.cat(self.outputs[layer])


def attention(q, k, v, position: int, window: int | None = None, softcap=None, sinks=None) -> torch.Tensor:
    """softmax(q.k/sqrt(dim)) v in f64 for queries [query_head, dim] of the token at `position`, by tokens up to it."""
    group = q.shape[0] // k.shape[0]
    first = 0 if window is None else max(0, position + 1 - window)
    k, v = (x[:, first : position + 1].double().repeat_interleave(group, 0) for x in (k, v))
    scores = torch.einsum("hd,htd->ht", q.double(), k) / q.shape[-1] ** 0.5
    if softcap:
        scores = softcap * torch.tanh(scores / softcap)
    if sinks is not None:
        weights = torch.softmax(torch.cat([scores, sinks.double()[:, None]], 1), 1)[:, :-1]
    else:
        weights = torch.softmax(scores, 1)
    return torch.einsum("ht,htd->hd", weights, v)


def attention_layers(model) -> dict[int, torch.nn.Module]:
    return {m.layer_idx: m for m in model.modules() if hasattr(m, "layer_idx") and hasattr(m, "o_proj")}
