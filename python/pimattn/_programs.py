"""Entry points of the programs of the wheel."""

import signal
import sys

from pimattn import _native


def _run(program, name: str) -> int:
    # The program has handlers of its own: the first Ctrl-C cleans up, the second ends it.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    return program([name, *sys.argv[1:]])


def tracegen() -> int:
    """`tracegen`: KV cache to trace."""
    return _run(_native.tracegen, "tracegen")


def pimsim() -> int:
    """`pimsim`: trace to time, energy and tables."""
    return _run(_native.pimsim, "pimsim")
