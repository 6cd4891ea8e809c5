"""DICOM in, DICOM out, in the real MONAI Deploy App SDK."""

import json
import shutil
from importlib.util import find_spec

import numpy as np
import pydicom
import pytest
import torch
from monai.transforms import Compose

import monai_ifim as mi
from _helpers.deploy import BUNDLE, run_application, write_study
from monai_ifim.bundle.classifier import load_bundle_classifier
from monai_ifim.bundle.configuration import BundleConfiguration
from monai_ifim.data.sources.readers import use_own_readers

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        find_spec("holoscan") is None,
        reason="the MONAI Deploy App SDK has an environment of its own: make deploy-test",
    ),
    pytest.mark.filterwarnings("ignore:NvImgCodecPydicomReader:UserWarning"),
]


@pytest.fixture(scope="module")
def expected(application):
    """The eigenspace of the series as the bundle's own loader and transforms see it."""
    series, _, _ = application
    preprocessing: Compose = BundleConfiguration(BUNDLE).content("preprocessing")
    use_own_readers(preprocessing)
    image = preprocessing({"image": str(series)})["image"].as_tensor()[None]
    network = load_bundle_classifier(BUNDLE).network
    return mi.eigenspace(network, image), image


def frames(path):
    """Values by the place of their frame, and the object."""
    made = pydicom.dcmread(path)
    values = np.frombuffer(made.FloatPixelData, "<f4").reshape(-1, made.Rows, made.Columns)
    groups = made.PerFrameFunctionalGroupsSequence
    places = [tuple(map(float, g.PlanePositionSequence[0].ImagePositionPatient)) for g in groups]
    return dict(zip(places, values, strict=True)), made


def slices(series):
    """Numbers of the slices by their place."""
    headers = [pydicom.dcmread(path, stop_before_pixels=True) for path in series.iterdir()]
    return {tuple(map(float, h.ImagePositionPatient)): int(h.InstanceNumber) for h in headers}


def test_components_lie_on_their_slices(application):
    """This bundle's network sees intensities as they are: high + orth is the series."""
    series, values, out = application
    numbers = slices(series)
    (high, made), (orth, _) = (frames(out / f"ifim_{name}.dcm") for name in ("high", "orth"))
    assert high.keys() == orth.keys() == numbers.keys()
    for place, number in numbers.items():
        np.testing.assert_allclose(high[place] + orth[place], values[number], atol=1e-5)
    assert [numbers[place] for place in high] == sorted(numbers.values())  # frame i is slice i
    assert made.StudyInstanceUID == "1.2.8"
    assert made.Manufacturer == "monai_ifim"
    assert "Research use only" in made.ContentDescription
    assert made.ContentQualification == "RESEARCH"


def test_components_are_those_of_the_bundle(application, expected):
    _, _, out = application
    space, image = expected
    high, _ = space.split(image)
    found, _ = frames(out / "ifim_high.dcm")
    # Which way the bundle turned the series does not matter for a set of values.
    got = np.sort(np.concatenate([each.ravel() for each in found.values()]))
    np.testing.assert_allclose(got, np.sort(high.numpy().ravel()), rtol=1e-4, atol=1e-7)
    assert np.abs(got).max() > 1e-4


def test_numbers_in_the_report_and_in_the_file(application, expected):
    _, _, out = application
    space, _ = expected
    told = json.loads((out / "ifim_numbers.json").read_text("utf-8"))
    assert told["trace"] == pytest.approx(space.trace.item(), rel=1e-4)
    assert told["eigenvalues"] == pytest.approx(space.eigenvalues[0].tolist(), rel=1e-4)
    probabilities = torch.softmax(space.logits[0].double(), 0).tolist()
    assert list(told["probabilities"].values()) == pytest.approx(probabilities, rel=1e-5)
    assert told["class_names"] == ["background alone", "signal 1", "signal 2"]
    assert told["predicted_class"] in told["class_names"]
    assert told["model"].startswith("ifim_signal_3d 0.1.1-")
    assert "Research use only" in told["note"]
    report = pydicom.dcmread(out / "ifim_numbers.dcm")
    measured = numbers_in(report)
    assert told["trace"] in [pytest.approx(value, rel=1e-6) for value in measured]
    maps = {pydicom.dcmread(out / f"ifim_{n}.dcm").SOPInstanceUID for n in ("high", "orth")}
    assert all(uid in str(report) for uid in maps)


def numbers_in(dataset):
    """Every number of a report, however deep."""
    found = []

    def look(_, element):
        if element.keyword == "NumericValue":
            found.append(float(element.value))

    dataset.walk(look)
    return found


def test_its_own_results_are_not_taken_for_images(application, tmp_path):
    """The results lie beside their series, as a PACS sends a study."""
    series, _, out = application
    shutil.copytree(series, tmp_path / "study")
    for path in out.glob("*.dcm"):
        shutil.copy(path, tmp_path / "study")
    done = run_application("-i", tmp_path / "study", "-o", tmp_path / "again", "-m", BUNDLE)
    assert done.returncode == 0, done.stderr[-3000:]
    one, two = (frames(folder / "ifim_high.dcm")[0] for folder in (out, tmp_path / "again"))
    assert one.keys() == two.keys()
    for place, values in one.items():
        np.testing.assert_allclose(two[place], values, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize(
    ("numbers", "fields", "sentence"),
    [
        ([*range(1, 9), *range(10, 34)], {}, "expected equally spaced slices"),
        (range(1, 33), {"Modality": "OT"}, "expected one selected series, got 0"),
        (range(1, 9), {}, "expected an image that ifim_signal_3d can take"),
    ],
    ids=["a gap", "no image", "another size"],
)
def test_what_is_refused_leaves_nothing(tmp_path, numbers, fields, sentence):
    write_study(tmp_path / "series", numbers, **fields)
    done = run_application("-i", tmp_path / "series", "-o", tmp_path / "out", "-m", BUNDLE)
    assert done.returncode == 1
    assert sentence in done.stderr
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").iterdir())
