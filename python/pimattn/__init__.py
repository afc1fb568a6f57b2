"""Simulator for sparse attention on HBM processing-in-memory.

A `KvCache` holds keys, values and queries of some layers of a model, `run` says what a selection policy costs on a device and what it
keeps of the attention, `sweep` does so for many policies and budgets::

    import pimattn

    kv = pimattn.KvCache.load("dump.safetensors")          # or "smollm2-135m-rustbook-cut", which the package holds inside
    r = pimattn.run(kv, policy="starc", budget=256, system="hbm3-pim")
    r.summary["time_ns"], r.summary["output_rel_err"]
    pimattn.sweep(kv, policies=["full", "quest", "starc"], budgets=[128, 256]).frontier().to_pandas()

`record`, `attach` and `perplexity` work with models of Hugging Face (`pip install pimattn[hf]`).

Errors: `ConfigError` and `DataError` (both ValueError), ValueError, FileNotFoundError, OSError, with the text of the command line.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pimattn import _native
from pimattn._native import CheckError, ConfigError, DataError, DecodeSession, KvCache, Run, Selection, Table, __version__
from pimattn._progress import Progress, shown
from pimattn._spread import spread

if TYPE_CHECKING:
    from pimattn.hf.attach import attach
    from pimattn.hf.perplexity import perplexity, token_losses
    from pimattn.hf.record import record

__all__ = [
    "CheckError",
    "ConfigError",
    "DataError",
    "DecodeSession",
    "KvCache",
    "Run",
    "Selection",
    "Table",
    "__version__",
    "attach",
    "perplexity",
    "policies",
    "presets",
    "record",
    "run",
    "sweep",
    "token_losses",
]

# Names that need torch and transformers, and the modules of pimattn.hf that they are in.
_HUGGING_FACE = {"attach": "attach", "perplexity": "perplexity", "record": "record", "token_losses": "perplexity"}


def __getattr__(name: str) -> Any:
    if name not in _HUGGING_FACE:
        raise AttributeError(f"module 'pimattn' has no attribute {name!r}")
    try:
        return getattr(importlib.import_module(f"pimattn.hf.{_HUGGING_FACE[name]}"), name)
    except ModuleNotFoundError as e:
        if e.name not in ("torch", "transformers"):
            raise
        raise ImportError(f"pimattn.{name} needs torch and transformers: pip install 'pimattn[hf]'") from e

Named = str | os.PathLike | Mapping[str, Any]


def run(
    kv: KvCache,
    policy: str | Selection = "starc",
    budget: int | None = None,
    system: Named = "hbm3-pim",
    workload: Named | None = None,
    progress: Progress = None,
) -> Run:
    """Runs a cache under a policy on a system: generates the accesses of each decode step and replays them.

    policy: a name of `policies()`, or a `Selection` made elsewhere. budget: tokens that a query head may select; without it the
    workload's (256 of the demo), or those of the selection. system: a name of
    `presets()["system"]`, a TOML file, or a dict of keys that change `"base"` (hbm3-pim). workload: a name, a file, or a dict of keys that
    change `"base"` (demo), such as ``{"dense_layers": 0, "mapping": {"layout": "interleaved"}}``; ``{"policies": {"quest": {"page":
    8}}}`` are parameters of policies. progress: see `_progress.shown`.
    """
    with shown(progress, "running") as update:
        return _native.run(kv, policy, budget, system, workload, update)


def sweep(
    kv: KvCache,
    policies: Sequence[str],
    budgets: Sequence[int],
    system: Named = "hbm3-pim",
    workload: Named | None = None,
    threads: int = 0,
    progress: Progress = None,
    client: Any = None,
) -> Table:
    """Runs each policy at each budget; a table with the columns of `sweep.csv`, a row per point.

    threads: points that run at the same time; 0 is one per processor. client: a Dask `Client`, or an executor of
    `concurrent.futures`, on whose workers the points run, each shard with as many threads; the table is the same. The other arguments are
    those of `run`.
    """
    policies, budgets = list(policies), list(budgets)
    if not policies or not budgets:
        raise ValueError("a sweep needs a policy and a budget at least")
    with shown(progress, "sweeping") as update:
        if client is None:
            return _native.sweep(kv, policies, budgets, system, workload, threads, None, update)
        places = _native.sweep_points(policies, budgets, system, workload)
        arguments = (policies, budgets, system, workload, threads)
        return Table.merged(spread(client, _shard, kv, arguments, places, update))


def _shard(kv: KvCache, arguments: tuple, places: list[int]) -> Table:
    """Some points of a sweep, on a worker."""
    return _native.sweep(kv, *arguments, places)


def policies() -> dict[str, str]:
    """Names of the selection policies, with what each selects."""
    return _native.policies()


def presets() -> dict[str, list[str]]:
    """Names of the systems, workloads, models and caches that the package holds inside, by kind."""
    return _native.preset_names()
