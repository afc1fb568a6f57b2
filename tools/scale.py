#!/usr/bin/env python3
"""Time and memory of the programs against the size of their work, by the operating system's own accounting.

    tools/scale.py --bin target/release -o out/scale.csv [--most 1e7] [--longest 131072] [--stacks 40] [--repeat 1]

A row is a program on a size: seconds of wall clock and of processor time, and peak resident memory. Series:

- requests: AttAcc's schedule (tracegen attacc), one step to many: a trace of runs of one; written, replayed from a
  ptrace file, and as text from a pipe. `--most 1e9` takes the time that 1e9 requests take, and 1 GB of disk.
- context: one layer of one KV head and 4 query heads of 128 dimensions, 2 decode steps, a budget of 1,024 tokens;
  generated, replayed, and both in one process (a sweep of one point). `--longest 1048576` needs 4 GB of memory.
- heads: KV heads of the same at 4,096 tokens, on the 16 channels of a stack.
- channels: 64 such heads on 1 to 64 channels.
- stacks: 16 channels and 16 heads of AttAcc's schedule each.

Prints, for each series and program, the exponent of its growth between the two largest sizes (1 is linear; what grows
by less than a fixed part is below), and ends with exit code 1 where time or memory grow faster than linear. Needs the
standard library only. With GNU time in /usr/bin/time the peak is the program's; without, it is at least Python's own.
"""

import argparse
import csv
import math
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
GNU_TIME = Path("/usr/bin/time")
COLUMNS = ["series", "size", "unit", "program", "requests", "wall_s", "cpu_s", "peak_mib", "requests_per_cpu_s"]
# Growth that is called linear: what is measured has noise, and caches of the processor end somewhere.
LINEAR = 1.25
# Shorter and smaller work says nothing of growth.
LEAST_SECONDS, LEAST_MIB = 0.2, 20.0

WORKLOAD = """
name = "scale"
system = "{system}"
policy = "full"
budget = 1024
dense_layers = 0
seed = 1
[synthetic]
layers = 1
kv_heads = 1
query_heads = 4
dim = 128
prefill = 4096
decode_steps = 2
[mapping]
addressing = "bank-group"
layout = "row-block"
align = "none"
values = "stripe"
skip_columns = true
[metrics]
row_block = 16
units = 16
"""


