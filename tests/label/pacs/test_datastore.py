"""A PACS as datastore: what it lists, downloads, refuses and keeps."""

import json
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

pytest.importorskip(
    "monailabel", reason="MONAI Label has an environment of its own: make label-test"
)

import nibabel as nib
import numpy as np
import pydicom
from starlette.exceptions import HTTPException

from _helpers.dicom import SHIPPED
from _helpers.orthanc import store_of, write_scan
from monai_ifim.label.pacs.dicomweb import PacsError


@pytest.fixture
def store(pacs, tmp_path):
    return store_of(pacs, tmp_path)


def test_images_alone_are_listed(store, pacs, series):
    listed = set(store.list_images())
    own = {uid for _, uid, _ in series.values()}
    shipped = {
        str(pydicom.dcmread(SHIPPED / name).SeriesInstanceUID)
        for name in ("CT_small.dcm", "MR_small.dcm")
    }
    assert listed == own | shipped
    assert len(pacs.series()) == len(listed) + 3  # a SEG, an SR and a plan
    infos = [store.get_image_info(image) for image in listed]
    assert {info["Modality"] for info in infos} == {"CT", "MR"}
    assert all(info["StudyInstanceUID"] and info["SOPClassUID"] for info in infos)


def test_every_image_of_whatever_modality(pacs, tmp_path, series):
    everything = store_of(pacs, tmp_path, modalities=("ALL",)).list_images()
    assert {uid for _, uid, _ in series.values()} <= set(everything)
    assert len(everything) == 7  # of 10 series
    narrow = store_of(pacs, tmp_path / "b", filters={"PatientID": "P1"}, modalities=("MR",))
    assert len(narrow.list_images()) == 3


@pytest.mark.parametrize("name", ["axial", "oblique", "plane"])
def test_values_and_grid_are_exact(store, series, name):
    folder, uid, values = series[name]
    image = nib.load(store.get_image_uri(uid))
    np.testing.assert_array_equal(np.asarray(image.dataobj).reshape(values.shape), values)
    slices = sorted(
        (pydicom.dcmread(path) for path in folder.iterdir()), key=lambda d: -d.InstanceNumber
    )
    across, down = np.reshape(slices[0].ImageOrientationPatient, (2, 3)).astype(float)
    for number, each in enumerate(slices):
        # The patient's coordinates of a voxel by DICOM's formula (PS3.3 C.7.6.2.1.1), LPS to RAS.
        column, row = 3, 2
        place = np.asarray(each.ImagePositionPatient, float)
        place += across * each.PixelSpacing[1] * column + down * each.PixelSpacing[0] * row
        found = image.affine @ [column, row, number, 1]
        np.testing.assert_allclose(found[:3], place * [-1, -1, 1], atol=1e-4)
    assert [p.name for p in store.folder.glob(".incoming*")] == []


@pytest.mark.parametrize("name", ["693_J2KI.dcm", "J2K_pixelrep_mismatch.dcm", "MR_small_RLE.dcm"])
def test_a_compressed_series(new_pacs, tmp_path, name):
    """Orthanc 1.10 cannot decode JPEG 2000, and answers 500 unless asked for what it has."""
    pacs = new_pacs()
    pacs.send((SHIPPED / name).read_bytes())
    store = store_of(pacs, tmp_path)
    [uid] = store.list_images()
    dataset = pydicom.dcmread(SHIPPED / name)
    slope, intercept = dataset.get("RescaleSlope", 1), dataset.get("RescaleIntercept", 0)
    values = dataset.pixel_array.T.astype(np.float32) * float(slope) + float(intercept)
    image = nib.load(store.get_image_uri(uid))
    np.testing.assert_array_equal(np.asarray(image.dataobj).reshape(values.shape), values)


def test_a_gap_is_refused_and_nothing_is_kept(store, series):
    uid = series["gap"][1]
    with pytest.raises(HTTPException, match="slices are missing") as raised:
        store.get_image_uri(uid)
    assert raised.value.status_code == 422
    assert not (store.folder / f"{uid}.nii.gz").exists()
    assert list(store.folder.glob(".incoming*")) == []


def test_a_large_series_is_refused_before_it_is_downloaded(pacs, tmp_path, series):
    small = store_of(pacs, tmp_path, max_voxels=1000)
    with pytest.raises(HTTPException, match="at most 1000 voxels, got 32768") as raised:
        small.get_image_uri(series["axial"][1])
    assert raised.value.status_code == 413


def test_what_is_no_id(store, tmp_path):
    for name in ("1.2.3", "../../x", "", None, 5):
        assert not store.holds(name)
    with pytest.raises(HTTPException, match="stored image"):
        store.save_label("../../x", "label.nii.gz", "tag", {})
    with pytest.raises(HTTPException, match="sent to the PACS"):
        store.add_image("new", "new.nii.gz", {})
    with pytest.raises(HTTPException, match="removed in the PACS"):
        store.remove_image(store.list_images()[0])


def label_of(path, shape, value=1):
    values = np.zeros(shape, np.uint8)
    values[3:9, 4:8, 2:5] = value
    nib.save(nib.Nifti1Image(values, np.eye(4)), path)
    return str(path)


