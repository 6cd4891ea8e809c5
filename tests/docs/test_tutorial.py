"""The notebook runs from its first cell to its last, and its stored outputs tell of no machine."""

import json
import re

import pytest

from _helpers.pages import DOCS, ROOT, environment

NOTEBOOK = DOCS / "tutorial.ipynb"


def test_stored_outputs():
    cells = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    outputs = [output for cell in cells for output in cell.get("outputs", [])]
    assert any("image/png" in output.get("data", {}) for output in outputs)
    assert not [output for output in outputs if output["output_type"] == "error"]
    texts = [json.dumps(o) for o in outputs if "image/png" not in o.get("data", {})]
    assert not [text for text in texts if re.search(r"/(home|root|tmp|work|usr|opt)\b", text)]
    assert NOTEBOOK.stat().st_size < 200_000


@pytest.mark.slow
def test_runs(tmp_path, monkeypatch):
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    (tmp_path / "bundles").symlink_to(ROOT / "bundles")
    (tmp_path / "docs").mkdir()
    for name, value in environment(tmp_path).items():
        monkeypatch.setenv(name, value)
    notebook = nbformat.read(NOTEBOOK, 4)
    resources = {"metadata": {"path": str(tmp_path / "docs")}}
    nbclient.NotebookClient(notebook, timeout=300, resources=resources).execute()
    assert (tmp_path / "docs" / "tutorial" / "results" / "report" / "index.html").is_file()
