"""The report's files: what is in them, what hostile names do to them, what is left alone."""

import base64
import gzip
import hashlib
import json
import re
from html.parser import HTMLParser

import nibabel as nib
import numpy as np
import pytest

from _helpers.run_folders import OBLIQUE, components, write_run
from monai_ifim.data.tables import write_table
from monai_ifim.messages import RESEARCH_ONLY
from monai_ifim.report.assets import asset
from monai_ifim.report.cases import Case
from monai_ifim.report.html import report as report_module
from monai_ifim.report.html import write_report
from monai_ifim.report.html.volumes import BrowserVolumes, block_factors

HOSTILE = [
    '/in/"><script>alert(1)</script>.nii.gz',
    "/in/' onerror=alert(2) x='.nii.gz",
    "/in/{{ 7*7 }}&lt;b&gt;.nii.gz",
    "/in/J\udcf6rg </script><!--.nii.gz",
]


class Tags(HTMLParser):
    """Tags, attributes and texts of scripts and styles."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags, self.inside, self.texts = [], "", {"script": [], "style": [], "h1": []}
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        self.inside = tag
        if tag in self.texts:
            self.texts[tag].append("")

    def handle_endtag(self, tag):
        self.inside = ""

    def handle_data(self, data):
        if self.inside in self.texts:
            self.texts[self.inside][-1] += data


def small(seed=0):
    return components((1, 8, 9, 7), (0, 3, 4, 2), seed)


def rows_of(index) -> list[dict]:
    tags = Tags(index.read_text("utf-8"))
    return json.loads(tags.texts["script"][0])["rows"]


@pytest.fixture
def without_assets(monkeypatch):
    monkeypatch.setattr(report_module, "asset", lambda name: None)


def test_every_image_has_a_row_and_a_page(tmp_path):
    write_run(tmp_path, [("/in/a.nii.gz", small()), ("/in/b.nii.gz", None)])
    index = write_report(tmp_path, labels={"a.nii.gz": "1"})
    first, second = rows_of(index)
    assert (first["name"], first["predicted"], first["label"]) == ("a.nii.gz", "healthy", "benign")
    assert first["wrong"]
    assert first["trace"] == pytest.approx(2.5)
    assert first["largest"] == pytest.approx(2)
    assert second["failed"]
    assert second["trace"] is None
    pages = [(index.parent / row["page"]).read_text("utf-8") for row in (first, second)]
    assert all(RESEARCH_ONLY in page for page in (*pages, index.read_text("utf-8")))
    assert "data:image/png;base64," in pages[0]
    assert "the image cannot be read" in pages[1]
    assert "<img" not in pages[1]
    assert "Net 0123abcd" in pages[0]
    assert "<dd>about 0.75 input units (L2 norm), to benign</dd>" in pages[0]
    assert "flip_" not in pages[0]


@pytest.mark.parametrize("folder", ["", "sub"])
def test_hostile_names_stay_texts(tmp_path, folder):
    write_run(tmp_path / folder, [(name, None) for name in HOSTILE], names=HOSTILE)
    index = write_report(tmp_path / folder)
    shown = [row["name"] for row in rows_of(index)]
    assert shown[:2] == [name.removeprefix("/in/") for name in HOSTILE[:2]]
    assert r"\udcf6" in shown[3]
    for file in (index, *index.parent.glob("cases/*.html")):
        page = Tags(file.read_text("utf-8"))
        allowed = set(re.findall(r"'sha256-([^']+)'", dict(page.tags[3][1])["content"]))
        for (_, attributes), text in zip(
            (tag for tag in page.tags if tag[0] == "script"), page.texts["script"], strict=True
        ):
            digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
            assert attributes == {"type": "application/json", "id": "data"} or digest in allowed
        assert not [a for _, attributes in page.tags for a in attributes if a.startswith("on")]
    assert all(re.fullmatch(r"[A-Za-z0-9_.-]+", file.name) for file in index.parent.rglob("*"))
    cases = index.parent.glob("cases/*.html")
    titles = [Tags(file.read_text("utf-8")).texts["h1"] for file in cases]
    assert sorted(title[0] for title in titles) == sorted(shown)


def test_only_the_most_sensitive_images_are_drawn(tmp_path):
    cases = [(f"/in/{i}.nii.gz", small(i)) for i in range(3)]
    index = write_report(write_run(tmp_path, cases), most=1)
    drawn = [p.name for p in index.parent.glob("cases/*.html") if "<img" in p.read_text("utf-8")]
    assert drawn == ["00000-0.html"]  # the traces fall with the number
    assert "1 most sensitive" in " ".join(index.read_text("utf-8").split())


def test_one_damaged_volume_affects_no_other(tmp_path):
    write_run(tmp_path, [(f"/in/{i}.nii.gz", small(i)) for i in range(2)])
    damaged = tmp_path / "0_ifim_high.nii.gz"
    damaged.write_bytes(damaged.read_bytes()[:300])
    index = write_report(tmp_path)
    first, second = (
        next(index.parent.glob(f"cases/0000{i}-*.html")).read_text("utf-8") for i in range(2)
    )
    assert "the volumes could not be read" in first
    assert "<img" in second


def test_a_run_that_was_cut_short_says_so_and_is_no_image(tmp_path):
    rows = [{"file": "/in/a.nii.gz", "status": "ok"}]
    rows += [{"file": file, "status": f"failed: {file} stopped"} for file in ("run", "rank 1")]
    write_table(rows, tmp_path / "ifim.csv")
    (tmp_path / "run.json").write_text('{"run": "12ab", "identity": {"bundle": "<b>"}}')
    index = write_report(tmp_path)
    text = index.read_text("utf-8")
    assert [row["name"] for row in rows_of(index)] == ["a.nii.gz"]
    assert "run stopped" in text
    assert "rank 1 stopped" in text
    assert "run.json: run: 12ab" in text
    assert "&#34;bundle&#34;: &#34;&lt;b&gt;&#34;" in text


def test_an_earlier_report_is_replaced_and_anything_else_is_not(tmp_path):
    write_run(tmp_path, [("/in/a.nii.gz", small())])
    index = write_report(tmp_path)
    left = index.parent / "cases" / "left.html"
    left.write_text("")
    write_report(tmp_path)
    assert not left.exists()
    assert [p.name for p in tmp_path.glob(".report*")] == []
    index.write_text("mine")
    with pytest.raises(FileExistsError, match="move it away"):
        write_report(tmp_path)
    assert index.read_text() == "mine"


def test_without_a_table_or_with_a_number_that_means_nothing(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"ifim\.csv"):
        write_report(tmp_path)
    with pytest.raises(ValueError, match="expected a number of images"):
        write_report(tmp_path, most=-1)


@pytest.mark.usefixtures("without_assets")
def test_without_assets_pictures_and_a_plain_table_are_left(tmp_path):
    index = write_report(write_run(tmp_path, [("/in/a.nii.gz", small())]))
    assert {p.name for p in index.parent.iterdir()} == {"index.html", "cases"}
    assert '<table id="plain">' in index.read_text("utf-8")
    (page,) = index.parent.glob("cases/*")
    assert "<canvas" not in page.read_text("utf-8")
    assert "<img" in page.read_text("utf-8")


@pytest.mark.skipif(asset("niivue.js") is None, reason="`make assets` was not run")
def test_with_assets_the_volumes_lie_beside_the_page(tmp_path):
    index = write_report(write_run(tmp_path, [("/in/a.nii.gz", small())]))
    assert (index.parent / "niivue.js").is_file()
    text = (index.parent / "cases" / "00000-a.js").read_text("utf-8")
    value = json.loads(text.removeprefix("window.ifim = ").removesuffix(";\n"))
    assert list(value["volumes"]) == ["image", "high", "orth", "sensitivity"]
    image = nib.Nifti1Image.from_bytes(gzip.decompress(base64.b64decode(value["volumes"]["image"])))
    parts = small()
    assert np.abs(image.get_fdata() - (parts["high"] + parts["orth"])[0]).max() < 0.01
    assert np.allclose(image.affine, OBLIQUE, atol=1e-4)


def opened(volumes: BrowserVolumes, name: str) -> nib.Nifti1Image:
    return nib.Nifti1Image.from_bytes(gzip.decompress(volumes.file(name)))


@pytest.mark.parametrize("scale", [1.0, 1e-40])
def test_values_come_back_from_the_browsers_files(scale):
    parts = components((2, 6, 7, 5), (1, 2, 3, 4))
    parts["sensitivity"] = parts["sensitivity"] * scale**2
    volumes = BrowserVolumes(Case("a", affine=OBLIQUE, **parts))
    found = np.moveaxis(opened(volumes, "sensitivity").get_fdata(), -1, 0)
    expected = np.sqrt(parts["sensitivity"])
    assert np.allclose(found, expected / expected.max(), atol=1e-4)
    assert volumes.settings()["scale"]["sensitivity"] == pytest.approx(expected.max())
    high = np.moveaxis(opened(volumes, "high").get_fdata(), -1, 0)
    assert np.allclose(high * volumes.settings()["scale"]["high"], parts["high"], atol=1e-4)


def test_a_small_range_beside_a_large_one_keeps_its_steps():
    parts = components((2, 6, 7, 5), (1, 2, 3, 4))
    for part in parts.values():
        part[0] *= 1e5
    volumes = BrowserVolumes(Case("a", affine=OBLIQUE, **parts))
    image = opened(volumes, "image")
    expected = parts["high"] + parts["orth"]
    assert np.allclose(np.moveaxis(image.get_fdata(), -1, 0)[1], expected[1], rtol=1e-5)
    for channel in (0, 1):
        settings = volumes.settings(channel)
        assert settings["channel"] == channel
        window = np.percentile(expected[channel], (0.5, 99.5))
        assert settings["limits"][channel]["window"] == pytest.approx(window)
    with pytest.raises(ValueError, match="channel from 0 to 1, got 2"):
        volumes.settings(2)


def test_large_volumes_become_means_of_blocks_in_the_same_place():
    values = np.zeros((1, 40, 40, 6))
    values[0, 18:20, 30:32, 3] = 1
    case = Case("a", values, values * 0, np.diag([1.0, 1, 5, 1]), sensitivity=values)
    volumes = BrowserVolumes(case, budget=3000)
    assert volumes.factors == (2, 2, 1)
    small_ = opened(volumes, "high")
    assert small_.shape == (20, 20, 6)
    (voxel,) = np.argwhere(small_.get_fdata() > 0.5)
    assert np.allclose((small_.affine @ [*voxel, 1])[:3], [18.5, 30.5, 15])
    assert block_factors((1, 41, 1, 1), np.eye(4), 10) == (5, 1, 1)
    assert volumes.settings()["peak"] == [18.5 / 40, 30.5 / 40, 3.5 / 6]


def test_a_colour_picture_stays_in_colour():
    parts = components((3, 6, 5, 1), (0, 2, 3, 0))
    volumes = BrowserVolumes(Case("p", affine=np.eye(4), picture=True, **parts))
    assert opened(volumes, "image").get_data_dtype().names == ("R", "G", "B")
    assert opened(volumes, "high").shape == (6, 5, 1)
    assert volumes.settings()["channels"] == ["red, green and blue"]