def test_tags_and_info_are_checked_as_of_a_folder(store, series, tmp_path):
    uid, label = series["axial"][1], label_of(tmp_path / "l.nii.gz", (32, 32, 32))
    before = sorted(tmp_path.rglob("*"))
    for tag in ("../../../../../escaped", "a/b", ".."):
        with pytest.raises(HTTPException, match="expected a tag"):
            store.save_label(uid, label, tag, {})
    for info in ({"a": float("nan")}, {"a": "\ud800"}):
        with pytest.raises(HTTPException, match="without NaN"):
            store.update_image_info(uid, info)
        with pytest.raises(HTTPException, match="without NaN"):
            store.save_label(uid, label, "mine", info)
    assert sorted(tmp_path.rglob("*")) == before
    json.dumps(store.json(), allow_nan=False)


def test_a_label_is_kept_here_and_the_pacs_gets_nothing(store, pacs, series, tmp_path):
    uid, label = series["axial"][1], label_of(tmp_path / "l.nii.gz", (32, 32, 32))
    count, before = pacs.count(), store.status()
    assert store.save_label(uid, label, "final", {"label_info": [{"name": "spleen"}]}) == uid
    assert pacs.count() == count
    assert store.status()["completed"] == before["completed"] + 1
    assert uid not in store.get_unlabeled_images()
    assert store.get_label_uri(uid, "final").endswith(f"labels/final/{uid}.nii.gz")
    store.remove_label(uid, "final")
    assert uid in store.get_unlabeled_images()


def test_a_new_series_and_a_grown_one_appear_without_a_restart(new_pacs, tmp_path):
    pacs = new_pacs()
    store = store_of(pacs, tmp_path / "cache")
    assert store.list_images() == []
    uid, values = write_scan(tmp_path / "scan", (7, 6, 5))
    files = sorted((tmp_path / "scan").iterdir())
    for file in files[:4]:
        pacs.send(file.read_bytes())
    assert store.list_images() == [uid]
    assert nib.load(store.get_image_uri(uid)).shape == (7, 6, 4)
    store.record(uid, "ifim", "bundle", {"trace": 1.0})
    pacs.send(files[4].read_bytes())
    assert store.list_images() == [uid]
    assert "ifim" not in store.get_image_info(uid)  # the score was that of four slices
    np.testing.assert_array_equal(nib.load(store.get_image_uri(uid)).get_fdata(), values)


def test_eight_clients_get_one_download_and_lose_no_score(pacs, series, tmp_path, monkeypatch):
    from monai_ifim.label.pacs import datastore as module

    fetched, original = [], module.fetch_series

    def fetch(*args):
        fetched.append(args)
        time.sleep(0.2)
        return original(*args)

    monkeypatch.setattr(module, "fetch_series", fetch)
    stores = [store_of(pacs, tmp_path) for _ in range(2)]  # as of two processes
    uid = series["axial"][1]
    barrier = threading.Barrier(8)

    def work(number):
        store = stores[number % 2]
        barrier.wait()
        path = store.get_image_uri(uid)
        for i in range(10):
            store.record(uid, "ifim", f"bundle{number}-{i}", {"trace": float(i)})
        return path

    with ThreadPoolExecutor(8) as pool:
        paths = set(pool.map(work, range(8)))
    assert len(paths) == len(fetched) == 1
    for store in stores:
        assert len(store.get_image_info(uid)["ifim"]) == 80


def test_the_least_recently_used_images_go(pacs, series, tmp_path):
    store = store_of(pacs, tmp_path, cache_bytes=1)
    old = series["oblique"][1]
    path = store.get_image_uri(old)
    store.get_image_uri(series["plane"][1])
    assert (tmp_path / path).is_file()  # a moment ago somebody used it
    os.utime(path, (0, 0))
    store.get_image_uri(series["plane"][1])
    assert not (tmp_path / path).exists()
    assert store.get_image_uri(old) == path
    assert store.status()["cache_bytes"] > 0


def test_a_pacs_that_stops_freezes_and_comes_back(new_pacs, tmp_path):
    pacs = new_pacs()
    uid, _ = write_scan(tmp_path / "a", (7, 6, 5))
    other, _ = write_scan(tmp_path / "b", (8, 6, 5))
    pacs.send_folder(tmp_path / "a")
    pacs.send_folder(tmp_path / "b")
    store = store_of(pacs, tmp_path / "cache")
    store.pacs.seconds = 1
    path = store.get_image_uri(uid)
    pacs.freeze()
    start = time.monotonic()
    with pytest.raises(PacsError, match="within 1 s") as raised:
        store.get_image_uri(other)
    assert time.monotonic() - start < 3
    assert (raised.value.status_code, raised.value.away) == (504, True)
    pacs.thaw()
    pacs.stop()
    time.sleep(2.1)  # the sentence is told again for a moment
    with pytest.raises(PacsError, match="got no connection") as raised:
        store.list_images()
    assert raised.value.status_code == 502
    assert store.get_image_uri(uid) == path  # what is here can be looked at
    assert "no connection" in store.status()["pacs"]
    assert not store.answers()
    fresh = store_of(pacs, tmp_path / "cache")  # a server that starts meanwhile
    pacs.start()
    time.sleep(2.1)
    assert set(fresh.list_images()) == {uid, other}
    assert nib.load(fresh.get_image_uri(other)).shape == (8, 6, 5)
