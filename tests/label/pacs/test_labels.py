"""Labels: what is no annotation is never final, and what the PACS gets where it is asked to."""

import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip(
    "monailabel", reason="MONAI Label has an environment of its own: make label-test"
)

import nibabel as nib
import nrrd
import numpy as np
import pydicom
import requests
from starlette.exceptions import HTTPException

from _helpers.orthanc import store_of
from monai_ifim.label.infer import LEVELS
from monai_ifim.label.stores.checked import CheckedDatastore

SHAPE = (32, 32, 32)


def save(path, values, affine=None):
    nib.save(nib.Nifti1Image(values, np.eye(4) if affine is None else affine), path)
    return str(path)


def levels():
    """As an overlay has them: three values."""
    values = np.zeros(SHAPE, np.uint8)
    values[2:20, 3:20, 4:20], values[5:9, 5:9, 5:9], values[6, 6, 6] = 1, 2, 3
    return values


@pytest.fixture(params=["folder", "pacs"])
def stored(request, tmp_path):
    """A datastore of either kind with an overlay saved for an image."""
    if request.param == "folder":
        save(tmp_path / "scan.nii.gz", np.ones(SHAPE, np.float32))
        store, image = CheckedDatastore(str(tmp_path), auto_reload=False), "scan"
    else:
        store = store_of(request.getfixturevalue("pacs"), tmp_path, receives=("labels",))
        image = request.getfixturevalue("series")["axial"][1]
    folder = tmp_path / "out"
    folder.mkdir()
    overlay = save(folder / "ifim_overlay.nii.gz", levels())
    store.save_label(image, overlay, "bundle_ifim_overlay", {})
    return store, image, folder


def no_annotations(folder):
    """Files and info that a client might submit as final."""
    renumbered = np.array([0, 7, 5, 9], np.uint8)[levels()]  # OHIF has numbers of its own
    fractions = np.linspace(-1, 1, 32**3, dtype=np.float32).reshape(SHAPE)
    nrrd.write(str(folder / "c.nrrd"), levels())
    drawn = np.zeros(SHAPE, np.uint8)
    drawn[4:6] = 1
    named = {"label_info": [{"name": "spleen"}, {"name": next(iter(LEVELS))}]}
    return [
        (save(folder / "a.nii.gz", levels()), {}),
        (save(folder / "b.nii", renumbered), {"label_info": [{"name": "x"}] * 3}),
        (str(folder / "c.nrrd"), {}),
        (save(folder / "d.nii.gz", fractions), {}),
        (save(folder / "e.nii.gz", drawn), named),
    ]


def test_no_result_becomes_a_final_label(stored, request):
    store, image, folder = stored
    kept = request.getfixturevalue("pacs").count() if store.name().startswith("http") else 0
    for file, info in no_annotations(folder):
        with pytest.raises(HTTPException, match="no annotation; save it") as raised:
            store.save_label(image, file, "final", info)
        assert raised.value.status_code == 422
        assert store.save_label(image, file, "mine", info) == image  # any other tag takes it
    assert image in store.get_unlabeled_images()
    if kept:
        assert request.getfixturevalue("pacs").count() == kept


@pytest.mark.parametrize("stored", ["folder"], indirect=True)
def test_a_drawn_label_is_taken(stored):
    store, image, folder = stored
    drawn = np.where(levels() > 1, 1, 0).astype(np.uint8)
    drawn[20:] = 2
    store.save_label(image, save(folder / "f.nii.gz", drawn), "final", {})
    assert store.get_labeled_images() == [image]


