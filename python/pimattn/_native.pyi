"""Types of the native part of pimattn."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

__version__: str

class ConfigError(ValueError):
    """A workload, a system or a policy's parameters are wrong; the text names the key."""

class DataError(ValueError):
    """An input is damaged or contradicts itself; the text names its place."""

class CheckError(Exception):
    """A check that was asked for failed."""

class KvCache:
    """Keys, values and queries of some layers of a sequence.

    k, v: float32 or float16 [layer, kv_head, token, dim], keys after RoPE. q: likewise [layer, query_head, query, dim], after RoPE and
    not scaled; the softmax has q.k/sqrt(dim). Query head h uses KV head h // (query_heads // kv_heads). prefill: tokens before the
    first decode step. layers: their numbers in the model (0, 1, ..). query_start: token of the first query; without it the queries
    are those of the last tokens. element_bytes: bytes of an element as the model stores it in memory, whatever the arrays have.

    float32 arrays in C order are read where they are, without a copy: do not write to them afterwards.
    """

    def __init__(
        self,
        k: NDArray[Any],
        v: NDArray[Any],
        q: NDArray[Any],
        prefill: int,
        layers: Sequence[int] | None = None,
        query_start: int | None = None,
        element_bytes: int = 2,
        provenance: str = "arrays",
    ) -> None: ...
    @staticmethod
    def load(path: str | os.PathLike[str]) -> KvCache:
        """Reads a dump: .safetensors, .npz, a folder of .npy; or a cache that the package holds inside, by its name."""
    def save(
        self,
        path: str | os.PathLike[str],
        dtype: str | None = None,
        metadata: Sequence[tuple[str, str]] | None = None,
    ) -> None:
        """Writes a dump as safetensors. dtype: f32, f16, bf16; None: the narrowest that holds every element as it is."""
    def only_layers(self, layers: Sequence[int]) -> KvCache:
        """Only these layers of the model, ascending."""
    @property
    def k(self) -> NDArray[np.float32]: ...
    @property
    def v(self) -> NDArray[np.float32]: ...
    @property
    def q(self) -> NDArray[np.float32]: ...
    @property
    def layers(self) -> list[int]: ...
    @property
    def kv_heads(self) -> int: ...
    @property
    def query_heads(self) -> int: ...
    @property
    def dim(self) -> int: ...
    @property
    def tokens(self) -> int: ...
    @property
    def prefill(self) -> int: ...
    @property
    def query_start(self) -> int: ...
    @property
    def steps(self) -> int:
        """Decode steps: tokens behind the prefill that have a query."""
    @property
    def element_bytes(self) -> int: ...
    @property
    def provenance(self) -> str: ...
    @property
    def hash(self) -> str:
        """Hash of keys, values and queries, as in the tables (cache_hash)."""

class Table:
    """A table of results, column by column. `table["time_ns"]` is an array; the Arrow PyCapsule interface gives it to any library."""

    @property
    def columns(self) -> list[str]: ...
    @property
    def units(self) -> dict[str, str]: ...
    @property
    def meanings(self) -> dict[str, str]: ...
    @property
    def shape(self) -> tuple[int, int]: ...
    def __len__(self) -> int: ...
    def __contains__(self, name: str) -> bool: ...
    def __iter__(self) -> Iterator[str]: ...
    def __getitem__(self, name: str) -> NDArray[Any]:
        """int64, float64 (NaN where a cell is empty), or objects (None likewise)."""
    def row(self, row: int) -> dict[str, Any]: ...
    def to_dict(self) -> dict[str, NDArray[Any]]: ...
    def to_pandas(self) -> Any: ...
    def to_polars(self) -> Any: ...
    def to_csv(self, path: str | os.PathLike[str]) -> None: ...
    def frontier(self, error: str = "output_rel_err") -> Table:
        """The points that no other beats in time, energy and error alike; of a table of `sweep`."""
    @staticmethod
    def merged(tables: Sequence[Table]) -> Table:
        """The rows of tables of the same columns, sorted by their first column."""
    def __arrow_c_stream__(self, requested_schema: object | None = None) -> object: ...

