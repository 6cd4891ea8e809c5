"""A notebook as a Markdown page, with the outputs that it was stored with."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def page(path: Path) -> str:
    """The cells of a notebook in Markdown.

    Args:
        path: of the .ipynb file.

    Returns:
        Text cells as they are, code cells as blocks, their outputs below: text and PNG.
    """
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    parts = []
    for cell in cells:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            parts.append(source)
        else:
            parts.append(f"```python\n{source}\n```")
            parts += [text for output in cell["outputs"] for text in _output(output)]
    return "\n\n".join(parts) + "\n"


def _output(output: dict[str, Any]) -> list[str]:
    data = output.get("data", {})
    if "image/png" in data:
        image = "".join(data["image/png"]).replace("\n", "")
        return [f'<img class="notebook-picture" alt="output" src="data:image/png;base64,{image}">']
    text = "".join(output.get("text", data.get("text/plain", "")))
    return [f"```{{.text .output}}\n{text.rstrip()}\n```"] if text.strip() else []
