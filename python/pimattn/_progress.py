"""Progress of long work, in a terminal or a notebook."""

import sys
from collections.abc import Callable
from contextlib import contextmanager
from typing import Any

Progress = bool | Callable[[int, int], Any] | None


@contextmanager
def shown(progress: Progress, what: str):
    """What the work calls with the units that are done and their total; None where nobody looks.

    `progress`: a function to call, True for a bar (needs tqdm), False for none, None for a bar where there is tqdm and somebody to
    look at it.
    """
    if callable(progress):
        yield progress
        return
    bar_class = _bar_class(progress)
    if bar_class is None:
        yield None
        return
    bar = bar_class(desc=what, delay=1.0, leave=False)

    def update(done: int, total: int) -> None:
        bar.total = total
        bar.update(done - bar.n)

    try:
        yield update
    finally:
        bar.close()


def _bar_class(progress: bool | None):
    if progress is False:
        return None
    try:
        from tqdm.auto import tqdm
    except ImportError:
        if progress:
            raise ImportError("progress=True needs tqdm: pip install tqdm") from None
        return None
    looked_at = sys.stderr.isatty() or "ipykernel" in sys.modules
    return tqdm if progress or looked_at else None
