"""Results as DICOM objects in the PACS, where the owner allows it and a client asks for it."""

import io
import json
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

pytest.importorskip(
    "monailabel", reason="MONAI Label has an environment of its own: make label-test"
)

import numpy as np
import pydicom
import requests

from _helpers import refusing as answers
from _helpers.dicom_objects import frames_of, position_of, source_of
from _helpers.orthanc import store_of, write_scan
from _helpers.refusing import Refusing
from _helpers.servers import infer, parts_of, volume
from monai_ifim.label.pacs import settings
from monai_ifim.label.pacs.dicomweb import text

MODEL = "ifim_signal_3d"
COMPONENTS = ("high", "orth", "sensitivity")
KINDS = [*COMPONENTS, "picture", "numbers"]
BUNDLES = {"axial": MODEL, "slanted": MODEL, "plane": "ifim_signal_2d"}


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


def items_of(report):
    """All items of a structured report."""
    for each in report.get("ContentSequence", ()):
        yield each
        yield from items_of(each)


def measured(report):
    """Its numbers by the code of their concept."""
    found = [each for each in items_of(report) if each.ValueType == "NUM"]
    return {
        each.ConceptNameCodeSequence[0].CodeValue: float(each.MeasuredValueSequence[0].NumericValue)
        for each in found
    }


def references(report):
    """The objects that it refers to."""
    return [e.ReferencedSOPSequence[0] for e in items_of(report) if "ReferencedSOPSequence" in e]


def test_a_second_request_stores_nothing_new(server, own, series):
    uid = series["axial"][1]
    first, _ = infer(server, MODEL, uid, store_in_pacs=True)
    count = own.count()
    again, _ = infer(server, MODEL, uid, component="orth", store_in_pacs="true")
    overlay = server.post(
        f"/infer/{MODEL}_overlay?image={uid}&output=json", '{"store_in_pacs": true}'
    )
    for each in (again, overlay.json()):
        assert each["stored_in_pacs"]["new"] == []
        assert each["stored_in_pacs"]["objects"] == first["stored_in_pacs"]["objects"]
    assert own.count() == count

    other, _ = infer(server, MODEL, uid, rank=1, store_in_pacs=True)
    stored = other["stored_in_pacs"]
    assert stored["new"] == KINDS
    assert own.count() == count + len(KINDS)
    before = {each["series"] for each in first["stored_in_pacs"]["objects"].values()}
    assert before.isdisjoint(each["series"] for each in stored["objects"].values())
    high = pydicom.dcmread(read(own, stored["study"], stored["objects"]["high"]))
    assert "Options: rank 1." in high.ImageComments


def test_eight_clients_at_once_store_it_once(server, own, series):
    uid = series["slanted"][1]
    count = own.count()
    with ThreadPoolExecutor(8) as pool:
        asked = [
            pool.submit(infer, server, MODEL, uid, energy=0.9, store_in_pacs=True) for _ in range(8)
        ]
        answers = [each.result()[0]["stored_in_pacs"] for each in asked]
    assert sorted(len(each["new"]) for each in answers) == [0] * 7 + [len(KINDS)]
    assert len({json.dumps(each["objects"]) for each in answers}) == 1
    assert own.count() == count + len(KINDS)


def test_results_are_no_images_to_label(server, own, series, tmp_path):
    """Nor to another server, which knows of them by the PACS alone, whatever it lists."""
    infer(server, MODEL, series["axial"][1], store_in_pacs=True)
    kinds = {s["MainDicomTags"]["Modality"] for s in own.series().values()}
    assert {"OT", "SR"} <= kinds
    images = {series[name][1] for name in BUNDLES}
    time.sleep(1.1)  # the listing is asked for anew
    assert set(server.get("/datastore/?output=all").json()["objects"]) == images
    assert server.get("/info/").json()["datastore"]["completed"] == 0
    for modalities in (("ALL",), ("OT", "CT", "MR")):
        store = store_of(own, tmp_path / modalities[0], modalities=modalities)
        assert set(store.list_images()) == images
        assert store.get_labeled_images() == []


def test_a_batch_is_stored(new_pacs, new_server, tmp_path):
    pacs = new_pacs()
    for name in ("one", "two"):
        write_scan(tmp_path / name)
        pacs.send_folder(tmp_path / name)
    write_scan(tmp_path / "no_cube", (9, 8, 7))
    pacs.send_folder(tmp_path / "no_cube")
    count = pacs.count()
    server = new_server(pacs, "pacs_receives=results")
    config = server.get("/info/").json()["models"][MODEL]["config"]
    assert config["store_in_pacs"] is False  # 3D Slicer shows a box, which is not ticked
    answer = server.post(f"/batch/infer/{MODEL}?run_sync=true", json={"store_in_pacs": True})
    told = list(answer.json().values())
    stored = [each["params"]["stored_in_pacs"]["new"] for each in told if "params" in each]
    assert stored == [KINDS] * 2
    assert [each["status"][:6] for each in told if "status" in each] == ["failed"]
    assert pacs.count() == count + 2 * len(KINDS)


