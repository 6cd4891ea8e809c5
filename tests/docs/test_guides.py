"""The code of Start, the guides and the pages beside them runs as it stands."""

import re
from pathlib import Path

import pytest
import torch

from _helpers.dicom import write_series
from _helpers.pages import DOCS, ROOT, blocks, environment, shell

PYTHON_ALONE = (
    "index.md",
    "mathematics.md",
    "other_tools.md",
    "report.md",
    "guides/my_training_loop.md",
    "guides/my_plain_network.md",
    "guides/dicom.md",
    "guides/nuisances.md",
    "guides/another_answer.md",
    "guides/several_inputs.md",
    "guides/regions.md",
    "guides/classes.md",
    "guides/pooled.md",
)
WITH_COMMANDS = ("index.md", "guides/my_bundle.md")
# Their blocks are run by tests of their own, in this folder.
ELSEWHERE = {
    "command_line.md": "test_command_line_page.py",
    "experiments.md": "test_experiments.py",
    "guides/dicom_results.md": "test_dicom_results_page.py",
    "large.md": "test_docs.py",
    "questions.md": "test_docs.py",
}
# Need hosts in environments of their own: tests/label and tests/deploy run them.
WITH_A_HOST = ("monai_label.md", "guides/deploy.md")

pytestmark = [
    pytest.mark.filterwarnings("ignore:NvImgCodecPydicomReader:UserWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning:captum"),
]


def run_python(page: str) -> None:
    names: dict[str, object] = {}
    for block in blocks(page, "python"):
        exec(compile(block, page, "exec"), names)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bundles").symlink_to(ROOT / "bundles")
    return tmp_path


@pytest.mark.parametrize("page", PYTHON_ALONE)
def test_python_blocks(page: str, folder: Path):
    assert blocks(page, "python")
    if page == "guides/dicom.md":
        write_series(folder / "study")
    with torch.random.fork_rng():
        run_python(page)


def test_the_training_loop_logs_its_epochs(folder: Path):
    with torch.random.fork_rng():
        run_python("guides/my_training_loop.md")
    tables = {path.name for path in (folder / "epochs").glob("*.csv")}
    assert tables == {"ifim.csv", "ifim_epoch_0001.csv", "ifim_epoch_0002.csv"}
    assert list((folder / "runs").glob("events.out.tfevents.*"))


@pytest.mark.slow
@pytest.mark.parametrize("page", WITH_COMMANDS)
def test_commands(page: str, folder: Path):
    variables = environment(folder)
    for text in blocks(page, "bash"):
        shell(text, folder, variables)
    assert (folder / "results" / "report" / "index.html").is_file()
    run_python(page)


def test_every_page_with_code_is_run_by_some_test():
    pages = {p.relative_to(DOCS).as_posix() for p in DOCS.rglob("*.md")}
    with_code = {p for p in pages if blocks(p, "python")}
    known = {*PYTHON_ALONE, *WITH_COMMANDS, *ELSEWHERE, *WITH_A_HOST}
    assert with_code - known == set()
    for page, test in ELSEWHERE.items():
        assert page in (Path(__file__).parent / test).read_text()


def test_refusals_of_dicom_are_those_of_the_source():
    page = (DOCS / "guides" / "dicom.md").read_text()
    told = [row.split("|")[1].strip() for row in page.splitlines() if row.startswith("| expected")]
    source = (ROOT / "monai_ifim" / "data" / "sources" / "dicom.py").read_text()
    assert len(told) == 5
    assert [sentence for sentence in told if f'"{sentence}' not in source] == []


def test_links_stay_among_the_pages():
    """``mkdocs --strict`` refuses others; this is quicker."""
    for page in DOCS.rglob("*.md"):
        for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text()):
            if "://" in target or target.startswith("mailto:"):
                continue
            place = (page.parent / target).resolve()
            assert place.is_relative_to(DOCS.resolve()), f"{page.name}: {target}"
            assert place.exists(), f"{page.name}: {target}"
