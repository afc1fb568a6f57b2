#!/usr/bin/env python3
"""Builds the archive of a release, with a list of all that is in it.

The same commit and toolchain give the same bytes, wherever the checkout is. Beside the programs the archive holds README.md, CHANGELOG.md,
the licences, configs/, and sbom.cdx.json: every crate that the programs are built from, in CycloneDX's form, with its licence and the
checksum of Cargo.lock. Needs git and Python 3.11 or newer.
"""

import argparse
import gzip
import hashlib
import io
import json
import os
import pathlib
import subprocess
import sys
import tarfile
import tomllib

ROOT = pathlib.Path(__file__).resolve().parent.parent
FILES = ["README.md", "CHANGELOG.md", "LICENSE-APACHE", "LICENSE-MIT", "traces/README.md"]
PROGRAMS = ["pimsim", "tracegen"]


def said(*command):
    return subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout.strip()


def build(target, epoch):
    """The programs, in which no path of this machine stands."""
    cargo_home = os.environ.get("CARGO_HOME", str(pathlib.Path.home() / ".cargo"))
    prefixes = {str(target): "target", str(ROOT): ".", cargo_home: "cargo", said("rustc", "--print", "sysroot"): "rust"}
    flags = " ".join(f"--remap-path-prefix={path}={name}" for path, name in prefixes.items())
    c_flags = " ".join(f"-ffile-prefix-map={path}={name}" for path, name in prefixes.items())
    environment = os.environ | {
        "RUSTFLAGS": flags,
        "CFLAGS": c_flags,
        "CARGO_INCREMENTAL": "0",
        "SOURCE_DATE_EPOCH": str(epoch),
    }
    command = ["cargo", "build", "--release", "--locked", "--bins", "--package", "pimattn", "--target-dir", str(target)]
    subprocess.run(command, cwd=ROOT, check=True, env=environment)
    return {name: (target / "release" / name).read_bytes() for name in PROGRAMS}


def bill_of_materials(host, epoch_text):
    """Every crate of the programs, from what Cargo resolves for this kind of machine."""
    metadata = json.loads(said("cargo", "metadata", "--format-version", "1", "--locked", "--filter-platform", host))
    lock = tomllib.loads((ROOT / "Cargo.lock").read_text())
    checksums = {(p["name"], p["version"]): p.get("checksum") for p in lock["package"]}
    packages = {package["id"]: package for package in metadata["packages"]}
    nodes = {node["id"]: node for node in metadata["resolve"]["nodes"]}
    root = next(package["id"] for package in metadata["packages"] if package["name"] == "pimattn")
    used, left = {root}, [root]
    while left:
        for dependency in nodes[left.pop()]["deps"]:
            # Those of tests alone are in no program.
            kinds = {kind["kind"] for kind in dependency["dep_kinds"]}
            if kinds != {"dev"} and dependency["pkg"] not in used:
                used.add(dependency["pkg"])
                left.append(dependency["pkg"])

    def component(package, kind):
        name, version = package["name"], package["version"]
        out = {"type": kind, "bom-ref": f"{name}@{version}", "name": name, "version": version, "purl": f"pkg:cargo/{name}@{version}"}
        if package["license"]:
            out["licenses"] = [{"expression": package["license"].replace("/", " OR ")}]
        if checksum := checksums.get((name, version)):
            out["hashes"] = [{"alg": "SHA-256", "content": checksum}]
        return out

    every = sorted((packages[i] for i in used - {root}), key=lambda package: (package["name"], package["version"]))
    bill = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": {"timestamp": epoch_text, "component": component(packages[root], "application")},
        "components": [component(package, "library") for package in every],
    }
    return json.dumps(bill, indent=1).encode() + b"\n"


def pack(path, top, files, epoch):
    """A tar.gz whose bytes depend on the files alone."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name, (content, mode) in sorted(files.items()):
            entry = tarfile.TarInfo(f"{top}/{name}")
            entry.size, entry.mode, entry.mtime = len(content), mode, epoch
            tar.addfile(entry, io.BytesIO(content))
    path.write_bytes(gzip.compress(packed.getvalue(), mtime=0))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", type=pathlib.Path, default=ROOT / "target" / "archive", help="folder to build in")
    args = parser.parse_args()
    if said("git", "status", "--porcelain"):
        sys.exit("the checkout has changes: an archive is of a commit")
    epoch = int(said("git", "log", "-1", "--format=%ct"))
    host = next(line.split()[1] for line in said("rustc", "-vV").splitlines() if line.startswith("host:"))
    target = args.target.resolve()
    files = {name: (content, 0o755) for name, content in build(target, epoch).items()}
    version = said(str(target / "release" / "pimsim"), "--version").split()[1]
    tracked = said("git", "ls-files", "configs").splitlines()
    files |= {name: ((ROOT / name).read_bytes(), 0o644) for name in FILES + tracked}
    stamp = said("git", "log", "-1", "--format=%cd", "--date=format-local:%Y-%m-%dT%H:%M:%SZ")
    files["sbom.cdx.json"] = (bill_of_materials(host, stamp), 0o644)
    top = f"pimattn-{version}-{host}"
    archive = target / f"{top}.tar.gz"
    pack(archive, top, files, epoch)
    print(f"{hashlib.sha256(archive.read_bytes()).hexdigest()}  {archive}")


if __name__ == "__main__":
    os.environ["TZ"] = "UTC"
    main()
