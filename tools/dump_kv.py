#!/usr/bin/env python3
"""Writes the KV cache and the decode queries of a Hugging Face causal LM as a safetensors dump.

Needs torch, transformers and NumPy (pip install torch transformers numpy).

    python3 tools/dump_kv.py --model HuggingFaceTB/SmolLM2-135M-Instruct --text book.txt \\
        --prefill 7936 --decode 256 --layers 9,16 --licence "model: Apache-2.0; text: MIT" -o dump.safetensors

The first PREFILL tokens of the text are fed in chunks, then DECODE tokens are generated one by one (greedily, or
sampled with --temperature). The dump holds, for the chosen layers,

    k, v    [layer, kv_head, token, dim]    after RoPE, tokens 0..PREFILL+DECODE-1
    q       [layer, query_head, query, dim] after RoPE and before the softmax scale, one query per decode step
    layers  [layer]                         layer numbers in the model

Query head h attends with KV head h // (query heads / KV heads), as in transformers' repeat_kv.

Keys and values are taken from the model's cache. Queries are not kept by the model: they are taken at
`apply_rotary_pos_emb`, which the attention modules of the architectures in SUPPORTED call once per layer, in layer
order. Other architectures are refused, because some rotate in place, scale q beforehand or skip RoPE in some layers.

A model that is fed more tokens than it was trained for needs its rotation rescaled: `--rope-scaling yarn:4` is YaRN for four
times the trained length (by parts, beta 32 and 1, attention factor 0.1 ln 4 + 1), `--rope-scaling dynamic:4` dynamic NTK. The
latter's base grows with the length, and transformers leaves the keys of its cache in the rotation that they were cached in;
here every token has the base of PREFILL+DECODE tokens, so that the dump has one rotation. Whether the model still works shows
in the perplexity of the prefill, which is printed and kept in the metadata for each 2,048 positions.
"""

import argparse
import math
import sys

import kvfile
import numpy as np

SUPPORTED = ("llama", "mistral", "qwen2", "qwen3")
SCALINGS = ("yarn", "dynamic")
PERPLEXITY_SPAN = 2048  # positions whose losses make one perplexity
LOGIT_ROWS = 128  # positions whose logits are in f32 at a time


class RotaryTap:
    """Stands in for a modeling module's `apply_rotary_pos_emb` and keeps the queries of the last forward pass."""

    def __init__(self, module):
        self.module = module
        self.original = module.apply_rotary_pos_emb
        self.queries = []

    def __enter__(self):
        def tapped(q, k, *args, **kwargs):
            q, k = self.original(q, k, *args, **kwargs)
            self.queries.append(q)
            return q, k

        self.module.apply_rotary_pos_emb = tapped
        return self

    def __exit__(self, *exception):
        self.module.apply_rotary_pos_emb = self.original


def cached(past, layer):
    """Keys and values [batch, kv_head, token, dim] of a layer, for each of the cache classes of transformers."""
    if hasattr(past, "layers"):
        return past.layers[layer].keys, past.layers[layer].values
    if hasattr(past, "key_cache"):
        return past.key_cache[layer], past.value_cache[layer]
    return past[layer][0], past[layer][1]


def check_supported(model):
    """Refuses models whose queries or caches would not be what the dump says they are."""
    config = model.config
    if config.model_type not in SUPPORTED:
        raise ValueError(f"architecture {config.model_type!r} is not supported; expected one of {', '.join(SUPPORTED)}")
    module = sys.modules[type(model).__module__]
    if not hasattr(module, "apply_rotary_pos_emb"):
        raise ValueError(f"{module.__name__} of this version of transformers has no apply_rotary_pos_emb")
    dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    for layer, block in enumerate(model.model.layers):
        scale = getattr(block.self_attn, "scaling", dim**-0.5)
        if abs(scale * dim**0.5 - 1) > 1e-6:
            raise ValueError(f"layer {layer} scales its scores by {scale}, not by 1/sqrt({dim})")
    return module


def scaling(text):
    """Kind and factor of `--rope-scaling KIND:FACTOR`."""
    kind, _, factor = text.partition(":")
    try:
        factor = float(factor)
    except ValueError:
        factor = math.nan
    if kind not in SCALINGS or not 1 < factor < math.inf:
        raise argparse.ArgumentTypeError(
            f"{text!r} is no rescaled rotation; expected {' or '.join(f'{k}:FACTOR' for k in SCALINGS)} with a factor above 1"
        )
    return kind, factor


