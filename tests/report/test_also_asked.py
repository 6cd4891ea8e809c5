"""Nuisances and shares in the report: what a row and run.json say, drawn in their ranges."""

import re

import pytest
from monai.data import DataLoader

import monai_ifim as mi
from _helpers.browser import chromium
from _helpers.networks import smooth_network
from _helpers.recorders import evaluate
from _helpers.scans import dataset, write_scans
from _helpers.tables import read_table
from monai_ifim.nuisances import Gain, Noise
from monai_ifim.report.cases.asked import Tolerance, also_asked
from monai_ifim.report.cases.folder import RunFolder
from monai_ifim.report.html import write_report

RUN = {
    "identity": {
        "settings": {
            "questions": [
                "somebody.Question",
                {"is": "monai_ifim.questions.shares.ShareColumns", "key": "organs"},
                {
                    "level": 0.1,
                    "ranges": {
                        "rotation": {"reach": 15.0, "unit": "degrees", "one_sided": False},
                        "blur": {"reach": 1.0, "unit": "squared voxels", "one_sided": True},
                    },
                },
            ]
        }
    }
}
ROW = {
    "file": "a.nii.gz",
    "trace": "2.0",
    "share_liver": "0.25",
    "share_<b>": "",
    "share_other": "0.75",
    "channel_share_T1": "1.0",
    "nuisance_rotation": "-2.13",
    "nuisance_rotation_law": "3.5",
    "nuisance_rotation_flip": "5.6",
    "nuisance_blur": "",
    "nuisance_blur_law": "",
    "nuisance_blur_flip": "",
    "nuisance_worst": "0.4",
    "nuisance_of_another_run": "3.0",
}


def test_what_a_row_says():
    found = also_asked(ROW, RUN)
    rotation, blur = found.tolerances
    assert rotation.text == "moves by 0.1 nat when the image is turned by -2.1 degrees"
    assert rotation.answer == "another answer at 5.6 degrees"
    assert blur.text == "not by 0.1 nat within 1 squared voxels"
    assert blur.answer == ""
    assert blur.law is None
    assert found.worst == 0.4
    regions, channels = found.shares
    assert regions.values == {"liver": 0.25, "other": 0.75}
    assert channels.values == {"T1": 1.0}
    assert set(ROW) - found.columns == {"file", "trace", "nuisance_of_another_run"}


@pytest.mark.parametrize(
    "run",
    [
        {},
        {"identity": None},
        {"identity": {"settings": {"questions": [{"level": "x", "ranges": {"rotation": {}}}]}}},
        {"identity": {"settings": {"questions": [{"level": 0.1, "ranges": ["rotation"]}]}}},
    ],
)
def test_without_ranges_the_numbers_stay_text(run):
    found = also_asked(ROW, run)
    assert found.tolerances == ()
    assert "nuisance_rotation" not in found.columns


def test_places_in_the_drawing():
    two = Tolerance("rotation", "degrees", 10.0, False, 0.1, -5.0)
    assert two.tolerated == (100.0, 300.0)
    assert [two.place(a) for a in (-10, 0, 5, 99)] == [0, 200, 300, 400]
    one = Tolerance("noise", "input units", 0.1, True, 0.1)
    assert one.tolerated == (0, 400)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A report of a run in which a gain changes the predictions, and so little noise does not."""
    folder = tmp_path_factory.mktemp("asked")
    files = write_scans(folder / "scans", 3, count=2)
    asked = [mi.NuisanceColumns([Gain(400.0), Noise(1e-6)], level=1e-4)]
    handler = mi.IFIMHandler(output_dir=folder / "out", volumes=[], questions=asked)
    evaluate(smooth_network(3), DataLoader(dataset(files), batch_size=2), handler)
    write_report(folder / "out")
    return folder / "out"


def test_the_page_of_an_image(written):
    for row, page in zip(
        read_table(written), sorted(written.glob("report/cases/*.html")), strict=True
    ):
        text = page.read_text("utf-8")
        gain, noise = RunFolder(written).numbers(row).asked.tolerances
        assert gain.text in text
        assert noise.text in text
        assert "not by 0.0001 nat within 1e-06 input units" in text
        assert len(re.findall('<svg class="range"', text)) == 2
        assert text.count('<line class="reached"') == (gain.amount is not None)
        assert "nuisance_gain" not in text
        assert "style=" not in text  # which the page's policy would refuse
    assert any(row["nuisance_gain"] for row in read_table(written))


@pytest.mark.slow
def test_in_a_browser(written):
    (first, *_) = sorted(written.glob("report/cases/*.html"))
    with chromium() as browser:
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        said = []
        page.on("console", lambda message: said.append(message.text))
        page.goto(first.as_uri())
        bars = page.locator("svg.range").all()
        assert len(bars) == 2
        for bar in bars:
            box = bar.bounding_box()
            assert box["width"] > 200
            assert box["height"] > 10
        fill = page.locator("svg.range .plausible").first.evaluate("e => getComputedStyle(e).fill")
        assert fill == "rgb(221, 227, 233)"
        assert said == []
