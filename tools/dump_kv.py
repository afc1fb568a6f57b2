#!/usr/bin/env python3
"""Writes the KV cache of a Hugging Face model as a dump: `pimattn-record` from the sources. `--help` says how.

Needs torch, transformers and NumPy (pip install torch transformers numpy).

    python3 tools/dump_kv.py --model HuggingFaceTB/SmolLM2-135M-Instruct --text book.txt \\
        --prefill 7936 --decode 256 --layers 9,16 --licence "model: Apache-2.0; text: MIT" -o dump.safetensors
"""

import sys
import types
from pathlib import Path

# The package without its extension, which need not be built: recording uses none of it.
package = types.ModuleType("pimattn")
package.__path__ = [str(Path(__file__).resolve().parent.parent / "python" / "pimattn")]
sys.modules["pimattn"] = package

from pimattn.hf.cli import main  # noqa: E402

if __name__ == "__main__":
    main()