def rescale(config, kind, factor, tokens):
    """Rescales the rotation of a model's config for `tokens` positions; what was done, in words for the metadata.

    From version 5 on, transformers has base and scaling in `rope_parameters`; before, in `rope_theta` and `rope_scaling`.
    """
    parameters = getattr(config, "rope_parameters", None)
    described = parameters if parameters is not None else getattr(config, "rope_scaling", None) or {}
    kept = described.get("rope_type", described.get("type", "default"))
    base = described.get("rope_theta", getattr(config, "rope_theta", None))
    if kept != "default" or base is None:
        raise ValueError("--rope-scaling: the model's config has a rotation of its own, which is not replaced")
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


def next_token_losses(logits, targets):
    """Cross entropies in nats of the tokens that follow, for logits [token, word] and as many targets or one fewer."""
    import torch

    return [
        torch.nn.functional.cross_entropy(
            logits[start : min(start + LOGIT_ROWS, len(targets))].float(), targets[start : start + LOGIT_ROWS], reduction="none"
        ).cpu().numpy()
        for start in range(0, len(targets), LOGIT_ROWS)
    ]


def perplexity_by_position(losses, span=PERPLEXITY_SPAN):
    """Perplexity of each `span` positions, in words. `losses[i]` is the loss of the token at position `i + 1`."""
    losses, parts = np.asarray(losses, "f8"), []
    for start in range(0, len(losses) + 1, span):
        first, end = max(start, 1), min(start + span, len(losses) + 1)
        if first < end:
            parts.append(f"{first}..{end - 1} {np.exp(losses[first - 1 : end - 1].mean()):.2f}")
    return "; ".join(parts)


