#!/usr/bin/env python3
"""Ends the programs at random moments while they write, and looks at what is there afterwards.

`kill`: they are killed. `power`: the power of their disk is cut. The disk is an ext4 image, of which a copy is taken: all that was
written through, and nothing that was still in memory; this needs root, for the mount, and mkfs.ext4.

Every file under its final name has to be whole, and every point that the sweep had finished has to be there. Then the same commands
have to end with the same bytes, and with nothing unfinished left.
"""

import argparse
import contextlib
import os
import pathlib
import random
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time

GRID = """name = "crash"
[axes]
workload = ["demo"]
steps = [2]
policy = ["full", "streaming", "quest", "starc"]
budget = [64, 96, 128, 192, 256, 384, 512, 768]
"""
COMMANDS = [
    "tracegen run --config demo --set steps=8 -o run.ptrace --metrics metrics.csv -q",
    "tracegen convert run.ptrace text.txt --to text -q",
    "pimsim run run.ptrace --config hbm3-pim -o tables --log log.txt -q",
    "tracegen fit smollm2-135m-rustbook-cut -o fitted.toml -q",
    "pimsim sweep {grid} -o swept -q",
]
# While the sweep runs, rows are added to its table, which is made anew from the points.
GROWS = "swept/sweep.csv"
UNFINISHED = ".pimattn-part-"


@contextlib.contextmanager
def mounted(image, folder):
    folder.mkdir(exist_ok=True)
    subprocess.run(["mount", "-o", "loop", image, folder], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", folder], check=True)


def files(folder):
    """Files under their final names, with what is in them."""
    every = (path for path in folder.rglob("*") if path.is_file() and not path.name.startswith(UNFINISHED))
    return {str(path.relative_to(folder)): path.read_bytes() for path in every}


def stop(programs, how):
    if programs.poll() is None:
        os.killpg(programs.pid, how)


def copy_at_rest(image, cut):
    """Copies a disk at which nobody works, once what is on its way to it has arrived: a copy of a moving one is of no moment."""
    before = None
    while (now := image.read_bytes()) != before:
        before = now
    cut.write_bytes(now)


class Crash:
    """The programs, what they make when nothing stops them, and what was found."""

    def __init__(self, args, scratch):
        self.scratch, self.moments = scratch, random.Random(args.seed)
        self.path = f"{args.bin.resolve()}:{os.environ['PATH']}"
        grid = scratch / "grid.toml"
        grid.write_text(GRID)
        self.script = " && ".join(COMMANDS).format(grid=shlex.quote(str(grid)))
        self.faults, self.looked_at, self.finished_points = [], 0, 0
        whole = scratch / "whole"
        whole.mkdir()
        begun = time.monotonic()
        if self.begin(whole).wait() != 0:
            sys.exit("the programs fail without any crash")
        self.duration = time.monotonic() - begun
        self.expected = files(whole)

    def begin(self, folder):
        """The commands, one after the other, in a group of processes of their own."""
        environment = os.environ | {"PATH": self.path}
        return subprocess.Popen(["sh", "-c", self.script], cwd=folder, env=environment, start_new_session=True)

    def wait(self, folder):
        """Waits until a random moment; the points that are finished by then."""
        time.sleep(self.moments.uniform(0, 1.1 * self.duration))
        return {str(path.relative_to(folder)) for path in folder.glob("swept/points/[!.]*.csv")}

    def check(self, number, folder, finished, again):
        """Looks at a folder after a crash, and with `again` has the same commands go on in it."""
        there = files(folder)
        for name, content in there.items():
            if name != GROWS and self.expected.get(name) != content:
                self.faults.append(f"crash {number}: {name} has {len(content)} bytes of {len(self.expected.get(name, b''))}")
        self.faults.extend(f"crash {number}: {name} was finished and is lost" for name in finished - there.keys())
        self.looked_at += len(there)
        self.finished_points += len(finished)
        if not again:
            return
        if self.begin(folder).wait() != 0 or files(folder) != self.expected:
            self.faults.append(f"crash {number}: the commands do not end with the same bytes")
        left = [path.name for path in folder.rglob(f"{UNFINISHED}*")]
        self.faults.extend(f"crash {number}: {name} is left" for name in left)

    def kill(self, number):
        folder = self.scratch / "killed"
        folder.mkdir(exist_ok=True)
        programs = self.begin(folder)
        finished = self.wait(folder)
        stop(programs, signal.SIGKILL)
        programs.wait()
        # Several crashes in a row meet what the one before has left.
        again = self.moments.random() < 0.1
        self.check(number, folder, finished, again)
        if again:
            shutil.rmtree(folder)

    def power(self, number):
        image, cut = self.scratch / "disk.img", self.scratch / "cut.img"
        with image.open("wb") as disk:
            disk.truncate(64 << 20)
        subprocess.run(["mkfs.ext4", "-q", image], check=True)
        with mounted(image, self.scratch / "disk") as disk:
            programs = self.begin(disk)
            finished = self.wait(disk)
            stop(programs, signal.SIGSTOP)
            copy_at_rest(image, cut)
            stop(programs, signal.SIGKILL)
            programs.wait()
            time.sleep(0.3)
        with mounted(cut, self.scratch / "after") as after:
            self.check(number, after, finished, True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("how", choices=["kill", "power"])
    parser.add_argument("--bin", type=pathlib.Path, required=True, help="folder of the programs")
    parser.add_argument("--times", type=int, default=20, help="how often (20)")
    parser.add_argument("--seed", type=int, default=1, help="of the moments")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        crash = Crash(args, pathlib.Path(scratch))
        for number in range(args.times):
            getattr(crash, args.how)(number)
    faults = crash.faults
    print(f"{args.times} times: {crash.looked_at} files were there, {crash.finished_points} finished points; {len(faults)} faults")
    print(*faults[:20], sep="\n")
    sys.exit(1 if faults or crash.finished_points == 0 else 0)


if __name__ == "__main__":
    main()
