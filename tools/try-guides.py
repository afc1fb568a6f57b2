#!/usr/bin/env python3
"""Does what docs/add-a-*.md say, in a scratch copy of the tree, and runs the tests that they name.

A block of a guide says by a comment on the line before what it is for:

    <!-- guide: create FILE -->          the block is the whole new file
    <!-- guide: copy FROM TO -->         no block: FROM becomes TO
    <!-- guide: after FILE `LINE` -->    the block comes behind the one line of FILE that is LINE, blanks aside
    <!-- guide: before FILE `LINE` -->   the block comes ahead of it
    <!-- guide: append FILE -->          the block comes at the end of FILE
    <!-- guide: run -->                  the block is commands, run once all guides are applied

The copy is target/guides/tree, its build target/guides/build, or CARGO_TARGET_DIR. Files that have not changed since the
last time stay as they are, so that little is compiled again. Needs Python 3.9 or newer.

usage: tools/try-guides.py [--only NAME ...]
"""

import argparse
import os
import pathlib
import re
import shutil
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
SCRATCH = ROOT / "target" / "guides" / "tree"
# In this order: a command is added to the device of the guide for devices.
GUIDES = ["policy", "device", "format", "command", "column", "subcommand"]
MARK = re.compile(r"^ *<!-- guide: (\w+) ?(.*?) -->$")


class Wrong(Exception):
    """A guide does not fit the tree."""


def steps(guide, text):
    """The steps of a guide: what, its arguments, its block."""
    lines = text.splitlines()
    found = []
    for i, line in enumerate(lines):
        mark = MARK.match(line)
        if not mark:
            if "<!-- guide" in line:
                raise Wrong(f"{guide}:{i + 1}: nearly a step: {line}")
            continue
        what, rest = mark.groups()
        if what == "copy":
            found.append((what, rest.split(), ""))
            continue
        if i + 1 >= len(lines) or not lines[i + 1].startswith("```"):
            raise Wrong(f"{guide}:{i + 1}: no block behind the mark")
        end = lines.index("```", i + 2)
        block = "\n".join(lines[i + 2 : end]) + "\n"
        file, _, anchor = rest.partition(" ")
        found.append((what, [file, anchor.strip("`")] if rest else [], block))
    return found


def put(files, guide, what, arguments, block):
    """Applies a step to `files`: text by path."""

    def text(path):
        if path not in files:
            source = ROOT / path
            if not source.is_file():
                raise Wrong(f"{guide}: {path} does not exist")
            files[path] = source.read_text()
        return files[path]

    path = arguments[0]
    if what == "copy":
        path = arguments[1]
    if what in ("create", "copy"):
        if path in files or (ROOT / path).exists():
            raise Wrong(f"{guide}: {path} exists already")
        files[path] = block if what == "create" else text(arguments[0])
    elif what == "append":
        files[path] = text(path) + block
    elif what in ("after", "before"):
        lines = text(path).splitlines(keepends=True)
        places = [i for i, line in enumerate(lines) if line.strip() == arguments[1].strip()]
        if len(places) != 1:
            raise Wrong(f"{guide}: {path} has {len(places)} lines {arguments[1]!r}")
        lines.insert(places[0] + (what == "after"), block)
        files[path] = "".join(lines)
    else:
        raise Wrong(f"{guide}: unknown step {what}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=GUIDES, default=GUIDES, help="guides to follow (default: all)")
    parser.add_argument("--apply", action="store_true", help="make the copy, and run nothing")
    wanted = parser.parse_args()
    names = [g for g in GUIDES if g in wanted.only]
    if "command" in names and "device" not in names:
        parser.error("the guide for commands goes on from the one for devices")

    files, runs, touched = {}, [], {}
    for name in names:
        guide = f"docs/add-a-{name}.md"
        for what, arguments, block in steps(guide, (ROOT / guide).read_text()):
            if what == "run":
                runs.append((guide, block))
                continue
            put(files, guide, what, arguments, block)
            touched.setdefault(name, set()).add(arguments[-1] if what == "copy" else arguments[0])
    for name, paths in touched.items():
        print(f"add-a-{name}: {len(paths)} files: {', '.join(sorted(paths))}")

    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=ROOT, check=True, capture_output=True
    ).stdout.decode()
    kept = {p for p in listed.split("\0") if p and (ROOT / p).is_file()}
    for path in kept | set(files):
        target = SCRATCH / path
        data = files[path].encode() if path in files else (ROOT / path).read_bytes()
        if not target.is_file() or target.read_bytes() != data:
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(data)
            if path not in files:
                shutil.copymode(ROOT / path, target)
    for target in [p for p in SCRATCH.rglob("*") if p.is_file()]:
        if str(target.relative_to(SCRATCH)) not in kept | set(files):
            target.unlink()
    if wanted.apply:
        return 0

    environment = dict(os.environ)
    environment.setdefault("CARGO_TARGET_DIR", str(SCRATCH.parent / "build"))
    for guide, block in runs:
        print(f"{guide}:\n{block}", end="", flush=True)
        done = subprocess.run(["bash", "-euo", "pipefail", "-c", block], cwd=SCRATCH, env=environment)
        if done.returncode != 0:
            print(f"{guide}: its commands fail ({done.returncode})", file=sys.stderr)
            return 1
    print(f"{len(names)} guides followed, {len(runs)} blocks of commands pass")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except Wrong as wrong:
        print(wrong, file=sys.stderr)
        sys.exit(1)
