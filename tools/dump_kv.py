#!/usr/bin/env python3
"""Writes the KV cache of a Hugging Face model as a dump: `pimattn-record` from the sources. `--help` says how.

Needs torch, transformers and NumPy (pip install torch transformers numpy).

    python3 tools/dump_kv.py --model HuggingFaceTB/SmolLM2-135M-Instruct --text book.txt \\
        --prefill 7936 --decode 256 --layers 9,16 --licence "model: Apache-2.0; text: MIT" -o dump.safetensors
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "python"))

from pimattn.hf.cli import main

if __name__ == "__main__":
    main()