class Run:
    """What a run says: means, and tables by step, phase, layer, head and channel."""

    summary: dict[str, Any]
    run: Table
    steps: Table
    phases: Table
    layers: Table
    heads: Table
    channels: Table
    origins: Table
    metrics: Table
    cautions: list[str]
    policy: str
    budget: int
    @property
    def selection(self) -> Selection:
        """What was selected: made again when it is asked for."""

class Selection:
    """Which tokens each query head of each layer attends to at each step, in CSR form: lists in the order layer, query head, step.

    indices: whole numbers, tokens or pages, in any order within a list. pointer: where each list begins in them, and the last one's end.
    prefill: tokens before the first step; at step s tokens 0..prefill + s are there, and the last of them is decoded. granularity: "token"
    or "page:N". scan: what selecting reads at each step: "none", "bytes_per_token:X" or "MATRICESxVECTORSxELEMENTS". order: uint32
    [layer, kv_head, token], the slot of each token in memory (position order without it). shape: layers, query heads and steps; layers:
    their numbers in the model; budget: tokens that a query head could select. Whether it fits a cache is found when it is run.
    """

    def __init__(
        self,
        indices: Any,
        pointer: Any,
        prefill: int,
        policy: str = "selection",
        granularity: str = "token",
        scan: str = "none",
        order: NDArray[np.uint32] | None = None,
        shape: tuple[int, int, int] | None = None,
        layers: Sequence[int] | None = None,
        budget: int | None = None,
    ) -> None: ...
    @staticmethod
    def load(path: str | os.PathLike[str]) -> Selection: ...
    def save(self, path: str | os.PathLike[str]) -> None: ...
    @property
    def policy(self) -> str: ...
    @property
    def prefill(self) -> int: ...
    @property
    def granularity(self) -> str: ...
    @property
    def budget(self) -> int | None: ...
    @property
    def shape(self) -> tuple[int, int, int] | None: ...
    def tokens(self, layer: int, query_head: int, step: int) -> NDArray[np.uint32] | None: ...
    @property
    def indices(self) -> NDArray[np.uint32]: ...
    @property
    def pointer(self) -> NDArray[np.uint64]: ...
    def __len__(self) -> int: ...
    def __getitem__(self, list: int) -> NDArray[np.uint32]: ...

class DecodeSession:
    """A sequence that a model decodes, layer by layer, while a policy selects what it attends to."""

    def __init__(
        self,
        policy: str,
        budget: int,
        parameters: Mapping[str, Any] | None = None,
        *,
        layers: Sequence[int],
        query_heads: int,
        kv_heads: int,
        dim: int,
        seed: int = 1,
        dense_layers: int = 0,
        element_bytes: int = 2,
    ) -> None: ...
    def prefill(
        self, layer: int, k: NDArray[np.float32], v: NDArray[np.float32], q: NDArray[np.float32]
    ) -> None:
        """Takes the prefill of a layer: k, v [kv_head, token, dim], and the queries of its last tokens, q [query_head, query, dim]."""
    def step(
        self, layer: int, k: NDArray[np.float32], v: NDArray[np.float32], q: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        """Takes a new token's k, v [kv_head, dim] and q [query_head, dim]; the attention over what is selected [query_head, dim]."""
    @property
    def steps(self) -> int: ...
    def cache(self, provenance: str = "decoded") -> KvCache: ...
    def selection(self) -> Selection: ...
    def stats(self) -> Table: ...

def run(
    kv: KvCache,
    policy: str | Selection,
    budget: int | None,
    system: Any,
    workload: Any = None,
    progress: Callable[[int, int], Any] | None = None,
) -> Run: ...
def sweep(
    kv: KvCache,
    policies: list[str],
    budgets: list[int],
    system: Any,
    workload: Any = None,
    threads: int = 0,
    places: list[int] | None = None,
    progress: Callable[[int, int], Any] | None = None,
) -> Table: ...
def sweep_points(policies: list[str], budgets: list[int], system: Any, workload: Any = None) -> list[int]: ...
def policies() -> dict[str, str]: ...
def preset_names() -> dict[str, list[str]]: ...
def tracegen(args: list[str]) -> int: ...
def pimsim(args: list[str]) -> int: ...
