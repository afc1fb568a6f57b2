#!/usr/bin/env python3
"""What policies select on a KV cache, against their definitions written once more in NumPy, token by token.

    cargo build --release --example selected_tokens
    python3 tools/check_policies.py target/release/examples/selected_tokens [--kv DUMP] [--budgets 128,256] [--every 16]

Needs numpy. The definitions are those of docs/model.md, in double precision; a selection may differ from them in a tie or in
the last bit of a score, so that the shares printed are of equal selections and of equal tokens. Exit code 1 when fewer than
99 % of a policy's selections are equal.
"""

import argparse
import subprocess
import sys
from pathlib import Path

import kvfile
import numpy as np

SAMPLE = Path(__file__).resolve().parent.parent / "traces/smollm2-135m-rustbook-cut.safetensors"


class Cache:
    """A dump: keys and queries, and what position the first query has."""

    def __init__(self, path):
        metadata, arrays = kvfile.read(path)
        self.k = arrays["k"].astype(float)
        self.q = arrays["q" if "q" in arrays else "q_late"].astype(float)
        self.layers = [int(n) for n in arrays["layers"]]
        self.prefill = int(metadata["prefill_len"])
        self.tokens, self.dim = self.k.shape[2:]
        self.group = self.q.shape[1] // self.k.shape[1]
        self.start = int(metadata.get("query_start", self.tokens - self.q.shape[2]))


def best(scores, count):
    """Indices of the highest scores, the earlier one of equal scores."""
    return np.lexsort((np.arange(len(scores)), -scores))[:count]


