"""Lets the tests run from the sources where no wheel is installed."""

import importlib.util
import sys
from pathlib import Path

if importlib.util.find_spec("pimattn") is None:
    sys.path.insert(0, str(Path(__file__).parent.parent))
