"""The notebook runs from its first to its last cell, and is kept without outputs."""

import json
import os
import shutil
from pathlib import Path

import pytest
from builders import REPOSITORY

NOTEBOOK = REPOSITORY / "examples" / "adapt_an_encoder.ipynb"


def test_the_notebook_is_kept_without_outputs():
    notebook = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert len(code) >= 5
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in code)
    assert set(notebook["metadata"]) == {"kernelspec", "language_info"}


@pytest.mark.slow
def test_the_notebook_runs(encoder_dir, tmp_path):
    """MOCOSE_ENCODER names another encoder than the tiny one."""
    nbclient, nbformat = pytest.importorskip("nbclient"), pytest.importorskip("nbformat")
    pytest.importorskip("ipykernel")
    shutil.copytree(NOTEBOOK.parent / "data", tmp_path / "data")
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    client = nbclient.NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(tmp_path)}})
    encoder = os.environ.get("MOCOSE_ENCODER", str(encoder_dir))
    client.execute(env=os.environ | {"MOCOSE_ENCODER": encoder, "PYTHONPATH": str(REPOSITORY)})

    printed = ["".join(output.get("text", "") for output in cell.get("outputs", [])) for cell in notebook.cells]
    scores = next(text for text in printed if "step  0:" in text)
    chosen = json.loads(Path(tmp_path / "out" / "recipe.json").read_text(encoding="utf-8"))["recipe"]
    assert f"Chosen: {chosen}" in scores
    assert "step 24:" in scores
    assert sum(text.count("  after  ") for text in printed) == 9
    assert (tmp_path / "merged" / "modules.json").is_file()
