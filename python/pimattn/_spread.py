"""Points of a sweep over the workers of an engine that is there already."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Executor, as_completed
from typing import Any


def spread(
    client: Any,
    work: Callable,
    kv: Any,
    arguments: tuple,
    places: list[int],
    update: Callable[[int, int], Any] | None,
) -> list:
    """Results of `work(kv, arguments, [place])` for each place, in any order.

    A client of Dask runs a point again where its worker was lost; an executor says that it is broken.
    """
    if isinstance(client, Executor):
        futures = [client.submit(work, kv, arguments, [place]) for place in places]
        finished = as_completed(futures)
    elif hasattr(client, "scatter") and hasattr(client, "submit"):
        from distributed import as_completed as dask_completed

        # Once for all workers; a worker that comes later takes it from another, or from here.
        held = client.scatter(kv, broadcast=True, hash=False)
        futures = [client.submit(work, held, arguments, [place], pure=False, retries=2) for place in places]
        finished = dask_completed(futures)
    else:
        raise TypeError(f"client: expected a Dask client or an executor of concurrent.futures, not {type(client)}")
    results = []
    try:
        for future in finished:
            results.append(future.result())
            if update:
                update(len(results), len(places))
    except BaseException:
        for future in futures:
            future.cancel()
        raise
    return results
