"""A page that is drawn once, and pages without the drawing."""

import pytest

from _helpers.results import absent_result, made_result, stored
from monai_ifim.report.results.page import write_results_page
from monai_ifim.report.results.sections import SECTIONS


@pytest.fixture(scope="session")
def written(tmp_path_factory):
    """A page of three experiments: a whole one, one with training alone, one that is absent."""
    root = tmp_path_factory.mktemp("page")
    bare = made_result("bare", 1, known=None)
    bare["networks"] = {"vit": {"training": bare["networks"]["cnn"]["training"]}}
    stored(root / "results", made_result("signal", 1), bare, absent_result())
    write_results_page(root / "results", root / "docs" / "results.md")
    return root


@pytest.fixture
def text_only(monkeypatch):
    """A page as if all figures had been drawn, which takes most of the time."""

    def all_of_them(result, folder):
        return [folder / f"{section.name}.png" for section in SECTIONS]

    monkeypatch.setattr("monai_ifim.report.results.page.write_figures", all_of_them)

    def text(folder, *results):
        return write_results_page(stored(folder / "r", *results), folder / "p.md").read_text()

    return text
