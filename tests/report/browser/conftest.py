"""A browser without a screen, and pages in it that must stay without errors and requests."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from _helpers.browser import chromium
from _helpers.run_folders import OBLIQUE, components, row, write_run
from monai_ifim.data.tables import write_table
from monai_ifim.report.assets import asset
from monai_ifim.report.cases.folder import read_labels
from monai_ifim.report.html import report as report_module
from monai_ifim.report.html import write_report

AXE = Path(__file__).parents[3] / "build" / "npm" / "node_modules" / "axe-core" / "axe.min.js"
HOSTILE = '"><script>alert(1)<'
needs_niivue = pytest.mark.skipif(
    asset("niivue.js") is None, reason="`make assets` was not run: no viewer of volumes"
)
needs_axe = pytest.mark.skipif(not AXE.is_file(), reason="`make assets` was not run: no axe-core")


def pytest_collection_modifyitems(items):
    for item in items:
        if item.get_closest_marker("niivue"):
            item.add_marker(needs_niivue)
        if item.get_closest_marker("axe"):
            item.add_marker(needs_axe)


@pytest.fixture(scope="session")
def browser():
    with chromium() as browser:
        yield browser


@pytest.fixture
def visit(browser):
    """Opens an address; at the end no page may have had an error, or asked another host."""
    pages, faults = [], []

    def open_page(address, width=1280, height=900):
        page = browser.new_page(viewport={"width": width, "height": height})
        own = ("data:", "blob:", "file:", str(address).partition("/report/")[0])
        page.on("console", lambda m: faults.append(m.text) if m.type == "error" else None)
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("dialog", lambda dialog: faults.append(f"dialog {dialog.message}"))
        page.on("request", lambda r: None if r.url.startswith(own) else faults.append(r.url))
        page.goto(address if isinstance(address, str) else address.as_uri())
        if page.query_selector("#data"):  # a page with a table or a viewer says when it is ready
            page.wait_for_selector("html[data-ready]", state="attached", timeout=60_000)
        pages.append(page)
        return page

    yield open_page
    for page in pages:
        page.close()
    assert faults == []


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    """A run: an oblique case of four channels, a colour picture, odd names, one that failed."""
    folder = tmp_path_factory.mktemp("run")
    write_run(
        folder,
        [
            ("/in/tumour.nii.gz", components((4, 24, 30, 12), (2, 6, 20, 9))),
            (f"/in/{HOSTILE}.nii.gz", components((1, 12, 14, 10), (0, 4, 5, 6), 1)),
            ("/in/J\udcf6rg ' .nii.gz", components((1, 20, 16, 1), (0, 15, 3, 0), 2)),
            ("/in/broken.nii.gz", None),
        ],
        names=("healthy", HOSTILE, "malignant"),
        affine=OBLIQUE,
    )
    (folder / "labels.csv").write_text("file,label\ntumour.nii.gz,2\n", encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def index(folder):
    return write_report(folder, labels=read_labels(folder / "labels.csv"))


@pytest.fixture(scope="session")
def plain_index(folder, tmp_path_factory):
    """The report of an installation without assets."""
    other = tmp_path_factory.mktemp("plain")
    shutil.copytree(folder, other, dirs_exist_ok=True, ignore=shutil.ignore_patterns("report"))
    patch = pytest.MonkeyPatch()
    patch.setattr(report_module, "asset", lambda name: None)
    try:
        return write_report(other)
    finally:
        patch.undo()


@pytest.fixture(scope="session")
def long_folder(tmp_path_factory):
    """5,000 images without volumes."""
    folder = tmp_path_factory.mktemp("long")
    order = np.random.default_rng(0).permutation(5000)
    rows = [row(f"/in/scan_{i:04d}.nii.gz", int(i), 6) for i in order]
    write_table(rows, folder / "ifim.csv")
    return folder


@pytest.fixture(scope="session")
def axe():
    """Faults that a page's users would meet, serious ones alone."""

    def faults(page):
        page.evaluate(AXE.read_text(encoding="utf-8"))
        found = page.evaluate("axe.run()")["violations"]
        return [
            (fault["id"], fault["nodes"][0]["html"])
            for fault in found
            if fault["impact"] in ("serious", "critical")
        ]

    return faults
