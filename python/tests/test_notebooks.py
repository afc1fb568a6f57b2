"""The notebooks in examples/ run, and say what they said. With UPDATE_DOCS=1 what they say now is kept in them."""

import os
from pathlib import Path

import pytest

nbformat = pytest.importorskip("nbformat")
nbclient = pytest.importorskip("nbclient")

NOTEBOOKS = sorted((Path(__file__).parents[2] / "examples").glob("*.ipynb"))


def said(cell):
    """What a cell printed and showed, without what changes from run to run."""
    outputs = [output for output in cell.get("outputs", []) if output.get("name") != "stderr"]
    return [output.get("text") or output.get("data", {}).get("text/plain") for output in outputs]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook(path, tmp_path, monkeypatch):
    # Bars would be part of what is kept.
    monkeypatch.setenv("TQDM_DISABLE", "1")
    kept = nbformat.read(path, as_version=4)
    run = nbformat.read(path, as_version=4)
    nbclient.NotebookClient(run, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}).execute()
    for cell in run.cells:
        cell.metadata.pop("execution", None)
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
    if os.environ.get("UPDATE_DOCS"):
        nbformat.write(run, path)
        return
    assert [said(cell) for cell in run.cells] == [said(cell) for cell in kept.cells]
    assert path.stat().st_size < 30_000


def test_there_are_notebooks():
    assert len(NOTEBOOKS) == 3
