"""Components as Parametric Maps: read back with pydicom, compared with the source by position."""

import sys
from datetime import datetime
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest
import torch
from monai.data import MetaTensor

import monai_ifim as mi
from _helpers.dicom import (
    AXIAL,
    CORONAL,
    OBLIQUE,
    SAGITTAL,
    SHIPPED,
    values_of,
    write_series,
    write_slice,
)
from _helpers.dicom_objects import (
    affine_of,
    by_number,
    complaints,
    component_of,
    enhanced,
    frames_of,
    mr_series,
    position_of,
    source_of,
)

pytest.importorskip("highdicom")
PLANES = {"axial": AXIAL, "sagittal": SAGITTAL, "coronal": CORONAL, "oblique": OBLIQUE}
NOON = datetime(2026, 11, 26, 12)


@pytest.fixture
def series(tmp_path: Path) -> Path:
    write_series(tmp_path / "ct")
    return tmp_path / "ct"


def stored(image, source, tmp_path: Path, **options) -> Path:
    options = {"component": "high", "created": NOON} | options
    return mi.write_parametric_map(image, source, tmp_path / "map.dcm", **options)


@pytest.mark.parametrize("step", [3.0, -3.0], ids=["rising", "falling"])
@pytest.mark.parametrize("axes", ["columns first", "RAS", "PIR"])
@pytest.mark.parametrize("orientation", PLANES.values(), ids=PLANES)
def test_frame_i_shows_slice_i(orientation, axes: str, step: float, tmp_path: Path):
    """Whatever the plane, the order of the volume's axes, and where slice 1 lies."""
    write_series(tmp_path / "ct", orientation=orientation, step=step)
    slices = by_number(tmp_path / "ct")
    image = component_of(slices)
    if axes != "columns first":
        turn = nib.orientations.ornt_transform(
            nib.io_orientation(image.affine), nib.orientations.axcodes2ornt(axes)
        )
        image = image.as_reoriented(turn)
    frames, groups = frames_of(stored(image, tmp_path / "ct", tmp_path))
    assert len(frames) == len(slices) == 7
    for frame, group, ds in zip(frames, groups, slices, strict=True):
        np.testing.assert_array_equal(frame, ds.pixel_array.astype("f4") / 1000 - 0.25)
        np.testing.assert_allclose(position_of(group), [float(x) for x in ds.ImagePositionPatient])
        assert source_of(group).ReferencedSOPInstanceUID == ds.SOPInstanceUID
    assert [g.FrameContentSequence[0].DimensionIndexValues for g in groups] == [*range(1, 8)]


@pytest.mark.parametrize("orientation", PLANES.values(), ids=PLANES)
def test_another_reader_finds_the_same_volume(orientation, tmp_path: Path):
    """highdicom makes a volume of both; it knows nothing of the NIfTI file between them."""
    import highdicom

    write_series(tmp_path / "ct", orientation=orientation)
    slices = by_number(tmp_path / "ct")
    path = stored(component_of(slices), tmp_path / "ct", tmp_path)
    source = highdicom.get_volume_from_series(slices)
    volume = highdicom.imread(path).get_volume().match_geometry(source)
    assert volume.geometry_equal(source)
    assert volume.frame_of_reference_uid == source.frame_of_reference_uid
    np.testing.assert_allclose(volume.array, source.array / 1000 - 0.25, atol=1e-6)


def test_without_instance_numbers_frames_go_along_the_normal(tmp_path: Path):
    write_series(tmp_path / "ct", orientation=OBLIQUE)
    slices = by_number(tmp_path / "ct")
    for path in (tmp_path / "ct").iterdir():
        ds = pydicom.dcmread(path)
        del ds.InstanceNumber
        ds.save_as(path)
    _, groups = frames_of(stored(component_of(slices), tmp_path / "ct", tmp_path))
    normal = np.cross(OBLIQUE[:3], OBLIQUE[3:])
    places = [np.dot(position_of(group), normal) for group in groups]
    assert places == sorted(places)


@pytest.mark.parametrize("name", ["CT_small.dcm", "MR_small.dcm"])
def test_one_slice(name: str, tmp_path: Path):
    ds = pydicom.dcmread(SHIPPED / name)
    path = stored(component_of([ds]), SHIPPED / name, tmp_path)
    (frame,), (group,) = frames_of(path)
    np.testing.assert_array_equal(frame, ds.pixel_array.astype("f4") / 1000 - 0.25)
    assert position_of(group) == [float(x) for x in ds.ImagePositionPatient]
    made = pydicom.dcmread(path)
    for field in ("PatientName", "PatientID", "StudyInstanceUID", "FrameOfReferenceUID"):
        assert made[field].value == ds[field].value
    assert complaints(path) == []


