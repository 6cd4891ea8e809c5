"""What mkdocs calls while it builds the site (``hooks`` in ``mkdocs.yml``)."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

sys.path.insert(0, str(Path(__file__).parent))
import errors
import notebook


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """The notebook becomes a page beside its file."""
    text = notebook.page(Path(config.docs_dir) / "tutorial.ipynb")
    files.append(File.generated(config, "tutorial.md", content=text))
    return files


def on_page_markdown(markdown: str, page: Page, **kwargs: Any) -> str:
    """The messages of the source go into their page."""
    if page.file.src_uri == "errors.md":
        markdown = markdown.replace(errors.MARK, errors.markdown())
    return markdown