def run(model, module, ids, prefill, decode, layers, temperature, seed, chunk):
    """Prefill and decode; the queries of each decode step, the cache at the end, the losses of the prefill."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    past, queries, losses = None, {layer: [] for layer in layers}, []
    with torch.inference_mode(), RotaryTap(module) as tap:
        for start in range(0, prefill, chunk):
            end = min(start + chunk, prefill)
            out = model(ids[:, start:end], past_key_values=past, use_cache=True)
            past = out.past_key_values
            tap.queries.clear()
            losses += next_token_losses(out.logits[0], ids[0, start + 1 : end + 1])
        for step in range(decode):
            logits = out.logits[0, -1].float().cpu()
            if temperature > 0:
                token = torch.multinomial(torch.softmax(logits / temperature, -1), 1, generator=generator)
            else:
                token = logits.argmax().reshape(1)
            out = model(token.to(ids.device).reshape(1, 1), past_key_values=past, use_cache=True)
            past = out.past_key_values
            if len(tap.queries) != model.config.num_hidden_layers:
                raise ValueError(
                    f"{len(tap.queries)} rotary embeddings in step {step}; expected one for each of "
                    f"{model.config.num_hidden_layers} layers"
                )
            for layer in layers:
                queries[layer].append(tap.queries[layer])
            tap.queries.clear()
            print(f"\rdecoded {step + 1} of {decode}", end="", file=sys.stderr)
    print(file=sys.stderr)
    return queries, past, np.concatenate(losses) if losses else np.zeros(0)


def pack(keys, values, queries, layers, prefill, described):
    """Arrays and metadata of a dump.

    keys, values: one [kv_head, token, dim] array per layer; queries: one [query_head, query, dim] array per layer,
    which belong to the tokens from `prefill` on; described: further metadata.
    """
    arrays = {"k": _stack(keys), "v": _stack(values), "q": _stack(queries), "layers": np.array(layers, dtype="<i4")}
    kv_heads, tokens = arrays["k"].shape[1:3]
    query_heads, decode = arrays["q"].shape[1:3]
    if arrays["v"].shape != arrays["k"].shape:
        raise ValueError(f"values have shape {arrays['v'].shape}, keys {arrays['k'].shape}")
    if tokens != prefill + decode:
        raise ValueError(
            f"the cache holds {tokens} tokens; expected {prefill} + {decode} (a sliding window that drops tokens?)"
        )
    if query_heads % kv_heads:
        raise ValueError(f"{query_heads} query heads are not a multiple of {kv_heads} KV heads")
    metadata = {
        "prefill_len": prefill,
        "query_start": prefill,
        "positions": f"k,v 0..{tokens - 1} post-RoPE; q {prefill}..{tokens - 1}, unscaled",
        "layout": "k,v [layer,kv_head,token,dim]; q [layer,query_head,query,dim]; "
        f"query head h uses kv head h//{query_heads // kv_heads}",
    }
    return metadata | described, arrays


def _stack(parts):
    if isinstance(parts[0], kvfile.Bf16):
        return kvfile.Bf16(np.stack([part.bits for part in parts]))
    return np.stack(parts)


def to_array(tensor, dtype):
    """A torch tensor in the type of the dump."""
    import torch

    tensor = tensor.detach().cpu()
    if dtype == "bf16":
        return kvfile.Bf16(tensor.to(torch.bfloat16).contiguous().view(torch.int16).numpy().view("<u2"))
    array = tensor.float().numpy().astype("<f2" if dtype == "f16" else "<f4")
    if not np.isfinite(array).all():
        raise ValueError(f"a value does not fit {dtype}; use --dtype bf16 or f32")
    return array


def dump(args):
    try:
        import torch
        from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
    except ImportError as e:
        raise ValueError(f"{e}; pip install torch transformers") from e

    dtype = {"f16": torch.float16, "bf16": torch.bfloat16, "f32": torch.float32}[args.dtype]
    tokenizer = AutoTokenizer.from_pretrained(args.model)
    config, rotation = AutoConfig.from_pretrained(args.model), "as the model's config has it"
    if args.rope_scaling:
        rotation = rescale(config, *args.rope_scaling, args.prefill + args.decode)
    model = AutoModelForCausalLM.from_pretrained(args.model, config=config, torch_dtype=dtype).to(args.device).eval()
    module = check_supported(model)
    total = model.config.num_hidden_layers
    layers = args.layers or list(range(total))
    if layers[-1] >= total or layers[0] < 0:
        raise ValueError(f"the model has layers 0..{total - 1}, not {layers[-1]}")
    with open(args.text, encoding="utf-8") as f:
        ids = tokenizer(f.read(), return_tensors="pt").input_ids
    if ids.shape[1] < args.prefill:
        raise ValueError(f"{args.text} has {ids.shape[1]} tokens; {args.prefill} are wanted as prefill")
    ids = ids[:, : args.prefill].to(args.device)

    queries, past, losses = run(
        model, module, ids, args.prefill, args.decode, layers, args.temperature, args.seed, args.chunk
    )
    perplexity = perplexity_by_position(losses)
    print(f"perplexity by position: {perplexity or 'none, the prefill is one token'}", file=sys.stderr)
    pairs = [cached(past, layer) for layer in layers]
    metadata, arrays = pack(
        [to_array(k[0], args.dtype) for k, _ in pairs],
        [to_array(v[0], args.dtype) for _, v in pairs],
        [to_array(torch.cat(queries[layer], dim=2)[0], args.dtype) for layer in layers],
        layers,
        args.prefill,
        {
            "model": args.model,
            "text": f"{args.title or args.text}, {args.prefill} tokens prefill, then {args.decode} tokens "
            + (f"sampled at temperature {args.temperature}, seed {args.seed}" if args.temperature > 0 else "decoded greedily"),
            "licence": args.licence,
            "rope_scaling": rotation,
            "perplexity": perplexity,
        },
    )
    kvfile.write(args.output, metadata, arrays)


def main():
    parser = argparse.ArgumentParser(description="Dump the KV cache and decode queries of a causal LM.")
    parser.add_argument("--model", required=True, help="name on the Hugging Face hub, or a directory")
    parser.add_argument("--text", required=True, help="UTF-8 text file for the prefill")
    parser.add_argument("--title", help="what the text is, for the metadata (default: the file name)")
    parser.add_argument("--prefill", required=True, type=int, help="tokens of the text to prefill")
    parser.add_argument("--decode", required=True, type=int, help="tokens to generate")
    parser.add_argument("--layers", type=kvfile.number_list, help="layers to dump, as 2,9,16 or 0-3 (default: all)")
    parser.add_argument("--dtype", choices=("f16", "bf16", "f32"), default="f16", help="type to run and dump in")
    parser.add_argument("--temperature", type=float, default=0.0, help="sampling temperature; 0 decodes greedily")
    parser.add_argument("--seed", type=int, default=0, help="seed of the sampling")
    parser.add_argument(
        "--rope-scaling", type=scaling, metavar="KIND:FACTOR", help="yarn:4 or dynamic:4, for contexts beyond the model's"
    )
    parser.add_argument("--chunk", type=int, default=1024, help="prefill tokens per forward pass")
    parser.add_argument("--device", default="cpu", help="torch device")
    parser.add_argument("--licence", default="unstated", help="licences of model and text, for the metadata")
    parser.add_argument("-o", "--output", required=True, help="safetensors file to write")
    args = parser.parse_args()
    if min(args.prefill, args.decode, args.chunk) < 1:
        parser.error("--prefill, --decode and --chunk must be at least 1")
    try:
        dump(args)
    except (OSError, ValueError) as e:
        sys.exit(f"dump_kv: {e}")


if __name__ == "__main__":
    main()