@pytest.mark.parametrize("per_frame", [False, True], ids=["shared", "per frame"])
def test_enhanced_multi_frame(per_frame: bool, tmp_path: Path):
    slices = by_number(mr_series(tmp_path / "mr"))
    source = enhanced(tmp_path / "mr", tmp_path / "multi" / "one.dcm", per_frame)
    path = stored(component_of(slices), tmp_path / "multi", tmp_path)
    frames, groups = frames_of(path)
    for i, (frame, group) in enumerate(zip(frames, groups, strict=True)):
        np.testing.assert_array_equal(frame, source.pixel_array[i].astype("f4") / 1000 - 0.25)
        its = source.PerFrameFunctionalGroupsSequence[i]
        assert position_of(group) == position_of(its)
        assert source_of(group).ReferencedFrameNumber == i + 1
    assert complaints(path) == []


def test_a_multi_frame_image_of_one_frame(tmp_path: Path):
    slices = by_number(mr_series(tmp_path / "mr", 1))
    enhanced(tmp_path / "mr", tmp_path / "one.dcm")
    (frame,), _ = frames_of(stored(component_of(slices), tmp_path / "one.dcm", tmp_path))
    np.testing.assert_array_equal(frame, slices[0].pixel_array.astype("f4") / 1000 - 0.25)


def test_frames_without_functional_groups(tmp_path: Path):
    image = nib.Nifti1Image(np.zeros((100, 100, 2), "f4"), np.eye(4))
    with pytest.raises(ValueError, match="expected a series with functional groups, got one"):
        stored(image, SHIPPED / "SC_rgb_rle_2frame.dcm", tmp_path)


def test_a_frame_of_another_place_in_a_multi_frame_image(tmp_path: Path):
    slices = by_number(mr_series(tmp_path / "mr"))
    source = enhanced(tmp_path / "mr", tmp_path / "one.dcm")
    frames = source.PerFrameFunctionalGroupsSequence
    frames[2].PlanePositionSequence = frames[1].PlanePositionSequence
    source.save_as(tmp_path / "one.dcm")
    with pytest.raises(ValueError, match=r"expected one frame at each position, got 5 frames at 4"):
        stored(component_of(slices), tmp_path / "one.dcm", tmp_path)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda v, a: (v, a @ np.diag([1, 1, 1.02, 1])), "0.12 voxels beside them"),
        (lambda v, a: (v, a + np.eye(4)[:, [0, 0, 0, 0]] * [0, 0, 0, 0.3]), "voxels beside them"),
        (lambda v, a: (v[:, :, 1:], a), r"\(5, 6, 7\) .* got a volume of \(5, 6, 6\)"),
        (lambda v, a: (np.repeat(v, 2, 0), a), r"got a volume of \(10, 6, 7\)"),
        (lambda v, a: (v.swapaxes(0, 1), a), "slices elsewhere"),
        (lambda v, a: (v, a + np.eye(4)[:, [2, 2, 2, 2]] * [0, 0, 0, 3]), "slices elsewhere"),
        (lambda v, a: (v, np.diag([0.0, 1, 1, 1])), "inverted"),
        (lambda v, a: (np.where(v == v.max(), np.nan, v), a), "expected finite values"),
    ],
    ids=["stretched", "shifted", "a slice less", "resampled", "turned", "next slice", "singular",
         "NaN"],
)  # fmt: skip
def test_another_grid_is_refused(change, words: str, series: Path, tmp_path: Path):
    image = component_of(by_number(series))
    values, affine = change(np.asarray(image.dataobj), image.affine)
    volume = MetaTensor(torch.as_tensor(values.copy())[None], affine=torch.as_tensor(affine))
    (tmp_path / "map.dcm").write_text("as it was")
    with pytest.raises(ValueError, match=words):
        stored(volume, series, tmp_path)
    assert (tmp_path / "map.dcm").read_text() == "as it was"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["ct", "map.dcm"]


