#!/usr/bin/env python3
"""Holds a timeline (pimsim run --timeline F.json) against the rules of Chrome's trace events, and against the run's tables.

    python tools/check_timeline.py F.json [DIR]

Of the file: slices of a thread nest, none is left open, time never goes back in a thread; each arrow that ends has begun,
within a slice; counters are numbers; every process and thread has a name. Of DIR, which `pimsim run -o DIR` wrote for the same
run: cycles of steps and heads add up to steps.csv and heads.csv, those of waiting and each phase to phases.csv. Needs Python alone.
"""

import collections
import csv
import fractions
import gzip
import json
import sys


def fail(what):
    sys.exit(f"check_timeline: {what}")


def slices(events):
    """(names of the slices it is in, arguments, begin, end) of each slice; refuses what does not nest."""
    stacks, at, done, flows = collections.defaultdict(list), {}, [], {}
    for e in events:
        if e["ph"] in "MC":
            continue
        track, ts = (e["pid"], e["tid"]), e["ts"]
        if ts < at.get(track, 0):
            fail(f"{e}: time goes back on its track")
        at[track], stack = ts, stacks[track]
        if e["ph"] == "B":
            stack.append(e)
        elif e["ph"] == "E":
            if not stack:
                fail(f"{e}: ends nothing")
            begun = stack.pop()
            names = [*(s["name"] for s in stack), begun["name"]]
            args = {**begun["args"], **e["args"]}
            kinds = {s["cat"]: s["args"] for s in [*stack, begun]}
            done.append((track, begun["cat"], names, args, kinds, begun["ts"], ts))
        elif e["ph"] in "stf":
            if not stack:
                fail(f"{e}: an arrow outside of any slice")
            known = flows.get(e["id"])
            if (e["ph"] == "s") != (known is None) or known == "f":
                fail(f"{e}: an arrow after {known}")
            flows[e["id"]] = e["ph"]
        else:
            fail(f"{e}: not an event of ours")
    for track, stack in stacks.items():
        if stack:
            fail(f"{track}: {stack[-1]} is left open")
    return done, flows


def check_times(events, done, clock_ps):
    """Every length is its cycles of the clock, to the picosecond; children fill no more than their parent."""
    for _, _, names, args, _, begin, end in done:
        if (end - begin) * 1000000 != args["cycles"] * clock_ps:
            fail(f"{names}: {end - begin} us are not {args['cycles']} cycles of {clock_ps} ps")
    named = {(e["name"], e["pid"], e.get("tid")) for e in events if e["ph"] == "M"}
    for e in events:
        if e["ph"] != "M" and ("process_name", e["pid"], None) not in named:
            fail(f"{e}: its process has no name")
        if e["ph"] in "BE" and ("thread_name", e["pid"], e["tid"]) not in named:
            fail(f"{e}: its thread has no name")
        if e["ph"] == "C" and not all(isinstance(v, (int, fractions.Fraction)) for v in e["args"].values()):
            fail(f"{e}: a counter that is no number")


def rows(folder, name):
    with open(f"{folder}/{name}") as f:
        return list(csv.DictReader(f))


def share_out(parts, total):
    """Whole numbers in the ratio of parts that add up to total: largest remainder, the first on a tie."""
    whole = sum(parts)
    if whole == 0:
        return [0] * len(parts)
    out = [p * total // whole for p in parts]
    by_loss = sorted(range(len(parts)), key=lambda i: -(parts[i] * total % whole))
    for i in by_loss[: total - sum(out)]:
        out[i] += 1
    return out


def check_tables(done, channels, folder):
    """The cycles of the slices are those of the tables."""
    steps, parts, heads = collections.Counter(), collections.Counter(), collections.Counter()
    for _, kind, names, args, kinds, _, _ in done:
        if kind == "step":
            steps[args["step"]] += args["cycles"]
        elif kind in ("phase", "wait") and "step" in kinds:
            parts[kinds["step"]["step"], names[-1]] += args["cycles"]
        elif kind == "head":
            heads[args["request"], args["layer"], args["kv_head"]] += args["cycles"]
    spent, cycles_of = 0, {}
    for row in rows(folder, "steps.csv"):
        step = int(row["step"])
        before, spent = spent // channels, spent + steps[step]
        cycles_of[step] = spent // channels - before
        if cycles_of[step] != int(row["cycles"]):
            fail(f"step {step}: {cycles_of[step]} cycles, not {row['cycles']}")
    phases = collections.defaultdict(list)
    for row in rows(folder, "phases.csv"):
        phases[int(row["step"])].append((row["phase"], int(row["cycles"])))
    for step, of_step in phases.items():
        got = share_out([parts[step, phase] for phase, _ in of_step], cycles_of[step])
        if got != [cycles for _, cycles in of_step]:
            fail(f"step {step}: {got} cycles by phase, not {of_step}")
    for row in rows(folder, "heads.csv"):
        head = tuple(int(row[key]) for key in ("request", "layer", "kv_head"))
        if heads[head] != int(row["cycles"]):
            fail(f"head {head}: {heads[head]} cycles, not {row['cycles']}")
    return len(steps), len(heads)


def main():
    if len(sys.argv) not in (2, 3):
        sys.exit(__doc__)
    opened = gzip.open if sys.argv[1].endswith(".gz") else open
    with opened(sys.argv[1], "rt") as f:
        trace = json.load(f, parse_float=fractions.Fraction)
    events = trace["traceEvents"]
    done, flows = slices(events)
    check_times(events, done, int(trace["otherData"]["clock_ps"]))
    kinds = collections.Counter(kind for _, kind, *_ in done)
    print(f"{len(events)} events: " + ", ".join(f"{n} {kind}" for kind, n in sorted(kinds.items())))
    print(f"{len(flows)} arrows, {sum(kind == 'f' for kind in flows.values())} of them end in attention")
    if len(sys.argv) == 3:
        threads = sum(e["ph"] == "M" and e["name"] == "thread_name" for e in events)
        steps, heads = check_tables(done, threads, sys.argv[2])
        print(f"{steps} steps and {heads} heads have the cycles of the tables")


if __name__ == "__main__":
    main()
