"""The page of a case in a browser: slices, controls, keyboard."""

import io
import re
import threading

import numpy as np
import pytest
from PIL import Image

from _helpers.run_folders import components, write_run
from monai_ifim.report.html import ReportServer, write_report

WIDTHS = [1280, 390]


@pytest.fixture
def ranges(tmp_path):
    parts = components((2, 12, 10, 8), (0, 6, 5, 4))
    for part in parts.values():
        part[1] *= 1000
    parts["sensitivity"][1] = parts["sensitivity"][0] * 1e-3  # of which the root is shown
    write_run(tmp_path, [("/in/a.nii.gz", parts)])
    return write_report(tmp_path)


def case_page(index, number):
    return next((index.parent / "cases").glob(f"{number:05d}*.html"))


def settled(page, condition):
    """Wait until a condition holds."""
    for _ in range(50):
        if condition():
            return
        page.wait_for_timeout(100)
    pytest.fail("nothing happened within 5 seconds")


def pixels(page):
    """What the viewer shows, (rows, columns, 3)."""
    page.evaluate("window.viewer.drawScene()")
    shot = page.locator("#viewer").screenshot()
    return np.asarray(Image.open(io.BytesIO(shot)).convert("RGB"), dtype=float)


def at_cross(page, name):
    """Value of a volume at the cross, as the page tells it."""
    return float(re.search(rf"{name} ([-+.\de]+)", page.locator("#place").inner_text())[1])


@pytest.mark.niivue
@pytest.mark.parametrize("number", range(3))
def test_the_viewer_shows_volumes_at_the_most_sensitive_place(visit, index, number):
    page = visit(case_page(index, number))
    assert page.evaluate("document.documentElement.dataset.ready") == "yes"
    shown = pixels(page)
    assert shown.std() > 10
    assert len(np.unique(shown.reshape(-1, 3), axis=0)) > 50
    assert at_cross(page, "√ diag F") == pytest.approx(1, abs=0.1)


@pytest.mark.niivue
def test_controls_change_what_is_shown(visit, index):
    page = visit(case_page(index, 0))
    before = pixels(page)
    seen = [before]
    for label, value in (
        ("Over the image", "high"),
        ("Over the image", "none"),
        ("Colours of the image", "viridis"),
        ("Below it", "orth"),
        ("Planes", "axial"),
        ("Channel", "0"),
    ):
        page.get_by_label(label).select_option(value)
        seen.append(pixels(page))
        assert np.abs(seen[-1] - seen[-2]).max() > 5, f"{label}: {value}"
    page.get_by_label("Window to").fill("110")
    seen.append(pixels(page))
    assert np.abs(seen[-1] - seen[-2]).max() > 5
    page.get_by_label("Over the image").select_option("sensitivity")
    page.get_by_label("Channel").select_option("2")
    strong = pixels(page)
    page.locator("#opacity").fill("0")
    assert np.abs(strong - pixels(page)).max() > 5


@pytest.mark.niivue
def test_each_channel_is_shown_within_its_own_limits(visit, ranges):
    """Channels of ranges 1000 apart: both are seen, and the fields tell each one's window."""
    page = visit(case_page(ranges, 0))
    ends = {}
    for channel in ("0", "1"):
        page.get_by_label("Channel").select_option(channel)
        ends[channel] = float(page.get_by_label("Window to").input_value())
        overlay = re.search(r"end at ([\d.e+-]+)", page.locator("#limits").inner_text())[1]
        assert pixels(page).std() > 10, channel
        ends[f"overlay {channel}"] = float(overlay)
    assert ends["1"] > 500 * ends["0"]
    assert ends["overlay 1"] < ends["overlay 0"] / 20


@pytest.mark.niivue
def test_keys_move_the_cross_and_a_button_brings_it_back(visit, index):
    page = visit(case_page(index, 0))
    page.locator("#canvas").focus()
    place = page.locator("#place")
    first = place.inner_text()
    for key in ("ArrowLeft", "ArrowUp", "PageUp"):
        before = place.inner_text()
        page.keyboard.press(key)
        settled(page, lambda before=before: place.inner_text() != before)
    page.get_by_role("button", name="Go to the most sensitive place").press("Enter")
    settled(page, lambda: place.inner_text() == first)
    box = page.locator("#canvas").bounding_box()
    page.locator("#canvas").click(position={"x": box["width"] / 2 - 9, "y": box["height"] / 4})
    settled(page, lambda: place.inner_text() != first)


@pytest.mark.niivue
def test_the_page_says_which_grid_it_shows(visit, index):
    page = visit(case_page(index, 0))
    assert "24 × 30 × 12 voxels" in page.locator("#grid").inner_text()


@pytest.mark.niivue
def test_the_full_volumes_of_a_served_run(visit, index, folder):
    with ReportServer(folder) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        address = server.address.replace("index.html", f"cases/{case_page(index, 0).name}")
        page = visit(address)
        assert "The scan's own grid" in page.locator("#grid").inner_text()
        assert at_cross(page, "√ diag F") == pytest.approx(1, abs=0.1)
        assert pixels(page).std() > 10
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("number", range(4))
def test_fits_the_window(browser, index, width, number):
    page = browser.new_page(viewport={"width": width, "height": 900})
    page.goto(case_page(index, number).as_uri())
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.close()


def test_names_are_texts(visit, index, plain_index):
    for each in (index, plain_index):
        page = visit(case_page(each, 1))
        assert page.locator("h1").inner_text() == '"><script>alert(1)<.nii.gz'


@pytest.mark.axe
@pytest.mark.niivue
@pytest.mark.parametrize("width", WIDTHS)
def test_accessible(visit, index, axe, width):
    assert axe(visit(case_page(index, 0), width)) == []
    assert axe(visit(case_page(index, 2), width)) == []