def test_series_that_are_no_volume(series: Path, tmp_path: Path):
    image = component_of(by_number(series))
    write_slice(series / "again", 3, pixels=values_of(99))  # a second acquisition
    place = pydicom.dcmread(series / "IM097").ImagePositionPatient
    ds = pydicom.dcmread(series / "again")
    ds.ImagePositionPatient = place
    ds.save_as(series / "again")
    with pytest.raises(ValueError, match="expected one slice at each position, got 8 slices at 7"):
        stored(image, series, tmp_path)
    (series / "again").unlink()
    (series / "IM097").unlink()
    with pytest.raises(ValueError, match="slices are missing"):
        stored(image, series, tmp_path)
    with pytest.raises(ValueError, match="got no DICOM image in"):
        stored(image, tmp_path / "nowhere", tmp_path)


def test_what_has_no_frame_of_reference(tmp_path: Path):
    write_series(tmp_path / "ct", FrameOfReferenceUID=None)
    image = component_of(by_number(tmp_path / "ct"))
    with pytest.raises(ValueError, match="expected a series with FrameOfReferenceUID, got one"):
        stored(image, tmp_path / "ct", tmp_path)
    x_ray = SHIPPED / "dicomdirtests" / "77654033" / "CR1" / "6154"
    with pytest.raises(ValueError, match="got a picture without; a Parametric Map needs a frame"):
        stored(nib.Nifti1Image(np.zeros((16, 16, 1), "f4"), np.eye(4)), x_ray, tmp_path)


def test_what_it_says(series: Path, tmp_path: Path):
    image = component_of(by_number(series))
    path = stored(image, series, tmp_path, model="DenseNet121 0123abcd")
    ds = pydicom.dcmread(path)
    assert "Research use only" in ds.ContentDescription
    assert "research use only, not a diagnosis" in ds.SeriesDescription
    assert "not anatomy" in str(ds.ImageComments)
    assert (ds.ContentQualification, ds.Modality) == ("RESEARCH", "OT")
    assert (ds.Manufacturer, ds.ManufacturerModelName) == ("monai_ifim", "DenseNet121 0123abcd")
    assert ds.StudyInstanceUID == by_number(series)[0].StudyInstanceUID
    assert ds.CodingSchemeIdentificationSequence[0].CodingSchemeDesignator == "99MONAIIFIM"
    shared = ds.SharedFunctionalGroupsSequence[0]
    mapping = shared.RealWorldValueMappingSequence[0]
    assert (mapping.RealWorldValueSlope, mapping.RealWorldValueIntercept) == (1, 0)
    concept = mapping.QuantityDefinitionSequence[0].ConceptCodeSequence[0]
    assert (concept.CodeValue, concept.CodingSchemeDesignator) == ("IFIM-HIGH", "99MONAIIFIM")
    window = shared.FrameVOILUTSequence[0]
    assert (window.VOILUTFunction, window.WindowCenter) == ("LINEAR_EXACT", 0)
    largest = float(np.abs(image.dataobj).max())
    assert float(window.WindowWidth) == pytest.approx(2 * largest)


def test_small_values_stay_in_double(series: Path, tmp_path: Path):
    image = component_of(by_number(series), "f8")
    tiny = (np.asarray(image.dataobj) + 0.25) * 1e-60
    image = nib.Nifti1Image(tiny, image.affine)
    frames, _ = frames_of(stored(image, series, tmp_path, component="sensitivity"))
    assert frames.dtype == np.float64
    assert frames.max() == tiny.max() > 0
    assert complaints(tmp_path / "map.dcm") == []


def test_a_map_of_one_value(series: Path, tmp_path: Path):
    image = nib.Nifti1Image(np.zeros((5, 6, 7), "f4"), component_of(by_number(series)).affine)
    frames, _ = frames_of(stored(image, series, tmp_path))
    assert not frames.any()
    assert complaints(tmp_path / "map.dcm") == []


def test_the_same_result_has_the_same_uids(series: Path, tmp_path: Path):
    image = component_of(by_number(series))
    first = stored(image, series, tmp_path).read_bytes()
    assert stored(image, series, tmp_path).read_bytes() == first
    of = {}
    other = nib.Nifti1Image(np.asarray(image.dataobj) * 2, image.affine)
    cases = {
        "same": (image, {}),
        "values": (other, {}),
        "component": (image, {"component": "orth"}),
        "model": (image, {"model": "Net 1"}),
        "later": (image, {"created": datetime(2026, 11, 27)}),
    }
    for name, (volume, options) in cases.items():
        ds = pydicom.dcmread(stored(volume, series, tmp_path, **options))
        of[name] = ds.SOPInstanceUID
        assert len(ds.SOPInstanceUID) <= 64
        assert ds.file_meta.MediaStorageSOPInstanceUID == ds.SOPInstanceUID
    assert len(set(of.values())) == len(cases)


