"""OHIF as MONAI Label serves it, in Chromium: what it asks for, and where it shows the overlay.

``OHIF_PICTURE=docs/pictures/ohif.png`` keeps the picture.
"""

import io
import json
import os
import re

import pytest

pytest.importorskip(
    "monailabel", reason="MONAI Label has an environment of its own: make label-test"
)

import nibabel as nib
import numpy as np
import requests
from PIL import Image

from _helpers.browser import chromium
from _helpers.orthanc import OHIF_PARAMS, write_scan
from _helpers.servers import infer, volume

MODEL = "ifim_signal_3d_overlay"


@pytest.fixture(scope="module", params=["alone", "with its results"])
def scan(request, new_pacs, new_server, tmp_path_factory):
    """A server and a series with one of the bundle's own images; its results in the same study."""
    from monai_ifim.__main__ import main

    folder = tmp_path_factory.mktemp("scan")
    main(["signal-images", "3d", str(folder / "nifti"), "--count", "1"])
    [file] = (folder / "nifti").glob("*.nii.gz")
    values = nib.load(file).get_fdata().reshape(32, 32, 32)
    values = np.rint(1000 * (values - values.min()) / np.ptp(values)).astype(np.int16)
    uid, _ = write_scan(folder / "dicom", values=values)
    pacs = new_pacs()
    pacs.send_folder(folder / "dicom")
    server = new_server(pacs, "pacs_receives=results")
    if request.param == "with its results":
        infer(server, "ifim_signal_3d", uid, store_in_pacs=True)
    return server, uid


@pytest.fixture(scope="module")
def shown(scan):
    """What OHIF asked for, and its axial view before and after the overlay."""
    server, uid = scan
    server.get("/datastore/")
    study = server.get(f"/datastore/image/info?image={uid}").json()["StudyInstanceUID"]
    asked, told = [], []
    with chromium() as browser:
        page = browser.new_page(viewport={"width": 1400, "height": 800})
        page.on("request", lambda r: asked.append((r.method, r.url, r.post_data_buffer)))
        page.on("console", lambda message: told.append(message.text))
        page.goto(f"{server.url}/ohif/monai-label?StudyInstanceUIDs={study}")
        page.wait_for_selector("#monailabelServerURL", timeout=90_000)
        page.wait_for_function("document.querySelectorAll('canvas').length >= 3", timeout=90_000)
        page.fill("#monailabelServerURL", f"{server.url}/")
        page.click("table.settingsTable button.actionButton")
        page.wait_for_selector('button[title="Run Segmentation"]', timeout=60_000)
        page.locator("select.selectBox").first.select_option(MODEL)
        if page.query_selector("text=Confirm and Hide"):
            page.click("text=Confirm and Hide")
        page.wait_for_timeout(6000)  # its notices go, and it has drawn the slices
        view = page.locator("canvas.cornerstone-canvas").first
        before = view.screenshot()
        page.click('button[title="Run Segmentation"]')
        for _ in range(90):
            if any("updated the segmentation" in text for text in told):
                break
            page.wait_for_timeout(1000)
        else:
            raise TimeoutError("\n".join(told)[-3000:])
        page.wait_for_timeout(9000)
        after = view.screenshot()
        picture = page.screenshot()
        page.close()
    alone = len(server.get("/proxy/dicom/qido/series").json()) == 1
    if os.environ.get("OHIF_PICTURE") and alone:
        small = Image.open(io.BytesIO(picture)).convert("RGB").resize((1050, 600))
        small.quantize(128).save(os.environ["OHIF_PICTURE"], optimize=True)
    return asked, before, after


def test_what_ohif_sends(scan, shown):
    server, uid = scan
    [(_, url, body)] = [each for each in shown[0] if "/infer/" in each[1]]
    assert url == f"{server.url}/infer/{MODEL}?image={uid}&output=image"
    sent = re.search(rb'name="params"\r\n\r\n(.*?)\r\n', body).group(1)
    assert json.loads(sent) == OHIF_PARAMS
    outside = [url for _, url, _ in shown[0] if url.startswith("http") and server.url not in url]
    assert [url for url in outside if "127.0.0.1" in url] == []
    reads = {url for method, url, _ in shown[0] if "/proxy/dicom/" in url}
    assert len(reads) > 32
    for url in sorted(reads)[::20]:
        assert requests.get(url, timeout=60).ok, url


def test_the_overlay_is_in_the_right_place(scan, shown):
    """The coloured part of the axial view is the label map's slice, and no mirror image of it."""
    server, uid = scan
    label = server.get(f"/datastore/label?label={uid}&tag=ifim_signal_3d_ifim_overlay").content
    levels = volume(label).get_fdata() if label[:2] == b"\x1f\x8b" else read_nrrd(label)
    before, after = (pixels(each) for each in shown[1:])
    bright = before.max(axis=-1) > 12  # the scan, and a few letters beside it
    top, bottom = ends(bright.sum(axis=1))
    left, right = ends(bright.sum(axis=0))
    coloured = np.ptp(after, axis=-1) > 6  # the scan is grey
    coloured = coloured[top : bottom + 1, left : right + 1]
    assert coloured.any()
    best = {
        name: max(overlap(coloured, slice_of) for slice_of in np.moveaxis(turned, 2, 0)[13:19])
        for name, turned in {
            "as it is": levels,
            "left for right": levels[::-1],
            "front for back": levels[:, ::-1],
            "transposed": levels.transpose(1, 0, 2),
        }.items()
    }
    print({name: round(float(value), 2) for name, value in best.items()})
    assert best["as it is"] > 0.85
    assert max(value for name, value in best.items() if name != "as it is") < 0.6


def read_nrrd(content):
    import nrrd

    stream = io.BytesIO(content)
    return nrrd.read_data(nrrd.read_header(stream), stream)


def ends(counts):
    """First and last of those that are more than half of the largest."""
    return np.flatnonzero(counts > counts.max() / 2)[[0, -1]]


def pixels(png):
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB"), dtype=int)


def overlap(coloured, slice_of):
    """Of two regions (Jaccard); the slice's first axis goes to the right, its second down."""
    height, width = coloured.shape
    drawn = Image.fromarray((slice_of.T > 0).astype(np.uint8) * 255).resize((width, height), 0)
    region = np.asarray(drawn) > 0
    union = (coloured | region).sum()
    return (coloured & region).sum() / union if union else 0.0
