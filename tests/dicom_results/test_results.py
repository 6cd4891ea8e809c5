"""A run's results as DICOM objects: maps, picture and numbers of each row, in its own study."""

import csv
import os
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest

from _helpers.commands import refused, rows_of, told
from _helpers.dicom import AXIAL, OBLIQUE, SAGITTAL, SHIPPED, write_series
from _helpers.dicom_objects import (
    VOLUMES,
    by_number,
    complaints,
    component_of,
    enhanced,
    frames_of,
    mr_series,
    needs_validator,
    position_of,
    run,
    source_of,
)
from _helpers.foreign_bundles import write_scan
from monai_ifim.cli import main
from monai_ifim.data.datalist import folder_content
from monai_ifim.dicom.picture import case_pixels
from monai_ifim.report.cases.folder import RunFolder

pytest.importorskip("highdicom")
pytestmark = pytest.mark.filterwarnings("ignore:NvImgCodecPydicomReader:UserWarning")
X_RAY = SHIPPED / "dicomdirtests" / "77654033" / "CR1" / "6154"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study of three series, two of them in one folder, and its results; left as they are."""
    folder = tmp_path_factory.mktemp("made")
    write_series(
        folder / "study" / "a", range(1, 10), "1.2.3", AXIAL, PatientID="P1", PatientName="ANON"
    )
    write_series(folder / "study" / "b", range(1, 8), "1.2.4", OBLIQUE)
    write_series(folder / "study" / "b", range(1, 9), "1.2.5", SAGITTAL, prefix="X")
    assert run(folder / "study", folder / "out").complete
    return folder


@pytest.fixture
def study(made: Path, tmp_path: Path) -> Path:
    """A copy, of which files keep their times."""
    shutil.copytree(made, tmp_path / "made")
    hidden = tmp_path / "made" / "out" / ".ifim"
    for file in (*hidden.iterdir(), tmp_path / "made" / "out" / "ifim.csv"):
        file.write_text(file.read_text().replace(str(made), str(tmp_path / "made")))
    return tmp_path / "made"


def slices_of(series: str, folder: Path) -> list[pydicom.Dataset]:
    found = [ds for ds in by_number(folder) if ds.SeriesInstanceUID == series]
    assert found
    return found


def objects(folder: Path) -> dict[str, pydicom.Dataset]:
    return {path.stem: pydicom.dcmread(path) for path in sorted(folder.glob("*.dcm"))}


def measurements(report: pydicom.Dataset) -> dict[tuple[str, str], float]:
    """Value by code and tracking identifier, with pydicom alone."""
    group = report.ContentSequence[-1].ContentSequence[0].ContentSequence
    return {
        (
            item.ConceptNameCodeSequence[0].CodeValue,
            item.ContentSequence[0].TextValue,
        ): item.MeasuredValueSequence[0].FloatingPointValue
        for item in group
        if item.ValueType == "NUM"
    }


def texts(report: pydicom.Dataset) -> dict[str, str]:
    group = report.ContentSequence[-1].ContentSequence[0].ContentSequence
    return {
        item.ConceptNameCodeSequence[0].CodeValue: item.TextValue
        for item in group
        if item.ValueType == "TEXT"
    }


def test_every_series_has_its_objects(study: Path, capsys):
    said = told(capsys, "dicom", study / "out")
    assert "3 images as 15 DICOM objects" in said
    assert "Research use only" in said
    found = objects(study / "out" / "dicom")
    names = {"a": "1.2.3", "IM093": "1.2.4", "X092": "1.2.5"}
    kinds = {"high", "orth", "sensitivity", "picture", "numbers"}
    assert set(found) == {f"{name}_ifim_{kind}" for name in names for kind in kinds}
    for name, series in names.items():
        slices = slices_of(series, study / "study" / ("a" if name == "a" else "b"))
        for kind in VOLUMES:
            nifti = nib.load(study / "out" / f"{name}_ifim_{kind}.nii.gz")
            to_index = np.linalg.inv(nifti.affine)
            frames, groups = frames_of(study / "out" / "dicom" / f"{name}_ifim_{kind}.dcm")
            assert len(frames) == len(slices)
            for frame, group, ds in zip(frames, groups, slices, strict=True):
                assert source_of(group).ReferencedSOPInstanceUID == ds.SOPInstanceUID
                place = np.array([*position_of(group), 1]) * [-1, -1, 1, 1]
                index = tuple(np.rint(to_index @ place).astype(int)[:3])
                assert frame[0, 0] == nifti.dataobj[index]
        for kind in kinds:
            ds = found[f"{name}_ifim_{kind}"]
            assert ds.StudyInstanceUID == slices[0].StudyInstanceUID
            assert ds.PatientID == slices[0].get("PatientID", "")
            assert "research use only" in ds.SeriesDescription


def test_the_report_holds_the_numbers_of_the_table(study: Path, capsys):
    from highdicom.sr import srread

    told(capsys, "dicom", study / "out")
    row = next(row for row in rows_of(study / "out") if row["file"].endswith("/a"))
    report = objects(study / "out" / "dicom")["a_ifim_numbers"]
    assert report.Modality == "SR"
    said = measurements(report)
    values = [float(row[f"eigenvalue_{i}"]) for i in (1, 2, 3)]
    wanted = {("IFIM-PROB", f"class {k}"): float(row[f"probability_{k}"]) for k in range(4)}
    wanted |= {("IFIM-EIGEN", f"eigenvalue {i}"): v for i, v in enumerate(values, 1)}
    wanted |= {
        ("IFIM-TRACE", "trace"): float(row["trace"]),
        ("IFIM-TSHARE", "trace share"): float(row["trace_share"]),
        ("IFIM-ESHARE", "energy share"): float(row["high_energy_share"]),
        ("IFIM-FLIP", f"class {row['flip_class']}"): float(row["flip_distance"]),
        ("IFIM-ERANK", "effective rank"): sum(values) ** 2 / sum(v * v for v in values),
    }
    assert said == pytest.approx(wanted)
    (group,) = srread(
        study / "out" / "dicom" / "a_ifim_numbers.dcm"
    ).content.get_image_measurement_groups()
    assert len(group.get_measurements()) == len(wanted)
    assert texts(report)["IFIM-CLASS"] == row["predicted_class"]
    assert "not a diagnosis" in texts(report)["121106"]
    library = report.ContentSequence[-2].ContentSequence
    source, results = (
        [item.ReferencedSOPSequence[0].ReferencedSOPInstanceUID for item in group.ContentSequence]
        for group in library
    )
    assert source == [ds.SOPInstanceUID for ds in by_number(study / "study" / "a")]
    found = objects(study / "out" / "dicom")
    assert results == [found[f"a_ifim_{kind}"].SOPInstanceUID for kind in (*VOLUMES, "picture")]
    evidence = [
        item.ReferencedSOPInstanceUID
        for study_item in report.CurrentRequestedProcedureEvidenceSequence
        for series in study_item.ReferencedSeriesSequence
        for item in series.ReferencedSOPSequence
    ]
    assert sorted(evidence) == sorted([*source, *results])


def test_the_picture_is_that_of_the_report(study: Path, capsys):
    told(capsys, "dicom", study / "out", "--objects", "picture")
    found = objects(study / "out" / "dicom")
    assert len(found) == 3
    folder = RunFolder(study / "out")
    row = next(row for row in folder.rows if row["file"].endswith("/a"))
    np.testing.assert_array_equal(found["a_ifim_picture"].pixel_array,
                                  case_pixels(folder.case(row)))  # fmt: skip
    picture = found["a_ifim_picture"]
    assert picture.SOPClassUID.name == "Secondary Capture Image Storage"
    assert picture.BurnedInAnnotation == "YES"
    assert len(picture.SourceImageSequence) == 9


def test_written_again_they_are_the_same(study: Path, capsys):
    told(capsys, "dicom", study / "out")
    folder = study / "out" / "dicom"
    first = {path.name: path.read_bytes() for path in folder.iterdir()}
    told(capsys, "dicom", study / "out")
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == first
    uids = [ds.SOPInstanceUID for ds in objects(folder).values()]
    series = {ds.SeriesInstanceUID for ds in objects(folder).values()}
    assert len(set(uids)) == len(series) == 15


@needs_validator
def test_the_validator_finds_no_error(study: Path, capsys):
    told(capsys, "dicom", study / "out")
    paths = sorted((study / "out" / "dicom").iterdir())
    assert {path.name: complaints(path) for path in paths} == {path.name: [] for path in paths}
    broken = pydicom.dcmread(study / "out" / "dicom" / "a_ifim_high.dcm")
    del broken.ContentLabel
    broken.save_as(study / "broken.dcm")
    assert any("ContentLabel" in line for line in complaints(study / "broken.dcm"))


def test_a_row_that_cannot_be_converted_leaves_the_others_alone(study: Path, capsys):
    folder = study / "out"
    image = nib.load(folder / "IM093_ifim_high.nii.gz")
    moved = image.affine + np.eye(4)[:, [0, 0, 0, 0]] * [0, 0, 0, 0.4]
    nib.save(nib.Nifti1Image(np.asarray(image.dataobj), moved), folder / "IM093_ifim_high.nii.gz")
    said = told(capsys, "dicom", folder, status=1)
    assert "2 images as 10 DICOM objects" in said
    (line,) = [line for line in said.splitlines() if "failed" in line]
    assert "study/b/IM093: ValueError: expected a volume whose voxels lie on those of" in line
    names = {path.name.split("_")[0] for path in (folder / "dicom").iterdir()}
    assert names == {"a", "X092"}


def test_results_that_failed_are_told(tmp_path: Path, capsys):
    write_series(tmp_path / "study" / "a")
    write_series(tmp_path / "study" / "gap", [1, 2, 4, 5])
    assert not run(tmp_path / "study", tmp_path / "out").complete
    said = told(capsys, "dicom", tmp_path / "out", status=1)
    assert "1 images as 5 DICOM objects" in said
    assert "study/gap: no result (failed: RefusedError: expected equally spaced" in said


def test_series_that_have_moved_or_changed(study: Path, capsys):
    (study / "study").rename(study / "archive")
    said = told(capsys, "dicom", study / "out", status=1)
    assert said.count("got nothing there; name its folder with --source") == 3
    said = told(capsys, "dicom", study / "out", "--source", study / "archive")
    assert "3 images as 15 DICOM objects" in said
    (study / "archive").rename(study / "study")
    os.utime(study / "study" / "a" / "IM095", (1, 2e9))
    said = told(capsys, "dicom", study / "out", status=1)
    assert "expected the files of" in said
    assert "as the run has read them" in said
    assert "2 images as 10 DICOM objects" in said
    told(capsys, "dicom", study / "out", "--source", study / "study" / "a")


def test_a_source_of_another_patient_is_refused(study: Path, capsys):
    write_series(study / "other" / "a", range(1, 10), "1.2.99", step=2.5)
    said = told(capsys, "dicom", study / "out", "--source", study / "other" / "a", status=1)
    assert "2 images as 10 DICOM objects" in said
    assert "/a: ValueError: expected a volume whose voxels lie on those of the series" in said


def test_a_source_that_is_none(study: Path, capsys):
    line = refused(capsys, "dicom", study / "out", "--source", study / "nowhere")
    assert "nowhere, which does not exist; check --source" in line
    line = refused(capsys, "dicom", study / "out", "--source", study / "out")
    assert "got no DICOM image in" in line
    assert "expected" in refused(capsys, "dicom", study / "study")


def test_an_enhanced_image_by_way_of_nifti(tmp_path: Path, capsys):
    """The volume in another order of axes, as converters write it."""
    slices = by_number(mr_series(tmp_path / "mr"))
    source = enhanced(tmp_path / "mr", tmp_path / "multi" / "one.dcm")
    (tmp_path / "nifti").mkdir()
    image = component_of(slices)
    nib.save(nib.as_closest_canonical(image), tmp_path / "nifti" / "head.nii.gz")
    assert run(tmp_path / "nifti", tmp_path / "out", size=None).complete
    line = refused(capsys, "dicom", tmp_path / "out")
    assert "expected images that were DICOM series, got 1 others" in line
    told(capsys, "dicom", tmp_path / "out", "--source", tmp_path / "multi")
    found = objects(tmp_path / "out" / "dicom")
    assert len(found) == 5
    parts = [frames_of(tmp_path / "out" / "dicom" / f"head_ifim_{kind}.dcm") for kind in VOLUMES]
    wanted = source.pixel_array.astype("f8")
    wanted = (wanted - wanted.min()) / np.ptp(wanted)  # as the network saw it
    np.testing.assert_allclose(parts[0][0] + parts[1][0], wanted, atol=1e-6)
    for group, own in zip(parts[0][1], source.PerFrameFunctionalGroupsSequence, strict=True):
        assert position_of(group) == position_of(own)
    assert all(complaints(path) == [] for path in (tmp_path / "out" / "dicom").iterdir())


def test_pictures_without_a_place(tmp_path: Path, capsys):
    """An X-ray and a slice: the one has picture and numbers, the other a map as well."""
    (tmp_path / "in").mkdir()
    shutil.copy(X_RAY, tmp_path / "in" / "xray.dcm")
    shutil.copy(SHIPPED / "CT_small.dcm", tmp_path / "in")
    assert run(tmp_path / "in", tmp_path / "out", dims=2, volumes=["high", "orth"]).complete
    said = told(capsys, "dicom", tmp_path / "out")
    (line,) = [line for line in said.splitlines() if "in part" in line]
    assert "xray.dcm: expected a position and orientation in the patient, got a picture" in line
    found = objects(tmp_path / "out" / "dicom")
    assert set(found) == {
        *("xray_ifim_picture", "xray_ifim_numbers"),
        *(f"CT_small_ifim_{kind}" for kind in ("high", "orth", "picture", "numbers")),
    }
    assert found["xray_ifim_picture"].PatientID == pydicom.dcmread(X_RAY).PatientID
    assert all(complaints(path) == [] for path in (tmp_path / "out" / "dicom").iterdir())


def test_pictures_in_colour(tmp_path: Path, capsys):
    (tmp_path / "in").mkdir()
    shutil.copy(SHIPPED / "SC_rgb_small_odd.dcm", tmp_path / "in")
    assert run(tmp_path / "in", tmp_path / "out", 2, 3, volumes=["high", "orth"]).complete
    told(capsys, "dicom", tmp_path / "out")
    found = objects(tmp_path / "out" / "dicom")
    assert set(found) == {"in_ifim_picture", "in_ifim_numbers"}  # the name of its folder
    assert all(complaints(path) == [] for path in (tmp_path / "out" / "dicom").iterdir())


def test_slices_as_images_of_their_own_share_their_series(tmp_path: Path, capsys):
    """A 2D network over the slices of one series."""
    write_series(tmp_path / "ct", range(1, 4))
    paths = sorted((tmp_path / "ct").iterdir())
    for path in paths:  # a folder each, or they would be one volume
        (tmp_path / "in" / path.name).mkdir(parents=True)
        path.rename(tmp_path / "in" / path.name / f"{path.name}.dcm")
    assert run(tmp_path / "in", tmp_path / "out", dims=2, volumes=["high"]).complete
    said = told(capsys, "dicom", tmp_path / "out")
    assert said.count("no picture: it needs the volumes high and orth") == 3
    maps = [pydicom.dcmread(p) for p in sorted((tmp_path / "out" / "dicom").rglob("*_high.dcm"))]
    assert len(maps) == len({ds.SOPInstanceUID for ds in maps}) == 3
    assert len({ds.SeriesInstanceUID for ds in maps}) == 1
    assert sorted(int(ds.InstanceNumber) for ds in maps) == [1, 2, 3]
    (name,) = {ds.FrameOfReferenceUID for ds in maps}
    assert name == "1.2.9"


@pytest.fixture
def command(tmp_path: Path) -> list[object]:
    """``run --dicom`` of a network over ``tmp_path / "study"``."""
    (tmp_path / "study").mkdir()
    factory = tmp_path / "factory.py"
    factory.write_text("from _helpers.networks import smooth_network\n")
    return [
        *("run", "--network", f"{factory}:smooth_network", "--size", 12, 12, 12, "--dicom"),
        *("--output", tmp_path / "out", "--input", tmp_path / "study"),
    ]


def test_run_with_dicom(command, tmp_path: Path, capsys):
    write_series(tmp_path / "study" / "a", range(1, 10))
    write_scan(tmp_path / "study" / "scan.nii.gz", 1)
    said = told(capsys, *command)
    assert "2 images found, 2 done" in said
    assert "1 images as 4 DICOM objects" in said
    assert "1 images are no DICOM and were left out" in said
    assert len(list((tmp_path / "out" / "dicom").iterdir())) == 4


def test_run_with_dicom_of_other_images(command, tmp_path: Path, capsys):
    write_scan(tmp_path / "study" / "scan.nii.gz", 1)
    assert main([str(part) for part in command]) == 1
    said = capsys.readouterr()
    assert "1 images found, 1 done" in said.out
    assert "expected images that were DICOM series, got 1 others" in said.err


def test_the_last_part_of_a_run_writes_the_objects_of_all(command, tmp_path: Path, capsys):
    write_series(tmp_path / "study" / "a", range(1, 10), "1.2.3")
    write_series(tmp_path / "study" / "b", range(1, 10), "1.2.4")
    said = told(capsys, *command, "--shard", "0/2")
    assert f"DICOM objects: with the table of all parts; then monai-ifim dicom {tmp_path}" in said
    assert not (tmp_path / "out" / "dicom").exists()
    assert "2 images as 8 DICOM objects" in told(capsys, *command, "--shard", "1/2")


def test_objects_of_an_earlier_run_are_moved_with_it(study: Path, capsys):
    told(capsys, "dicom", study / "out")
    shutil.rmtree(study / "study" / "b")
    assert run(study / "study", study / "out", existing="move", rank=1).complete
    (earlier,) = study.glob("out/earlier-*")
    assert len(list((earlier / "dicom").iterdir())) == 15
    assert "1 images as 5 DICOM objects" in told(capsys, "dicom", study / "out")
    assert len(list((study / "out" / "dicom").iterdir())) == 5


def test_results_are_no_images_of_a_later_run(study: Path, capsys):
    """Where a PACS gives them back in the folder of their source."""
    told(capsys, "dicom", study / "out")
    for path in (study / "out" / "dicom").iterdir():
        shutil.copy(path, study / "study" / "a" / f"1.2.{path.name}")
    content = folder_content(study / "study" / "a")
    assert content.images == [str(study / "study" / "a")]
    images = [why for why in content.left_out.values() if why == "our own result"]
    assert len(images) == 12  # reports are no images anyway
    assert len(content.left_out) == 15
    assert run(study / "study", study / "again").complete
    one, other = (nib.load(study / name / "a_ifim_high.nii.gz") for name in ("out", "again"))
    np.testing.assert_array_equal(np.asarray(one.dataobj), np.asarray(other.dataobj))


def test_numbers_that_are_missing_are_left_out(study: Path, capsys):
    table = study / "out" / "ifim.csv"
    with table.open(newline="") as file:
        head, *rows = list(csv.reader(file))
    for row in rows:
        row[head.index("trace_share")] = ""
        row[head.index("flip_distance")] = "inf"
    with table.open("w", newline="") as file:
        csv.writer(file).writerows([head, *rows])
    told(capsys, "dicom", study / "out", "--objects", "numbers")
    codes = {code for code, _ in measurements(objects(study / "out" / "dicom")["a_ifim_numbers"])}
    assert {"IFIM-TRACE", "IFIM-PROB"} <= codes
    assert not {"IFIM-TSHARE", "IFIM-FLIP"} & codes
