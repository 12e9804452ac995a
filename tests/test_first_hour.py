"""examples/first_hour.ipynb: it holds no outputs, runs from top to bottom, and shows what it promises."""

import re
from pathlib import Path

import nbformat
import pytest

NOTEBOOK = Path(__file__).parents[1] / "examples" / "first_hour.ipynb"
BUDGET_S = 1200  # for all cells; two to three minutes on two cores that do nothing else


def test_no_output_is_kept() -> None:
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert len(code) > 10
    assert not [cell for cell in code if cell.outputs or cell.execution_count is not None]


@pytest.mark.slow
def test_it_runs_from_top_to_bottom_and_shows_pictures(tmp_path: Path) -> None:
    """Executed as Jupyter does it, and rendered to build/first_hour.html."""
    from jupyter_client.manager import AsyncKernelManager
    from nbclient import NotebookClient
    from nbconvert import HTMLExporter

    notebook = nbformat.read(NOTEBOOK, as_version=4)
    kernel = AsyncKernelManager(kernel_name="python3", transport="ipc", ip=str(tmp_path / "kernel"))
    NotebookClient(notebook, km=kernel, timeout=BUDGET_S, resources={"metadata": {"path": str(tmp_path)}}).execute()
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    assert not [output for output in outputs if output.output_type == "error"]
    said = "".join(output.text for output in outputs if output.output_type == "stream")
    assert "Traceback" not in said
    assert "no such setting; did you mean 'loss.gp_weight'?" in said
    assert "completed after 300 steps" in said
    assert "no signature of collapse in 300 steps" in said
    assert re.search(r"^pruned at step \d+$", said, re.M)
    assert "replayed from prune.json to the same decision" in said
    assert "interrupted: saving a checkpoint" in said
    (saved,) = re.findall(r"^saved at step (\d+) of 60; go on with: ", said, re.M)
    assert f"resumed from step {saved} with 1 worker(s)" in said
    assert "completed at step 60" in said
    assert "model_index.json" in said
    page, _ = HTMLExporter().from_notebook_node(notebook)
    assert page.count('src="data:image/png;base64,') >= 6
    rendered = NOTEBOOK.parents[1] / "build" / "first_hour.html"
    rendered.parent.mkdir(exist_ok=True)
    rendered.write_text(page)
