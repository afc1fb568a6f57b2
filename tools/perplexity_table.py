#!/usr/bin/env python3
"""Perplexity of a model under every policy and budget, beside the time and energy of its attention on HBM-PIM.

Needs the wheel with its extra hf (pip install 'pimattn[hf]'), and gguf for weights in a GGUF file.

    python3 tools/perplexity_table.py --model DIR --gguf FILE --text book.txt --prefill 2048 --decode 256 -o perplexity.csv

The tokens from PREFILL on are decoded one by one, each given those of the text before it (teacher forcing). loss_change is the
mean change of their cross entropy against the model's own attention, in nats, loss_change_se its standard error over the tokens.
Time and energy are those of a decode step's attention in a recording of the same tokens, over its layers. A policy that refuses a
budget has no row for it.
"""

from __future__ import annotations

import argparse
import csv
import sys
from pathlib import Path

import numpy as np
import pimattn

HEADER = ("policy", "budget", "perplexity", "loss_change", "loss_change_se", "output_rel_err", "time_ns", "energy_pj")


def loaded(args):
    """The model in f32 and the first tokens of the text."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    where = {"gguf_file": args.gguf} if args.gguf else {}
    model = AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.float32, **where).to(args.device).eval()
    text = "\n".join(Path(path).read_text(encoding="utf-8") for path in args.text)
    ids = AutoTokenizer.from_pretrained(args.model, **where)(text, return_tensors="pt").input_ids[0]
    if len(ids) < args.prefill + args.decode:
        raise ValueError(f"the text has {len(ids)} tokens; {args.prefill + args.decode} are wanted")
    return model, ids[: args.prefill + args.decode]


def costs(model, ids, args):
    """Time (ns), energy (pJ) and output error of a decode step by (policy, budget), on a recording of the same tokens."""
    with pimattn.record(model, args.layers, prefill=args.prefill, element_bytes=2) as rec:
        rec.feed(ids)
    kv, found = rec.cache, {}
    for policy in args.policies:
        budgets = [budget for budget in args.budgets if accepts(model, policy, budget)]
        if budgets:
            table = pimattn.sweep(kv, [policy], budgets, args.system, {"dense_layers": args.dense_layers})
            found |= {(policy, row["budget"]): row for row in map(table.row, range(len(table)))}
    return found


def accepts(model, policy, budget):
    """Whether a policy takes a budget; says so if not."""
    try:
        pimattn.attach(model, policy, budget)
    except pimattn.ConfigError as e:
        print(f"{policy} {budget}: left out, {e}", file=sys.stderr)
        return False
    return True


def losses(model, ids, args, policy, budget):
    options = {"dense_layers": args.dense_layers}
    if policy == "full":
        return pimattn.token_losses(model, ids, args.prefill)
    return pimattn.token_losses(model, ids, args.prefill, policy, budget, **options)


def rows(model, ids, args):
    """A row per policy and budget; `full` has one."""
    cost = costs(model, ids, args)
    plain = losses(model, ids, args, "full", None)
    for policy in args.policies:
        budgets = [budget for budget in args.budgets if (policy, budget) in cost]
        for budget in budgets[:1] if policy == "full" else budgets:
            own = plain if policy == "full" else losses(model, ids, args, policy, budget)
            change = (own - plain).astype("f8")
            run = cost[policy, budget]
            yield {
                "policy": policy,
                "budget": "" if policy == "full" else budget,
                "perplexity": f"{np.exp(own.mean()):.3f}",
                "loss_change": f"{change.mean():.4f}",
                "loss_change_se": f"{change.std(ddof=1) / len(change) ** 0.5:.4f}",
                "output_rel_err": f"{run['output_rel_err']:.4f}" if run["output_rel_err"] is not None else "",
                "time_ns": f"{run['time_ns'] / run['steps']:.0f}",
                "energy_pj": f"{run['energy_pj'] / run['steps']:.0f}",
            }
            print(f"{policy} {budget}: perplexity {np.exp(own.mean()):.3f}", file=sys.stderr, flush=True)


def main():
    parser = argparse.ArgumentParser(description="Perplexity, time and energy of every policy and budget.")
    parser.add_argument("--model", required=True, help="name on the Hugging Face hub, or a directory")
    parser.add_argument("--gguf", help="weights in a GGUF file of that directory")
    parser.add_argument("--text", required=True, nargs="+", help="UTF-8 text files, one after the other")
    parser.add_argument("--prefill", type=int, default=2048, help="tokens computed in full (default 2048)")
    parser.add_argument("--decode", type=int, default=256, help="tokens decoded under the policy (default 256)")
    parser.add_argument("--policies", nargs="+", default=sorted(pimattn.policies()), help="default: all")
    parser.add_argument("--budgets", nargs="+", type=int, default=[64, 128, 256, 512, 1024])
    parser.add_argument("--layers", nargs="+", type=int, help="layers to record for time and energy (default: all)")
    parser.add_argument("--dense-layers", type=int, default=2, help="first layers that attend to all tokens (default 2)")
    parser.add_argument("--system", default="hbm3-pim")
    parser.add_argument("--device", default="cpu", help="torch device")
    parser.add_argument("-o", "--output", required=True, help="CSV file to write")
    args = parser.parse_args()
    try:
        model, ids = loaded(args)
        with open(args.output, "w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, HEADER, lineterminator="\n")
            writer.writeheader()
            for row in rows(model, ids, args):
                writer.writerow(row)
                file.flush()
    except (ImportError, OSError, RuntimeError, ValueError) as e:
        sys.exit(f"perplexity_table: {e}")


if __name__ == "__main__":
    main()
