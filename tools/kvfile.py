"""Reading and writing KV dumps in the safetensors format, with NumPy only.

A dump is a dictionary of arrays (k, v, q, layers) and a dictionary of metadata strings; crates/kv/src/safetensors.rs has
their shapes. NumPy has no bfloat16: such an array is held as a `Bf16`, its 16 bits per element in a uint16 array.
"""

import json
import os

import numpy as np

# safetensors name -> little-endian NumPy type
TYPES = {"F16": "<f2", "F32": "<f4", "I32": "<i4", "I64": "<i8", "U32": "<u4"}


class Bf16:
    """The bits of a bfloat16 array."""

    def __init__(self, bits):
        self.bits = np.ascontiguousarray(bits, dtype="<u2")

    @property
    def shape(self):
        return self.bits.shape

    def __getitem__(self, index):
        return Bf16(self.bits[index])


def read(path):
    """The metadata and the arrays of a safetensors file."""
    with open(path, "rb") as f:
        size = os.fstat(f.fileno()).st_size
        head = f.read(8)
        length = int.from_bytes(head, "little")
        if len(head) < 8 or length > size - 8:
            raise ValueError(f"{path}: not a safetensors file")
        header = json.loads(f.read(length))
        data = f.read()
    metadata = header.pop("__metadata__", {})
    arrays = {}
    for name, info in header.items():
        start, end = info["data_offsets"]
        if info["dtype"] == "BF16":
            arrays[name] = Bf16(np.frombuffer(data[start:end], "<u2").reshape(info["shape"]))
        elif info["dtype"] in TYPES:
            arrays[name] = np.frombuffer(data[start:end], TYPES[info["dtype"]]).reshape(info["shape"])
        else:
            raise ValueError(f"{path}: tensor {name!r} has type {info['dtype']}; expected BF16, {', '.join(TYPES)}")
    return metadata, arrays


def write(path, metadata, arrays):
    """Writes a safetensors file under a temporary name and renames it when it is whole."""
    header = {"__metadata__": {name: str(value) for name, value in metadata.items()}}
    parts, offset = [], 0
    # safetensors wants aligned data: the widest elements first, then by name
    for name in sorted(arrays, key=lambda n: (-_item(arrays[n])[1].itemsize, n)):
        dtype, array = _item(arrays[name])
        part = array.tobytes()
        header[name] = {"dtype": dtype, "shape": list(array.shape), "data_offsets": [offset, offset + len(part)]}
        parts.append(part)
        offset += len(part)
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    temporary = f"{path}.part"
    with open(temporary, "wb") as f:
        f.write(len(text).to_bytes(8, "little"))
        f.write(text)
        for part in parts:
            f.write(part)
    os.replace(temporary, path)


def _item(array):
    """safetensors type name and little-endian NumPy array."""
    if isinstance(array, Bf16):
        return "BF16", array.bits
    for name, dtype in TYPES.items():
        if np.dtype(dtype) == array.dtype.newbyteorder("<"):
            return name, np.ascontiguousarray(array, dtype=dtype)
    raise ValueError(f"type {array.dtype} has no place in a dump")


def number_list(text):
    """`2,9,16` or `0-3,7` as a sorted list of integers."""
    numbers = set()
    for part in text.split(","):
        first, _, last = part.partition("-")
        numbers.update(range(int(first), int(last or first) + 1))
    if not numbers:
        raise ValueError("empty list")
    return sorted(numbers)
