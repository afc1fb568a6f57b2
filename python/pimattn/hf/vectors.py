"""Vectors of a layer, token after token: in memory up to a limit, beyond it in a temporary file without a name."""

from __future__ import annotations

import tempfile
from collections import deque
from collections.abc import Iterator

import torch

BLOCK_BYTES = 1 << 24  # bytes that are read back at a time


class VectorLog:
    """Vectors [head, token, dim] of one type, to which tokens are added at the end. Stored as [token, head, dim]."""

    def __init__(self, dtype: torch.dtype, memory_bytes: int, folder: str | None) -> None:
        self.dtype = dtype
        self.tokens = 0
        self.heads = self.dim = 0
        self._file = tempfile.SpooledTemporaryFile(max_size=max(memory_bytes, 1), dir=folder)

    def append(self, vectors: torch.Tensor) -> None:
        """Adds vectors [head, token, dim], in the type of the log; none are nothing to add."""
        if vectors.shape[1] == 0:
            return
        if self.tokens == 0:
            self.heads, self.dim = vectors.shape[0], vectors.shape[2]
        rows = vectors.detach().to("cpu", self.dtype).transpose(0, 1).contiguous()
        self._file.seek(0, 2)
        self._file.write(rows.view(torch.uint8).numpy().data)
        self.tokens += vectors.shape[1]

    def blocks(self) -> Iterator[torch.Tensor]:
        """The vectors in order of tokens, in blocks [head, token, dim]."""
        row = self.heads * self.dim * self.dtype.itemsize
        self._file.seek(0)
        for start in range(0, self.tokens, max(1, BLOCK_BYTES // row)):
            tokens = min(max(1, BLOCK_BYTES // row), self.tokens - start)
            block = bytearray(self._file.read(tokens * row))
            yield torch.frombuffer(block, dtype=self.dtype).reshape(tokens, self.heads, self.dim).transpose(0, 1)

    def close(self) -> None:
        """Frees memory and disk."""
        self._file.close()


class LastVectors:
    """The last `most` tokens of vectors [head, token, dim] that come in parts, on the CPU."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._parts: deque[torch.Tensor] = deque()

    def add(self, vectors: torch.Tensor) -> None:
        """Adds vectors at the end."""
        self._parts.append(vectors[:, vectors.shape[1] - min(self._most, vectors.shape[1]) :].detach().to("cpu", copy=True))
        while sum(part.shape[1] for part in self._parts) - self._parts[0].shape[1] >= self._most and len(self._parts) > 1:
            self._parts.popleft()

    def taken(self, like: torch.Tensor) -> torch.Tensor:
        """The vectors, which are forgotten; where there are none, none of the heads, size and type of `like`."""
        parts, self._parts = list(self._parts), deque()
        all_parts = torch.cat(parts, dim=1) if parts else like[:, :0]
        return all_parts[:, max(0, all_parts.shape[1] - self._most) :]
