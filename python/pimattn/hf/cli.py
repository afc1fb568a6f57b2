"""`pimattn-record`: writes the KV cache of a Hugging Face model on a text as a dump, from the shell."""

from __future__ import annotations

import argparse
import hashlib
import math
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from .rotation import SCALINGS

if TYPE_CHECKING:
    import numpy as np
    import torch

    from .record import Recorder

DESCRIPTION = """\
Writes the KV cache and the queries of a Hugging Face causal language model as a safetensors dump.

The first PREFILL tokens of the text are fed in chunks. Then DECODE tokens are decoded one by one: greedily, sampled with
--temperature, or as the text goes on with --follow-text. The dump holds, for the chosen layers,

    k, v    [layer, kv_head, token, dim]    after RoPE, tokens 0..PREFILL+DECODE-1
    q       [layer, query_head, query, dim] after RoPE, of the last tokens of the prefill and of each decode step
    layers  [layer]                         layer numbers in the model

Query head h attends with KV head h // (query heads / KV heads). Scores are q.k/sqrt(dim): where a model has another scale, q
holds the difference, and the metadata say so.

A model that is fed more tokens than it was trained for needs its rotation rescaled: --rope-scaling yarn:4 is YaRN for four
times the trained length, --rope-scaling dynamic:4 dynamic NTK with the base of PREFILL+DECODE tokens. Whether the model still
works shows in the perplexity of the prefill, which is printed and kept in the metadata for each 2,048 positions.
"""


def main(arguments: Sequence[str] | None = None) -> None:
    """The program; ends with a message and exit code 1 where the model, the text or a file is not as expected."""
    parser = _parser()
    args = parser.parse_args(arguments)
    if min(args.prefill, args.decode, args.chunk) < 1:
        parser.error("--prefill, --decode and --chunk must be at least 1")
    if args.prefill_queries < 0:
        parser.error("--prefill-queries must be at least 0")
    try:
        _dump(args)
    except (ImportError, OSError, RuntimeError, ValueError) as e:
        sys.exit(f"pimattn-record: {e}")


def number_list(text: str) -> list[int]:
    """`2,9,16` or `0-3,7` as an ascending list of numbers."""
    numbers: set[int] = set()
    for part in text.split(","):
        first, _, last = part.partition("-")
        numbers.update(range(int(first), int(last or first) + 1))
    if not numbers:
        raise ValueError("empty list")
    return sorted(numbers)


def scaling(text: str) -> tuple[str, float]:
    """Kind and factor of `--rope-scaling KIND:FACTOR`."""
    kind, _, number = text.partition(":")
    try:
        factor = float(number)
    except ValueError:
        factor = math.nan
    if kind not in SCALINGS or not 1 < factor < math.inf:
        expected = " or ".join(f"{kind}:FACTOR" for kind in SCALINGS)
        raise argparse.ArgumentTypeError(f"{text!r} is no rescaled rotation; expected {expected} with a factor above 1")
    return kind, factor


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="pimattn-record", description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--model", required=True, help="name on the Hugging Face hub, or a directory")
    add("--gguf", metavar="FILE", help="weights in a GGUF file of that name or directory (needs the package gguf)")
    add("--text", required=True, help="UTF-8 text file for the prefill")
    add("--title", help="what the text is, for the metadata (default: the file name)")
    add("--prefill", required=True, type=int, help="tokens of the text to prefill")
    add("--decode", required=True, type=int, help="tokens to decode")
    add("--prefill-queries", type=int, default=256, help="last queries of the prefill to keep (default 256)")
    add("--layers", type=number_list, help="layers to dump, as 2,9,16 or 0-3 (default: those that attend to all tokens)")
    add("--dtype", choices=("f16", "bf16", "f32"), help="type to run and dump in (default: the model's own)")
    add("--temperature", type=float, default=0.0, help="sampling temperature; 0 decodes greedily")
    add("--follow-text", action="store_true", help="decode the tokens of the text, whatever the model would choose")
    add("--seed", type=int, default=0, help="seed of the sampling")
    add("--rope-scaling", type=scaling, metavar="KIND:FACTOR", help="yarn:4 or dynamic:4, for contexts beyond the model's")
    add("--chunk", type=int, default=1024, help="prefill tokens per forward pass (default 1024)")
    add("--memory-gib", type=float, default=4.0, help="memory for the recording; the rest goes to temporary files (default 4)")
    add("--device", default="cpu", help="torch device")
    add("--licence", default="unstated", help="licences of model and text, for the metadata")
    add("-o", "--output", required=True, help="safetensors file to write")
    return parser


