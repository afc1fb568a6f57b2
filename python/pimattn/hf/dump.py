"""Writing KV dumps: safetensors files that `tracegen run --kv` and `KvCache.load` read."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import numpy as np
import torch

# Name of an element type -> its name in safetensors, torch's type, and an integer type of its size that NumPy has.
TYPES = {
    "f16": ("F16", torch.float16, "<u2"),
    "bf16": ("BF16", torch.bfloat16, "<u2"),
    "f32": ("F32", torch.float32, "<u4"),
}


def type_name(dtype: torch.dtype) -> str:
    """Name of an element type in a dump. Raises ValueError for one that a dump cannot hold."""
    for name, (_, known, _) in TYPES.items():
        if known == dtype:
            return name
    raise ValueError(f"a dump cannot hold {dtype}; run the model in {', '.join(TYPES)}")


class DumpTensor:
    """A tensor [layer, head, token, dim] of a dump that is being written, mapped into memory."""

    def __init__(self, name: str, kind: str, bits: np.ndarray) -> None:
        self.name, self.kind, self._bits = name, kind, bits

    def put(self, index: int, number: int, start: int, vectors: torch.Tensor) -> None:
        """Writes vectors [head, token, dim] of the layer at `index`, from token `start` on. `number` is the layer's own.

        Raises ValueError if a value is not finite, or does not fit the type of the dump.
        """
        _, dtype, integer = TYPES[self.kind]
        if not bool(torch.isfinite(vectors).all()):
            raise ValueError(f"layer {number} holds NaN or infinity in {self.name!r}; the model does not work in its type")
        vectors = vectors.to(dtype)
        if not bool(torch.isfinite(vectors).all()):
            raise ValueError(f"a value of layer {number} in {self.name!r} does not fit {self.kind}; save in bf16 or f32")
        bits = vectors.contiguous().view(torch.int16 if integer == "<u2" else torch.int32).numpy()
        self._bits[index, :, start : start + vectors.shape[1]] = bits.view(integer)


@contextmanager
def dump_file(
    path: str | os.PathLike[str],
    metadata: Mapping[str, object],
    layers: tuple[int, ...],
    shapes: Mapping[str, tuple[str, tuple[int, int, int, int]]],
) -> Iterator[dict[str, DumpTensor]]:
    """The tensors of a dump to write, by name; `shapes` has the type and the shape of each.

    The file has its name once all is written; after an exception it is not there.
    """
    # safetensors wants aligned data: the widest elements first
    order = sorted(shapes, key=lambda name: (-_bytes(shapes[name][0]), name))
    header: dict[str, object] = {"__metadata__": {name: str(value) for name, value in metadata.items()}}
    offset = 0
    for name in order:
        kind, shape = shapes[name]
        end = offset + math.prod(shape) * _bytes(kind)
        header[name] = {"dtype": TYPES[kind][0], "shape": list(shape), "data_offsets": [offset, end]}
        offset = end
    numbers = np.array(layers, "<i4")
    header["layers"] = {"dtype": "I32", "shape": [len(layers)], "data_offsets": [offset, offset + numbers.nbytes]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    part = f"{os.fspath(path)}.part"
    try:
        with open(part, "wb") as file:
            file.write(len(text).to_bytes(8, "little") + text)
            start = file.tell()
            if hasattr(os, "posix_fallocate"):  # a full disk is an error here, not a signal at a write to mapped memory
                os.posix_fallocate(file.fileno(), 0, start + offset + numbers.nbytes)
            file.seek(start + offset)
            file.write(numbers.tobytes())
        tensors = {}
        for name in order:
            kind, shape = shapes[name]
            place = start + header[name]["data_offsets"][0]  # type: ignore[index]
            tensors[name] = DumpTensor(name, kind, np.memmap(part, TYPES[kind][2], "r+", place, shape))
        yield tensors
        del tensors
        os.replace(part, path)
    except BaseException:
        if os.path.exists(part):
            os.remove(part)
        raise


def _bytes(kind: str) -> int:
    return np.dtype(TYPES[kind][2]).itemsize
