"""The notebooks: each runs from a clean kernel, in an empty folder, and is stored without outputs."""

import time
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient


FOLDER = Path(__file__).parents[1] / "docs" / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
SECONDS = 300


@pytest.fixture(params=NOTEBOOKS, ids=lambda path: path.stem)
def notebook(request):
    return nbformat.read(request.param, as_version=4)


def test_outputs_are_stripped_and_the_first_cell_installs(notebook):
    nbformat.validate(notebook)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(not cell.outputs and cell.execution_count is None for cell in cells)
    assert "%pip install" in cells[0].source and 'find_spec("randar_hf") is None' in cells[0].source


@pytest.mark.slow
def test_runs_from_a_clean_kernel(notebook, tmp_path):
    began = time.monotonic()
    NotebookClient(notebook, timeout=SECONDS, resources={"metadata": {"path": str(tmp_path)}}).execute()
    assert time.monotonic() - began < SECONDS
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    assert not [output for output in outputs if output.output_type == "error"]
    assert outputs


def test_three_notebooks():
    assert [path.stem for path in NOTEBOOKS] == ["evaluate", "train-on-your-own-folder", "use-and-edit"]