def quest(cache, layer, kv_head, queries, length, budget):
    keys = cache.k[layer, kv_head, :length]
    ranked = (length - 1) // 16
    pages = keys[: ranked * 16].reshape(ranked, 16, -1)
    for q in queries:
        bound = np.maximum(q * pages.min(1), q * pages.max(1)).sum(1)
        chosen = best(bound, max(budget // 16, 3) - 1)
        yield set((chosen[:, None] * 16 + np.arange(16)).ravel()) | set(range(ranked * 16, length))


def sparq(per):
    def select(cache, layer, kv_head, queries, length, budget):
        keys = cache.k[layer, kv_head, :length]
        dims = best(np.abs(queries).sum(0), 16)
        few = queries[:, dims]
        scale = np.sqrt(cache.dim * np.abs(few).sum(1) / np.abs(queries).sum(1))
        scores = few @ keys[:, dims].T / scale[:, None]
        if per == "group":
            scores[:] = scores.sum(0)
        for of_head in scores:
            yield set(best(of_head[: length - 16], budget - 16)) | set(range(length - 16, length))

    return select


def infinigen(mean="layer", fill=False, rotation="head", alpha=5.0):
    columns = {}

    def rotate(cache, layer, head):
        """The kept columns of a query head's rotation, and its keys in them."""
        if (layer, head) not in columns:
            group = range(head, head + 1)
            if rotation == "group":
                group = range(head // cache.group * cache.group, (head // cache.group + 1) * cache.group)
            source = np.concatenate([cache.q[layer, h, : max(cache.prefill - cache.start, 0)] for h in group])
            if not len(source):
                source = cache.k[layer, head // cache.group, : cache.prefill]
            _, vectors = np.linalg.eigh(source.T @ source)
            kept = vectors[:, best(np.abs(source @ vectors).sum(0), int(cache.dim * 0.2))]
            columns[layer, head] = kept, cache.k[layer, head // cache.group] @ kept
        return columns[layer, head]

    def scores(cache, layer, head, length):
        kept, keys = rotate(cache, layer, head)
        query = cache.q[layer, head, length - 1 - cache.start]
        return keys[:length] @ (query @ kept) / np.sqrt(cache.dim)

    def select(cache, layer, kv_head, queries, length, budget):
        group = range(kv_head * cache.group, (kv_head + 1) * cache.group)
        heads = range(cache.q.shape[1]) if mean == "layer" else group
        count = budget
        if not fill:
            near = [int((s > s.max() - alpha).sum()) for s in (scores(cache, layer, h, length) for h in heads)]
            count = min(budget, sum(near) // len(near))
        for head in group:
            yield set(best(scores(cache, layer, head, length), count))

    return select


def h2o():
    state = {}

    def attend(cache, layer, head, position, kept):
        scores = cache.k[layer, head // cache.group, kept] @ cache.q[layer, head, position - cache.start]
        weights = np.exp((scores - scores.max()) / np.sqrt(cache.dim))
        return weights / weights.sum()

    def select(cache, layer, kv_head, queries, length, budget):
        for head in range(kv_head * cache.group, (kv_head + 1) * cache.group):
            if (layer, head) not in state:
                sums = np.zeros(cache.prefill)
                for position in range(cache.start, cache.prefill):
                    sums[: position + 1] += attend(cache, layer, head, position, np.arange(position + 1))
                state[layer, head] = np.arange(cache.prefill), sums
            kept, sums = state[layer, head]
            kept, sums = np.append(kept, length - 1), np.append(sums, 0.0)
            if len(kept) > budget:
                recent = budget - budget // 2
                order = np.sort(best(sums[:-recent], budget // 2))
                order = np.append(order, np.arange(len(kept) - recent, len(kept)))
                kept, sums = kept[order], sums[order]
            sums = sums + attend(cache, layer, head, length - 1, kept)
            state[layer, head] = kept, sums
            yield set(kept)

    select.every_step = True
    return select


def streaming(cache, layer, kv_head, queries, length, budget):
    for _ in queries:
        yield set(range(4)) | set(range(length - budget + 4, length))


def kmeans(keys, clusters, iterations, raw):
    """Labels and centroids; `raw`: of keys as they are, compared by direction."""
    unit = keys / np.linalg.norm(keys, axis=1, keepdims=True)
    centroids, means = unit[:clusters], None
    for _ in range(iterations):
        squares = np.ones(clusters) if raw else (centroids**2).sum(1)
        labels = (squares - 2 * unit @ centroids.T).argmin(1)
        rows = keys if raw else unit
        means = np.array([rows[labels == c].mean(0) if (labels == c).any() else np.zeros(keys.shape[1]) for c in range(clusters)])
        lengths = np.linalg.norm(means, axis=1, keepdims=True)
        new = means / np.where(lengths > 0, lengths, 1) if raw else means
        old, centroids = centroids, new
        if (np.abs(new - old) <= 1e-4 + 1e-5 * np.abs(old)).all():
            break
    return labels, means


class Clusters:
    """Groups of tokens that are clustered one after the other."""

    def __init__(self, raw=False, iterations=16):
        self.raw, self.iterations, self.members, self.centroids, self.end = raw, iterations, [], [], 0

    def add(self, keys, end, clusters):
        labels, means = kmeans(keys[self.end : end], clusters, self.iterations, self.raw)
        for c in range(clusters):
            if (labels == c).any():
                self.members.append(np.flatnonzero(labels == c) + self.end)
                self.centroids.append(means[c])
        self.end = end

    def take(self, query, room):
        taken = []
        for cluster in best(np.array(self.centroids) @ query, len(self.centroids)):
            taken.extend(self.members[cluster][: room - len(taken)])
        return set(taken)


def starc(artifact=False):
    state = {}

    def select(cache, layer, kv_head, queries, length, budget):
        keys, c = cache.k[layer, kv_head], state.setdefault((layer, kv_head), Clusters())
        if artifact and c.end <= cache.prefill:
            while c.end + 64 <= cache.prefill + 1:
                c.add(keys, c.end + 64, 4)
            if c.end <= cache.prefill:
                c.add(keys, cache.prefill + 1, -(-(cache.prefill + 1 - c.end) // 16))
        while c.end + 64 <= length:
            c.add(keys, c.end + 64, 4)
        for q in queries:
            yield set(range(c.end, length)) | c.take(q, budget - (length - c.end))

    select.every_step = True
    return select


def clusterkv():
    state = {}

    def select(cache, layer, kv_head, queries, length, budget):
        keys = cache.k[layer, kv_head]
        if (layer, kv_head) not in state:
            c = state[layer, kv_head] = Clusters(raw=True, iterations=20)
            c.end = 16
            c.add(keys, cache.prefill, cache.prefill // 80)
        c = state[layer, kv_head]
        while c.end + 320 < length:
            c.add(keys, c.end + 320, 8)
        for q in queries:
            yield set(range(16)) | c.take(q, budget - 16) | set(range(c.end, length))

    select.every_step = True
    return select


# A line each: the policy, its keys where they are not the default, the definition.
CASES = [
    ("streaming", [], lambda: streaming),
    ("quest", [], lambda: quest),
    ("sparq", [], lambda: sparq("group")),
    ("sparq", ['per="head"'], lambda: sparq("head")),
    ("infinigen", [], infinigen),
    ("infinigen-filled", [], lambda: infinigen(fill=True)),
    ("infinigen", ['rotation="group"', 'mean="group"', "alpha=4.0"], lambda: infinigen("group", False, "group", 4.0)),
    ("h2o", [], h2o),
    ("clusterkv", ['start="first"'], clusterkv),
    ("starc", [], starc),
    ("starc", ['tail="permanent"', "phase=1"], lambda: starc(artifact=True)),
]


def ours(program, name, budget, every, keys, kv):
    out = subprocess.run(
        [program, name, str(budget), str(every), *keys, "--kv", str(kv)], check=True, capture_output=True, text=True
    ).stdout
    for line in out.splitlines():
        layer, head, position, tokens = line.split(",")
        yield (int(layer), int(head), int(position)), {int(t) for t in tokens.split()}


def compare(program, cache, case, budget, every, kv):
    """Selections, how many are equal, and the share of the definition's tokens that are ours, too."""
    name, keys, make = case
    select, found = make(), dict(ours(program, name, budget, every, keys, kv))
    count = equal = 0
    share = 0.0
    for layer, number in enumerate(cache.layers):
        for position in range(cache.prefill, cache.tokens):
            shown = (position - cache.prefill) % every == 0
            if not shown and not getattr(select, "every_step", False):
                continue
            for kv_head in range(cache.k.shape[1]):
                heads = range(kv_head * cache.group, (kv_head + 1) * cache.group)
                queries = np.array([cache.q[layer, h, position - cache.start] for h in heads])
                for head, tokens in zip(heads, select(cache, layer, kv_head, queries, position + 1, budget)):
                    if shown:
                        got = found.pop((number, head, position))
                        count, equal = count + 1, equal + (got == tokens)
                        share += len(got & tokens) / len(tokens)
    if found:
        sys.exit(f"{name}: {len(found)} selections that no step accounts for")
    return count, equal, share / count


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program", help="the example selected_tokens, built")
    parser.add_argument("--kv", default=SAMPLE, help="a dump (safetensors); the bundled sample")
    parser.add_argument("--budgets", type=kvfile.number_list, default=[128, 512])
    parser.add_argument("--every", type=int, default=16, help="of so many decode steps one is compared")
    arguments = parser.parse_args()
    cache, failed = Cache(arguments.kv), False
    for case in CASES:
        for budget in arguments.budgets:
            count, equal, share = compare(arguments.program, cache, case, budget, arguments.every, arguments.kv)
            failed |= equal < 0.99 * count
            print(f"{case[0]} {' '.join(case[1])} {budget}: {equal} of {count} equal, tokens {share:.6f}", flush=True)
    sys.exit(failed)


if __name__ == "__main__":
    main()