def _dump(args: argparse.Namespace) -> None:
    try:
        from transformers import AutoConfig, AutoTokenizer
    except ImportError as e:
        raise ImportError(f"{e}; pip install torch transformers") from e
    from .architectures import examine
    from .losses import perplexity_by_position
    from .record import record
    from .rotation import described, rescale

    where = {"gguf_file": args.gguf} if args.gguf else {}
    config = AutoConfig.from_pretrained(args.model, **where)
    examine(config).chosen(args.layers)
    rotation = rescale(config, *args.rope_scaling, args.prefill + args.decode) if args.rope_scaling else described(config)
    with open(args.text, encoding="utf-8") as file:
        text = file.read()
    ids = AutoTokenizer.from_pretrained(args.model, **where)(text, return_tensors="pt").input_ids[0]
    wanted = args.prefill + (args.decode if args.follow_text else 0)
    if len(ids) < wanted:
        raise ValueError(f"{args.text} has {len(ids)} tokens; {wanted} are wanted")
    model = _model(args, config, where)
    recorder = record(
        model, args.layers, args.prefill_queries, prefill=args.prefill, memory_bytes=int(args.memory_gib * (1 << 30))
    )
    with recorder:
        losses = _run(model, ids[:wanted], args)
    perplexity = perplexity_by_position(losses)
    print(f"perplexity by position: {perplexity or 'none, the prefill is one token'}", file=sys.stderr)
    _save(recorder, args, text, rotation, perplexity)


def _save(recorder: Recorder, args: argparse.Namespace, text: str, rotation: str, perplexity: str) -> None:
    if args.follow_text:
        how = "as it goes on"
    elif args.temperature > 0:
        how = f"sampled at temperature {args.temperature}, seed {args.seed}"
    else:
        how = "decoded greedily"
    recorder.save(
        args.output,
        model=args.model,
        text=f"{args.title or args.text}, {args.prefill} tokens prefill, then {args.decode} tokens {how}",
        text_sha256=hashlib.sha256(text.encode()).hexdigest(),
        licence=args.licence,
        rope_scaling=rotation,
        perplexity=perplexity,
    )


def _model(args: argparse.Namespace, config: Any, where: dict[str, str]) -> Any:
    """The model, in the type that is wanted, on its device."""
    import torch
    from transformers import AutoModelForCausalLM

    types = {"f16": torch.float16, "bf16": torch.bfloat16, "f32": torch.float32, None: "auto"}
    model = AutoModelForCausalLM.from_pretrained(args.model, config=config, dtype=types[args.dtype], **where)
    return model.to(args.device).eval()


def _run(model: Any, ids: torch.Tensor, args: argparse.Namespace) -> np.ndarray:
    """Feeds the prefill and decodes; the losses [token] of the prefill, from its second token on."""
    import numpy as np
    import torch

    from .losses import next_token_losses
    from .stream import Stream, parts

    stream, losses = Stream(model), []
    for part in parts(ids[: args.prefill], args.chunk):
        logits = stream.feed(part)
        targets = ids[stream.tokens - len(part) + 1 : min(stream.tokens + 1, args.prefill)]
        losses.append(next_token_losses(logits, targets))
    generator = torch.Generator().manual_seed(args.seed)
    for step in range(args.decode):
        last = logits[-1].float().cpu()
        if args.follow_text:
            token = ids[stream.tokens].reshape(1)
        elif args.temperature > 0:
            token = torch.multinomial(torch.softmax(last / args.temperature, -1), 1, generator=generator)
        else:
            token = last.argmax().reshape(1)
        logits = stream.feed(token, last=1)
        print(f"\rdecoded {step + 1} of {args.decode}", end="", file=sys.stderr)
    print(file=sys.stderr)
    return np.concatenate(losses)


if __name__ == "__main__":
    main()