class Bench:
    def __init__(self, args, scratch):
        self.args, self.scratch = args, scratch
        self.system = ROOT / "configs/system/hbm3-pim.toml"
        self.workload = scratch / "workload.toml"
        self.workload.write_text(WORKLOAD.format(system=self.system))
        self.rows = []

    def program(self, name):
        return str(Path(self.args.bin) / name)

    def measure(self, command, stdin=None):
        """Runs a command: wall clock, processor time, peak MiB, standard output. The least of the repetitions."""
        best = None
        for _ in range(self.args.repeat):
            report = self.scratch / "time"
            full = command
            if GNU_TIME.exists():
                full = [str(GNU_TIME), "-f", "%M", "-o", str(report), *command]
            began = time.monotonic()
            with tempfile.TemporaryFile() as out:
                feed = subprocess.Popen(stdin, stdout=subprocess.PIPE) if stdin else None
                process = subprocess.Popen(full, stdin=feed.stdout if feed else None, stdout=out)
                if feed:
                    feed.stdout.close()
                _, status, usage = os.wait4(process.pid, 0)
                process.returncode = os.waitstatus_to_exitcode(status)
                if feed and feed.wait():
                    raise SystemExit(f"{' '.join(stdin)}: exit code {feed.returncode}")
                wall = time.monotonic() - began
                out.seek(0)
                text = out.read().decode()
            if process.returncode:
                raise SystemExit(f"{' '.join(command)}: exit code {process.returncode}")
            cpu, peak = usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024
            if GNU_TIME.exists():
                peak = int(report.read_text().split()[-1]) / 1024
            if best is None or cpu < best[1]:
                best = (wall, cpu, peak, text)
        return best

    def add(self, series, size, unit, program, command, stdin=None, requests=None):
        wall, cpu, peak, text = self.measure(command, stdin)
        if requests is None:
            requests = self.requests(text)
        rate = f"{requests / cpu:.0f}" if cpu > 0 and requests else ""
        row = [series, size, unit, program, requests, f"{wall:.4f}", f"{cpu:.4f}", f"{peak:.1f}", rate]
        self.rows.append(row)
        print(f"{series:9} {size:>10} {unit:9} {program:34} {wall:10.3f} s {cpu:10.3f} s {peak:8.1f} MiB", flush=True)
        with open(self.args.output, "w", newline="") as file:
            csv.writer(file).writerows([COLUMNS, *self.rows])
        return requests

    @staticmethod
    def requests(text):
        """Requests of a run, from its table."""
        table = list(csv.DictReader(text.splitlines()))
        return sum(int(v) for row in table for k, v in row.items() if k.startswith("req_"))

    def attacc(self, output, heads, length, steps, more=(), to="ptrace"):
        return [self.program("tracegen"), "-q", "attacc", "--mode", "bank", "--heads", str(heads), "--len", str(length),
                "--steps", str(steps), "--to", to, "-o", str(output), *more]

    def replay(self, trace, *more):
        return [self.program("pimsim"), "-q", "run", str(trace), "--config", str(self.system), *more]

    def series_requests(self):
        # Heads, tokens and steps of about so many requests.
        cases = {1e4: (16, 2048, 1), 1e5: (16, 16384, 1), 1e6: (192, 16384, 1), 1e7: (1920, 16384, 1),
                 1e8: (1920, 16384, 10), 1e9: (1920, 16384, 100)}
        for size, case in cases.items():
            if size > self.args.most:
                break
            trace = self.scratch / "trace.ptrace"
            made = len(self.rows)
            self.add("requests", int(size), "requests", "tracegen attacc", self.attacc(trace, *case), requests=0)
            n = self.add("requests", int(size), "requests", "pimsim run FILE.ptrace", self.replay(trace))
            trace.unlink()
            if size <= self.args.most_text:
                pipe = self.attacc("-", *case, to="attacc")
                self.add("requests", int(size), "requests", "pimsim run - (AttAcc text)", self.replay("-"), stdin=pipe)
            # The size is what was replayed.
            for row in self.rows[made:]:
                row[1], row[4] = n, n

    def generated(self, series, size, unit, policies, *sets, pimsim=()):
        sets = [s for pair in sets for s in ("--set", pair)]
        for policy in policies:
            trace = self.scratch / "trace.ptrace"
            make = [self.program("tracegen"), "-q", "run", "--config", str(self.workload), "--policy", policy, *sets,
                    "-o", str(trace)]
            at = len(self.rows)
            self.add(series, size, unit, f"tracegen run, {policy}", make, requests=0)
            n = self.add(series, size, unit, f"pimsim run, {policy}", self.replay(trace, *pimsim))
            self.rows[at][4] = n
            trace.unlink()

    def series_context(self):
        for exponent in range(10, 21, 2):
            size = 2**exponent
            if size > self.args.longest:
                break
            self.generated("context", size, "tokens", ["full", "quest", "starc"], f"synthetic.prefill={size}")
            grid = self.scratch / "grid.toml"
            grid.write_text(f'name = "scale"\naccuracy = false\n[axes]\nworkload = ["{self.workload}"]\n'
                            f'policy = ["starc"]\nsynthetic.prefill = [{size}]\n')
            out = self.scratch / f"sweep-{size}"
            sweep = [self.program("pimsim"), "-q", "sweep", str(grid), "-o", str(out), "--threads", "1"]
            repeat, self.args.repeat = self.args.repeat, 1
            self.add("context", size, "tokens", "pimsim sweep, starc", sweep, requests=0)
            self.args.repeat = repeat

    def series_heads(self):
        for heads in (1, 4, 16, 64, 256):
            if heads <= self.args.heads:
                sets = [f"synthetic.kv_heads={heads}", f"synthetic.query_heads={4 * heads}"]
                self.generated("heads", heads, "KV heads", ["full", "starc"], *sets)

    def series_channels(self):
        for channels in (1, 2, 4, 8, 16, 32, 64):
            system = self.scratch / f"channels-{channels}.toml"
            text = self.system.read_text().replace("../dram/", f"{ROOT}/configs/dram/")
            system.write_text(text.replace("channels = 16 ", f"channels = {channels} "))
            sets = ["synthetic.kv_heads=64", "synthetic.query_heads=256", f"system={system}"]
            self.generated("channels", channels, "channels", ["starc"], *sets, pimsim=["--set", f"channels={channels}"])

    def series_stacks(self):
        for stacks in (1, 2, 5, 10, 20, 40):
            if stacks > self.args.stacks:
                break
            trace = self.scratch / "trace.ptrace"
            channels = f"channels={16 * stacks}"
            device = ["--config", str(self.system), "--set", channels]
            at = len(self.rows)
            make = self.attacc(trace, 16 * stacks, 16384, 1, device)
            self.add("stacks", stacks, "stacks", "tracegen attacc", make, requests=0)
            self.rows[at][4] = self.add("stacks", stacks, "stacks", "pimsim run FILE.ptrace",
                                        self.replay(trace, "--set", channels))
            trace.unlink()

    def exponents(self):
        """Growth between the two largest sizes, of time and of memory."""
        bad, lines = 0, {}
        for series, size, unit, program, _, _, cpu, peak, _ in self.rows:
            lines.setdefault((series, program, unit), []).append((int(size), float(cpu), float(peak)))
        print(f"\n{'series':9} {'program':34} {'sizes':>22} {'time^':>7} {'memory^':>8}")
        for (series, program, _), points in lines.items():
            if len(points) < 2 or series == "channels":
                continue
            (a, cpu_a, mib_a), (b, cpu_b, mib_b) = points[-2:]
            growth = math.log(b / a)
            of_time = math.log(cpu_b / cpu_a) / growth if cpu_a >= LEAST_SECONDS else None
            of_memory = math.log(mib_b / mib_a) / growth if mib_b >= LEAST_MIB else 0.0
            over = (of_time or 0) > LINEAR or of_memory > LINEAR
            bad += over
            shown = "-" if of_time is None else f"{of_time:.2f}"
            print(f"{series:9} {program:34} {f'{a} to {b}':>22} {shown:>7} {of_memory:>8.2f}{'  more than linear' * over}")
        return bad


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bin", default="target/release", help="folder of tracegen and pimsim")
    parser.add_argument("-o", "--output", default="out/scale.csv", help="table to write")
    parser.add_argument("--most", type=float, default=1e7, help="requests of the longest trace, up to 1e9")
    parser.add_argument("--most-text", type=float, default=1e7, help="the same of text traces")
    parser.add_argument("--longest", type=int, default=1 << 16, help="tokens of the longest context, up to 1048576")
    parser.add_argument("--heads", type=int, default=64, help="most KV heads, up to 256")
    parser.add_argument("--stacks", type=int, default=40, help="most stacks, up to 40")
    parser.add_argument("--repeat", type=int, default=1, help="measure each so often and take the fastest")
    parser.add_argument("--series", nargs="+", default=["requests", "context", "heads", "channels", "stacks"])
    args = parser.parse_args()
    Path(args.output).parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="scale-", dir=Path(args.output).parent) as scratch:
        bench = Bench(args, Path(scratch).resolve())
        for series in args.series:
            getattr(bench, f"series_{series}")()
        return 1 if bench.exponents() else 0


if __name__ == "__main__":
    sys.exit(main())
