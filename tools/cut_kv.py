#!/usr/bin/env python3
"""Cuts a small sample out of a KV dump. Needs NumPy.

    python3 tools/cut_kv.py dump.safetensors sample.safetensors --layers 9,16 --sinks 64 --recent 1984 --decode 128

The sample keeps, of the chosen layers, all heads and three runs of tokens:

    the first SINKS tokens | the RECENT tokens before PREFILL_END | DECODE tokens from PREFILL_END on
    '------------- prefill of the sample ---------------------'   '-- with their queries --'

Keys keep the rotary embedding of their original position, so attention between the runs is what the model computed.
The first tokens are kept because many heads use them as attention sinks: they take a share of the softmax mass whatever
the query is about, and without them that share would go to other tokens. The tokens between the runs are left out, and
their share of the mass does go to the others.
"""

import argparse
import re
import sys

import kvfile
import numpy as np


def cut(metadata, arrays, layers, sinks, recent, decode, prefill_end=None):
    """The metadata and arrays of the sample; `prefill_end` None means the prefill length of the dump."""
    k, v = arrays["k"], arrays["v"]
    q = arrays["q"] if "q" in arrays else arrays["q_late"]
    n_layers, tokens, queries = k.shape[0], k.shape[2], q.shape[2]
    numbers = [int(n) for n in arrays.get("layers", np.arange(n_layers))]
    if prefill_end is None:
        prefill_end = int(metadata["prefill_len"])
    first_query = query_start(metadata, tokens, queries)

    missing = [n for n in layers if n not in numbers]
    if missing:
        raise ValueError(f"the dump has no layer {missing[0]}; it has {numbers}")
    if decode < 1:
        raise ValueError("at least one decode token is needed")
    if recent < 0 or sinks < 0 or sinks + recent < 1 or prefill_end - recent < sinks:
        raise ValueError(f"{sinks} sinks and {recent} recent tokens do not fit the {prefill_end} tokens before the cut")
    if not first_query <= prefill_end <= first_query + queries - decode:
        raise ValueError(
            f"{decode} queries from token {prefill_end} on are wanted, but the dump has those of tokens "
            f"{first_query}..{first_query + queries - 1}"
        )

    pick = [numbers.index(n) for n in layers]
    kept = np.r_[0:sinks, prefill_end - recent : prefill_end + decode]
    first = prefill_end - first_query
    prefill = sinks + recent
    new_arrays = {
        "k": k[pick][:, :, kept],
        "v": v[pick][:, :, kept],
        "q": q[pick][:, :, first : first + decode],
        "layers": np.array(layers, dtype="<i4"),
    }
    new_metadata = dict(metadata)
    new_metadata.pop("layout", None)
    new_metadata |= {
        "prefill_len": prefill,
        "query_start": prefill,
        "positions": f"k,v 0..{prefill + decode - 1} post-RoPE; q {prefill}..{prefill + decode - 1}, unscaled",
        "source_positions": f"{runs(kept)} of {tokens} tokens; queries {prefill_end}..{prefill_end + decode - 1}",
    }
    return new_metadata, new_arrays


def query_start(metadata, tokens, queries):
    """The token of the first query, by the rules of crates/kv/src/parts.rs."""
    if "query_start" in metadata:
        return int(metadata["query_start"])
    for clause in metadata.get("positions", "").split(";"):
        found = re.search(r"\bq(?:_late)?\b\D*?(\d+)\.\.(\d+)", clause)
        if found:
            first, last = map(int, found.groups())
            if last - first + 1 != queries:
                raise ValueError(f"the metadata place {last - first + 1} queries, but there are {queries}")
            return first
    return tokens - queries


def runs(positions):
    """Ascending positions as `a..b,c..d`, both ends inclusive."""
    breaks = np.flatnonzero(np.diff(positions) != 1) + 1
    return ",".join(f"{part[0]}..{part[-1]}" for part in np.split(positions, breaks))


def main():
    parser = argparse.ArgumentParser(description="Cut a small sample out of a KV dump.")
    parser.add_argument("dump")
    parser.add_argument("sample")
    parser.add_argument("--layers", required=True, type=kvfile.number_list, help="model layer numbers, as 9,16 or 0-3")
    parser.add_argument("--sinks", type=int, default=64, help="first tokens to keep (default 64)")
    parser.add_argument("--recent", type=int, default=1984, help="prefill tokens to keep before the cut (default 1984)")
    parser.add_argument("--decode", type=int, default=128, help="decode tokens to keep (default 128)")
    parser.add_argument("--prefill-end", type=int, help="token at which decoding begins (default: as in the dump)")
    parser.add_argument("--text", help="text field of the sample's metadata (default: as in the dump)")
    parser.add_argument("--licence", help="licence field of the sample's metadata")
    parser.add_argument("--attribution", help="attribution field of the sample's metadata")
    args = parser.parse_args()
    try:
        metadata, arrays = kvfile.read(args.dump)
        metadata, arrays = cut(
            metadata, arrays, args.layers, args.sinks, args.recent, args.decode, args.prefill_end
        )
        for name in ("text", "licence", "attribution"):
            if getattr(args, name):
                metadata[name] = getattr(args, name)
        kvfile.write(args.sample, metadata, arrays)
    except (OSError, KeyError, ValueError) as e:
        sys.exit(f"cut_kv: {e}")


if __name__ == "__main__":
    main()
