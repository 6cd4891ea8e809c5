"""A page that is drawn once, and pages without the drawing."""

import pytest

from _helpers.results import absent_result, made_result, stored
from _helpers.trainings import made_block, made_trainings
from monai_ifim.report.evidence import page as evidence
from monai_ifim.report.evidence.page import write_results_page
from monai_ifim.report.results.sections import SECTIONS


@pytest.fixture(scope="session")
def written(tmp_path_factory):
    """Pages of three experiments: a whole one, one with training alone, one that is absent."""
    root = tmp_path_factory.mktemp("page")
    bare = made_result("bare", 1, known=None)
    bare["networks"] = {"vit": {"training": bare["networks"]["cnn"]["training"]}}
    stored(root / "results", made_result("signal", 1), bare, absent_result())
    stored(root / "trainings", made_trainings(cnn=[made_block()], vit=[made_block(auc=0.6)]))
    folders = [root / "results", root / "trainings"]
    write_results_page(folders, root / "docs" / "results.md")
    return root


@pytest.fixture
def undrawn(monkeypatch):
    """Pages as if all figures had been drawn, which takes most of the time."""

    def all_of_them(result, folder):
        return [folder / f"{section.name}.png" for section in SECTIONS]

    monkeypatch.setattr("monai_ifim.report.results.single.write_figures", all_of_them)
    monkeypatch.setattr(evidence, "save_figure", lambda figure, path: path)
    monkeypatch.setattr(
        "monai_ifim.report.evidence.appendix.save_figure", lambda figure, path: path
    )


@pytest.fixture
def text_only(undrawn, monkeypatch):
    """The page of single trainings, without the drawing."""
    monkeypatch.setattr(evidence, "_figures", lambda found: dict.fromkeys(evidence.FIGURES))

    def text(folder, *results):
        write_results_page([stored(folder / "r", *results)], folder / "p.md")
        return (folder / "p_single.md").read_text()

    return text