@pytest.mark.parametrize("name", ["axial", "oblique", "plane"])
def test_a_label_goes_to_the_pacs(new_pacs, series, tmp_path, name):
    """Read back by dcmqi, which shares no line with highdicom, in the axes of another program."""
    pacs = new_pacs()
    folder, uid, values = series[name]
    pacs.send_folder(folder)
    store = store_of(pacs, tmp_path / "cache", receives=("labels",))
    image = nib.load(store.get_image_uri(uid))
    drawn = np.zeros(values.shape, np.uint8)
    drawn[2:9, 3:7, : max(1, values.shape[2] // 3)] = 4
    drawn[11:15, 9:16, values.shape[2] // 2 :] = 7
    nifti = nib.Nifti1Image(drawn, image.affine)
    turned = nifti.as_reoriented(np.array([[1, -1], [2, 1], [0, -1]]))  # as another viewer has it
    nib.save(turned, tmp_path / "label.nii.gz")
    names = {"label_info": [{"name": "spleen"}, {"name": "liver"}]}
    store.save_label(uid, str(tmp_path / "label.nii.gz"), "final", names)

    assert uid in store.get_labeled_images()
    other = store_of(pacs, tmp_path / "other")  # another server knows it by the PACS alone
    assert other.get_labeled_images() == [uid]
    [segmentation] = pacs.series(Modality="SEG").values()
    content = requests.get(f"{pacs.rest}/instances/{segmentation['Instances'][0]}/file", timeout=60)
    (tmp_path / "seg.dcm").write_bytes(content.content)
    seg = pydicom.dcmread(tmp_path / "seg.dcm")
    assert [s.SegmentLabel for s in seg.SegmentSequence] == ["spleen", "liver"]
    assert {s.SegmentAlgorithmType for s in seg.SegmentSequence} == {"MANUAL"}
    assert seg.ReferencedSeriesSequence[0].SeriesInstanceUID == uid
    meanings = {s.SegmentedPropertyTypeCodeSequence[0].CodeMeaning for s in seg.SegmentSequence}
    assert meanings == {"Tissue"}
    if name != "plane":  # dcmqi needs two planes for a spacing
        check_with_dcmqi(tmp_path, image, drawn)


def check_with_dcmqi(folder, image, drawn):
    """The segments of ``seg.dcm`` are where they were drawn."""
    program = Path(sys.executable).with_name("segimage2itkimage")
    command = [program, "--inputDICOM", folder / "seg.dcm", "--outputDirectory", folder]
    subprocess.run([*command, "--outputType", "nii"], check=True, capture_output=True, timeout=60)
    for number, value in enumerate((4, 7), start=1):
        back = nib.load(folder / f"{number}.nii.gz")
        to_image = np.linalg.inv(image.affine) @ back.affine
        voxels = np.argwhere(np.asarray(back.dataobj) != 0)
        found = voxels @ to_image[:3, :3].T + to_image[:3, 3]
        assert np.abs(found - np.rint(found)).max() < 0.01
        wanted = {tuple(v) for v in np.argwhere(drawn == value)}
        assert {tuple(v) for v in np.rint(found).astype(int)} == wanted


def test_labels_that_the_pacs_cannot_get(pacs, series, tmp_path):
    store = store_of(pacs, tmp_path / "cache", receives=("labels",))
    _, uid, values = series["axial"]
    affine = nib.load(store.get_image_uri(uid)).affine
    count = pacs.count()
    empty = save(tmp_path / "a.nii.gz", np.zeros(values.shape, np.uint8), affine)
    elsewhere = np.array(affine)
    elsewhere[0, 3] += 5
    shifted = save(tmp_path / "c.nii.gz", np.ones(values.shape, np.uint8), elsewhere)
    small = save(tmp_path / "d.nii.gz", np.ones((3, 3, 3), np.uint8), affine)
    (tmp_path / "e.nii.gz").write_bytes(b"no label")
    for file, sentence in [
        (empty, "at least one segment"),
        (shifted, "on the grid of the series"),
        (small, "on the grid of the series"),
        (str(tmp_path / "e.nii.gz"), "expected a label map"),
    ]:
        with pytest.raises(HTTPException, match=sentence) as raised:
            store.save_label(uid, file, "final", {})
        assert 400 <= raised.value.status_code < 500
    assert pacs.count() == count
    assert uid in store.get_unlabeled_images()
