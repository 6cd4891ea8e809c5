"""Results as DICOM objects in the PACS, where the owner allows it and a client asks for it."""

import io
import json

import pytest

pytest.importorskip(
    "monailabel", reason="MONAI Label has an environment of its own: make label-test"
)

import numpy as np
import pydicom
import requests

from _helpers.dicom_objects import frames_of, position_of, source_of
from _helpers.orthanc import store_of, write_scan
from _helpers.servers import infer, volume
from monai_ifim.label.pacs.dicomweb import text

COMPONENTS = ("high", "orth", "sensitivity")
KINDS = [*COMPONENTS, "picture", "numbers"]
BUNDLES = {"axial": "ifim_signal_3d", "slanted": "ifim_signal_3d", "plane": "ifim_signal_2d"}


@pytest.fixture(scope="module")
def own(new_pacs, series):
    """A PACS of their own for the objects of these tests."""
    pacs = new_pacs()
    for name in BUNDLES:
        pacs.send_folder(series[name][0])
    return pacs


@pytest.fixture(scope="module")
def server(own, new_server):
    return new_server(own, "pacs_receives=results", "pacs_modalities=all")


def rows(pacs, path, **query):
    """A search by QIDO."""
    answer = requests.get(f"{pacs.url}/{path}", params=query, timeout=60)
    answer.raise_for_status()
    return answer.json()


def read(pacs, study, told):
    """An object by WADO."""
    from _helpers.servers import parts_of

    path = f"studies/{study}/series/{told['series']}/instances/{told['object']}"
    accept = {"Accept": 'multipart/related; type="application/dicom"'}
    answer = requests.get(f"{pacs.url}/{path}", headers=accept, timeout=60)
    answer.raise_for_status()
    return io.BytesIO(parts_of(answer)[0])


def in_voxels(affine, position):
    return np.linalg.inv(affine) @ [-position[0], -position[1], position[2], 1]


@pytest.mark.parametrize("name", BUNDLES)
def test_a_result_goes_to_the_pacs(server, own, series, name):
    folder, uid, _ = series[name]
    params, _ = infer(server, BUNDLES[name], uid, store_in_pacs=True)
    stored = params["stored_in_pacs"]
    assert (stored["new"], stored["left_out"]) == (KINDS, "")
    sources = {ds.SOPInstanceUID: ds for ds in map(pydicom.dcmread, folder.iterdir())}
    first = next(iter(sources.values()))
    assert stored["study"] == first.StudyInstanceUID
    for component in COMPONENTS:
        check_map(server, own, stored, params, component, sources)

    picture = pydicom.dcmread(read(own, stored["study"], stored["objects"]["picture"]))
    assert picture.SOPClassUID.name == "Secondary Capture Image Storage"
    assert np.ptp(picture.pixel_array) == 255
    numbers = pydicom.dcmread(read(own, stored["study"], stored["objects"]["numbers"]))
    trace = measured(numbers)["IFIM-TRACE"]
    assert trace == pytest.approx(params["trace"], rel=1e-6)
    for each in (picture, numbers):
        assert "research use only" in each.SeriesDescription
        assert (each.PatientID, each.StudyInstanceUID) == ("P1", stored["study"])


def check_map(server, pacs, stored, params, component, sources):
    """Frame by frame against the label of the component and the headers of the source."""
    told = stored["objects"][component]
    [row] = rows(pacs, f"studies/{stored['study']}/series", SeriesInstanceUID=told["series"])
    assert text(row, "Modality") == "OT"
    dataset = pydicom.dcmread(read(pacs, stored["study"], told))
    assert (dataset.SOPInstanceUID, dataset.SeriesInstanceUID) == (told["object"], told["series"])
    assert dataset.ContentQualification == "RESEARCH"
    frames, groups = frames_of(read(pacs, stored["study"], told))
    tag = params["tags"][component]
    label = volume(server.get(f"/datastore/label?label={params['image']}&tag={tag}").content)
    values = np.atleast_3d(label.get_fdata())
    assert len(frames) == len(sources) == values.shape[2]
    for frame, group in zip(frames, groups, strict=True):
        source = sources[source_of(group).ReferencedSOPInstanceUID]
        np.testing.assert_allclose(position_of(group), source.ImagePositionPatient, atol=1e-4)
        turn = np.array(source.ImageOrientationPatient, float)
        steps = turn[:3] * source.PixelSpacing[1], turn[3:] * source.PixelSpacing[0]
        for row, column in ((0, 0), (5, 9), (31, 2)):
            place = np.array(position_of(group)) + column * steps[0] + row * steps[1]
            x, y, z = np.rint(in_voxels(label.affine, place)[:3]).astype(int)
            assert frame[row, column] == values[x, y, z]


def measured(report):
    """Numbers of a structured report by the code of their concept."""
    found = {}

    def walk(item):
        for each in item.get("ContentSequence", ()):
            if each.ValueType == "NUM":
                code = each.ConceptNameCodeSequence[0].CodeValue
                found[code] = float(each.MeasuredValueSequence[0].NumericValue)
            walk(each)

    walk(report)
    return found