def test_where_the_owner_has_not_allowed_it(pacs, series, new_server):
    count, uid = pacs.count(), series["axial"][1]
    server = new_server(pacs, "pacs_receives=labels,viewer")
    assert "store_in_pacs" not in server.get("/info/").json()["models"][MODEL]["config"]
    for path in (f"/infer/{MODEL}", f"/infer/{MODEL}_overlay", f"/ifim/{MODEL}"):
        answer = server.post(f"{path}?image={uid}", '{"store_in_pacs": true}')
        assert (answer.status_code, "pacs_receives=results" in answer.text) == (403, True)
    assert not list((server.folder / "cache").rglob("*.nii.gz"))  # refused before any work
    for value in ('"yes"', "1", "[true]", "{}"):
        answer = server.post(f"/infer/{MODEL}?image={uid}", f'{{"store_in_pacs": {value}}}')
        assert (answer.status_code, "true or false" in answer.text) == (400, True)
    assert server.post(f"/infer/{MODEL}?image={uid}", '{"store_in_pacs": false}').ok
    assert pacs.count() == count


@pytest.fixture
def refusing(new_pacs, series, new_server):
    """Starts a server on a PACS that takes what it likes, with one series."""
    pacs, started = new_pacs(), []
    pacs.send_folder(series["axial"][0])

    def begin(answer, *conf):
        started.append(Refusing(pacs, answer))
        return started[-1], pacs, new_server(started[-1], "pacs_receives=results", *conf)

    yield begin
    for each in started:
        each.shutdown()
        each.server_close()


def test_a_pacs_that_refuses(refusing, series):
    fake, pacs, server = refusing(answers.all_refused, "pacs_download_seconds=2")
    uid, count, before = series["axial"][1], pacs.count(), server.temporary()

    def ask():
        return server.post(f"/infer/{MODEL}?image={uid}", '{"store_in_pacs": true}')

    for answer, status, sentence in [
        (answers.all_refused, 502, "out of resources, 0xa700"),
        (answers.error, 502, "got status 500"),
        (answers.not_allowed, 502, "MONAI_LABEL_DICOMWEB_USERNAME"),
        (answers.page, 502, "nothing said of it"),
    ]:
        fake.answer = answer
        refused = ask()
        assert (refused.status_code, sentence in refused.text) == (status, True), refused.text
        assert "status" in refused.text or "got 0 stored" in refused.text
    assert pacs.count() == count
    assert not server.get("/datastore/?output=all").json()["objects"][uid]["labels"]
    assert server.temporary() == before

    fake.answer = answers.slow
    refused = ask()
    assert (refused.status_code, "within 2 s" in refused.text) == (504, True), refused.text
    time.sleep(2)  # it has got them after all
    assert pacs.count() == count + len(KINDS)
    fake.answer = answers.all_refused
    assert ask().status_code == 200  # what is there is not sent again
    assert len(fake.stores) == 5


def test_a_pacs_that_takes_a_part(refusing, series):
    fake, pacs, server = refusing(answers.class_refused)
    uid, count = series["axial"][1], pacs.count()
    url = f"/infer/{MODEL}?image={uid}"
    refused = server.post(url, '{"store_in_pacs": true}')
    assert refused.status_code == 502
    assert "to store 5 objects" in refused.text
    assert "Parametric Map Storage (it does not take this class, 0x0122)" in refused.text
    assert "got 2 stored, and not Parametric Map" in refused.text
    assert pacs.count() == count + 2
    fake.answer = answers.one_left_out
    refused = server.post(url, '{"store_in_pacs": true}')
    assert (refused.status_code, "nothing said of it" in refused.text) == (502, True)
    fake.answer = answers.silent
    stored = server.post(f"{url}&output=json", '{"store_in_pacs": true}').json()["stored_in_pacs"]
    assert stored["new"] == ["sensitivity"]
    assert [len(each) for each in fake.stores] == [5, 3, 1]
    assert pacs.count() == count + len(KINDS)
    numbers = pydicom.dcmread(read(pacs, stored["study"], stored["objects"]["numbers"]))
    referred = {each.ReferencedSOPInstanceUID for each in references(numbers)}
    assert {each["object"] for what, each in stored["objects"].items() if what != "numbers"} <= (
        referred
    )


def test_objects_that_came_meanwhile(refusing, series):
    _, pacs, server = refusing(answers.duplicates)
    uid, count = series["axial"][1], pacs.count()
    assert server.post(f"/infer/{MODEL}?image={uid}", '{"store_in_pacs": true}').ok
    assert pacs.count() == count + len(KINDS)


def test_the_pacs_is_down(refusing, series):
    fake, _, server = refusing(answers.silent)
    uid = series["axial"][1]
    infer(server, MODEL, uid)  # a copy is here
    fake.shutdown()
    fake.server_close()
    answer = server.post(f"/infer/{MODEL}?image={uid}", '{"store_in_pacs": true}')
    assert (answer.status_code, "no connection" in answer.text) == (502, True)
    infer(server, MODEL, uid)


def test_a_server_without_what_makes_results_does_not_start(monkeypatch):
    monkeypatch.setattr(settings, "find_spec", lambda name: None if name == "matplotlib" else name)
    settings.read_settings({"pacs_receives": "labels"}, pictures=False)
    with pytest.raises(ModuleNotFoundError, match=r"expected matplotlib.*monai_ifim\[label\]"):
        settings.read_settings({"pacs_receives": "labels,results"}, pictures=False)