def test_files_by_their_name_header_and_time(series: Path, tmp_path: Path):
    image = component_of(by_number(series))
    image.header["descrip"] = b"iFIM orth; Net 0123abcd; research use only"
    nib.save(image, tmp_path / "ct_ifim_orth.nii.gz")
    path = mi.write_parametric_map(tmp_path / "ct_ifim_orth.nii.gz", series, tmp_path / "a.dcm")
    ds = pydicom.dcmread(path)
    assert (ds.ContentLabel, ds.ManufacturerModelName) == ("IFIM_ORTH", "Net 0123abcd")
    made = datetime.fromtimestamp((tmp_path / "ct_ifim_orth.nii.gz").stat().st_mtime)
    assert made.strftime("%Y%m%d") == ds.ContentDate
    nib.save(image, tmp_path / "other.nii.gz")
    with pytest.raises(ValueError, match="expected a component from"):
        mi.write_parametric_map(tmp_path / "other.nii.gz", series, tmp_path / "b.dcm")


def test_channels(series: Path, tmp_path: Path):
    slices = by_number(series)
    values = np.asarray(component_of(slices).dataobj)
    image = nib.Nifti1Image(np.stack([values, -values], -1), affine_of(slices))
    with pytest.raises(ValueError, match="expected one channel, got 2"):
        stored(image, series, tmp_path)
    path = stored(image, series, tmp_path, channel=1)
    frames, _ = frames_of(path)
    np.testing.assert_array_equal(frames[0], 0.25 - slices[0].pixel_array.astype("f4") / 1000)
    second = pydicom.dcmread(path)
    first = pydicom.dcmread(stored(image, series, tmp_path, channel=0))
    # Each in a series of its own: in one, both would have the same number.
    assert second.SeriesInstanceUID != first.SeriesInstanceUID
    assert second.SeriesDescription.startswith("iFIM high, channel 2, research use only")


def test_data_sets_in_memory_stay_as_they_are(series: Path, tmp_path: Path):
    slices = by_number(series)
    before = [ds.to_json() for ds in slices]
    path = stored(component_of(slices), slices[::-1], tmp_path)
    assert path.read_bytes() == stored(component_of(slices), series, tmp_path).read_bytes()
    assert [ds.to_json() for ds in slices] == before


def test_names_in_other_scripts(tmp_path: Path):
    fields = {"SpecificCharacterSet": "ISO_IR 100", "PatientName": "Jörg^Müller"}
    write_series(tmp_path / "ct", **fields)
    image = component_of(by_number(tmp_path / "ct"))
    for model, charset in (("Net 1", "ISO_IR 100"), ("网络 1", "ISO_IR 192")):
        ds = pydicom.dcmread(stored(image, tmp_path / "ct", tmp_path, model=model))
        assert (str(ds.PatientName), ds.SpecificCharacterSet) == ("Jörg^Müller", charset)
        assert ds.ManufacturerModelName == model


@pytest.mark.filterwarnings("ignore:Invalid value for VR:UserWarning")
def test_headers_of_files_in_use(tmp_path: Path):
    """Dates that are none, a sex that DICOM does not know, no thickness."""
    fields = {"PatientBirthDate": "unknown", "PatientSex": "?", "StudyTime": "noon"}
    write_series(tmp_path / "ct", PatientName="ANON 12", **fields)
    ds = pydicom.dcmread(tmp_path / "ct" / "IM095")
    del ds.SliceThickness
    ds.save_as(tmp_path / "ct" / "IM095")
    slices = by_number(tmp_path / "ct")
    made = pydicom.dcmread(stored(component_of(slices), tmp_path / "ct", tmp_path))
    assert made.PatientName == "ANON 12"
    assert [made.PatientBirthDate, made.PatientSex, made.StudyTime] == ["", "", ""]
    assert complaints(tmp_path / "map.dcm") == []


def test_a_series_without_a_study(series: Path, tmp_path: Path):
    image = component_of(by_number(series))
    for path in series.iterdir():
        ds = pydicom.dcmread(path)
        del ds.StudyInstanceUID
        ds.save_as(path)
    with pytest.raises(ValueError, match="expected DICOM images with StudyInstanceUID, got"):
        stored(image, series, tmp_path)


def test_without_highdicom(series: Path, tmp_path: Path, monkeypatch):
    image = component_of(by_number(series))
    monkeypatch.setitem(sys.modules, "highdicom", None)  # importing it raises ImportError
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'monai_ifim\[dicom\]'"):
        stored(image, series, tmp_path)
