#!/usr/bin/env python3
"""Streams of loads and stores, for docs/agreement.md: streams.py FOLDER writes one file a stream, as ramulator-ls.

Fields of an address are given from its lowest bits up, above the bytes of a column. Needs Python 3.8 or newer.
"""
import os
import sys

DEVICES = {
    "hbm3": {
        "bytes": 32,
        "fields": {"column": 32, "row": 16384, "bank": 4, "group": 4, "rank": 2, "pc": 2, "channel": 16},
        "seq": ("column", "pc", "channel", "bank", "group", "rank", "row"),
        "requests": 131072,
    },
    "hbm2": {
        "bytes": 64,
        "fields": {"column": 32, "row": 32768, "bank": 4, "group": 4, "channel": 8},
        "seq": ("column", "channel", "bank", "group", "row"),
        "requests": 65536,
    },
    # Rows from 4,096 on have a meaning of their own in PIMSimulator.
    "samsung": {
        "bytes": 32,
        "fields": {"column": 32, "row": 4096, "spare": 4, "bank": 4, "group": 4, "channel": 32},
        "seq": ("column", "channel", "bank", "group", "row"),
        "requests": 65536,
    },
}


def draws():
    """The upper half of a linear congruential generator of 64 bits that begins with 1."""
    x = 1
    while True:
        x = (x * 6364136223846793005 + 1442695040888963407) % 2**64
        yield x >> 32


def stream(device, kind, stores):
    """Lines of a stream; so many of a hundred requests are stores, of which there are half as many lines."""
    at, low = {}, device["bytes"]
    for name, count in device["fields"].items():
        at[name] = low
        low *= count
    draw = draws()
    for i in range(device["requests"] // (2 if stores else 1)):
        address = 0
        if kind == "lin":
            address = i * device["bytes"]
        elif kind == "seq":
            for name in device["seq"]:
                i, digit = divmod(i, device["fields"][name])
                address += digit * at[name]
        else:
            for name, count in device["fields"].items():
                digit = next(draw) % count
                address += 0 if name == "spare" else digit * at[name]
        store = stores and next(draw) % 100 < stores
        yield f"{'ST' if store else 'LD'} 0x{address:x}\n"


def main(folder):
    """Writes all streams of all devices."""
    os.makedirs(folder, exist_ok=True)
    for name, device in DEVICES.items():
        for kind in ("random", "seq", "lin"):
            for stores in (0, 5, 33, 50, 80) if kind != "lin" else (0,):
                suffix = f"-w{stores}" if stores else ""
                with open(os.path.join(folder, f"{name}-{kind}{suffix}.ls"), "w", encoding="ascii") as out:
                    out.writelines(stream(device, kind, stores))


if __name__ == "__main__":
    main(sys.argv[1])
