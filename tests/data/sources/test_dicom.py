"""DICOM: one image for each series and orientation, as a regular volume or with the reason."""

import csv
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest
import torch
from monai.data import Dataset, PydicomReader
from monai.engines import SupervisedEvaluator
from monai.transforms import Compose, EnsureChannelFirstd, LoadImage, LoadImaged, ScaleIntensityd

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
from _helpers.networks import smooth_network
from monai_ifim.data.datalist import folder_content
from monai_ifim.data.sources.dicom import files_of, problem_of, read_slices
from monai_ifim.data.sources.limits import check_source
from monai_ifim.data.sources.readers import SeriesReader, use_own_readers

pytest.importorskip("highdicom")
HEAD = Path(__file__).parents[4] / "shared" / "data" / "dicom_small_head"
PLANES = {"axial": AXIAL, "sagittal": SAGITTAL, "coronal": CORONAL, "oblique": OBLIQUE}
plane = pytest.mark.parametrize("orientation", PLANES.values(), ids=PLANES)


def load(source, **options):
    loader = LoadImage(**options)
    use_own_readers(loader)
    return loader(source)


def problem(folder) -> str:
    return problem_of(read_slices(files_of(folder)))


def run(entries, tmp_path: Path, dims: int = 3):
    """Rows and volumes of a run over a data list."""
    preprocessing = Compose(
        [
            LoadImaged("image"),
            EnsureChannelFirstd("image"),
            mi.CheckImaged("image", 1, dims),
            ScaleIntensityd("image"),
        ]
    )
    save = mi.SaveComponentsd(
        ["ifim_high", "ifim_orth"], tmp_path / "out", preprocessing, data_root_dir=tmp_path
    )
    SupervisedEvaluator(
        device=torch.device("cpu"),
        val_data_loader=mi.FaultTolerantDataLoader(Dataset(entries, preprocessing), batch_size=1),
        network=smooth_network(dims),
        val_handlers=[mi.IFIMHandler(output_dir=tmp_path / "out", postprocessing=save)],
    ).run()
    with open(tmp_path / "out" / "ifim.csv", newline="") as file:
        rows = {
            str(Path(r["file"]).relative_to(tmp_path)): r["status"] for r in csv.DictReader(file)
        }
    files = sorted((tmp_path / "out").rglob("*.nii.gz"))
    return rows, {str(f.relative_to(tmp_path / "out")): nib.load(f) for f in files}


class TestGeometry:
    @plane
    def test_a_series_whatever_the_order_of_its_files(self, tmp_path, orientation):
        expected = write_series(tmp_path / "s", orientation=orientation)
        image = load(str(tmp_path / "s"))
        assert np.array_equal(image.numpy(), expected)
        row, column = np.array(orientation[:3]), np.array(orientation[3:])
        normal = np.cross(row, column)
        lps = np.eye(4)
        lps[:3] = np.c_[row * 0.75, column * 0.5, normal * 3, np.array([-10, 20, 7]) + 3 * normal]
        assert np.allclose(image.affine, np.diag([-1, -1, 1, 1]) @ lps, atol=1e-5)
        assert image.meta["space"] == "RAS"
        assert image.meta["filename_or_obj"] == str(tmp_path / "s")

    @plane
    @pytest.mark.parametrize("fields", [{}, {"FrameOfReferenceUID": None}])
    def test_a_single_slice_has_the_normal_as_third_axis(self, tmp_path, orientation, fields):
        values = write_slice(tmp_path / "one.dcm", ImageOrientationPatient=orientation, **fields)
        image = load(str(tmp_path / "one.dcm"))
        assert np.array_equal(image.numpy(), values.T)
        axes = image.affine.numpy()[:3, :3]
        normal = np.cross(orientation[:3], orientation[3:]) * [-1, -1, 1]
        assert np.allclose(axes[:, 2], 3 * normal, atol=1e-6)
        assert np.allclose(np.linalg.norm(axes, axis=0), [0.75, 0.5, 3])

    @pytest.mark.parametrize(
        ("fields", "thickness"),
        [
            ({"SpacingBetweenSlices": 4.5}, 4.5),
            ({"SliceThickness": None}, 1),
            ({"SliceThickness": 0}, 1),
        ],
    )
    def test_the_thickness_of_a_single_slice(self, tmp_path, fields, thickness):
        write_slice(tmp_path / "one.dcm", **fields)
        affine = load(str(tmp_path / "one.dcm")).affine
        assert np.allclose(affine[:3, 2], [0, 0, thickness])

    def test_rescaled_values(self, tmp_path):
        values = write_slice(tmp_path / "one.dcm", RescaleSlope=2.5, RescaleIntercept=-1000)
        assert np.allclose(load(str(tmp_path / "one.dcm")).numpy(), values.T * 2.5 - 1000)

    @pytest.mark.parametrize("options", [{}, {"swap_ij": False}, {"affine_lps_to_ras": False}])
    def test_a_named_reader_keeps_its_conventions(self, tmp_path, options):
        """MONAI's own reader is right where the slices ascend along z: both give the same."""
        write_series(tmp_path / "s")
        for file in (tmp_path / "s").iterdir():
            file.rename(file.with_suffix(".dcm"))
        expected = LoadImage(PydicomReader(**options))(str(tmp_path / "s"))
        image = load(str(tmp_path / "s"), reader=PydicomReader(**options))
        assert np.array_equal(image.numpy(), expected.numpy())
        assert np.allclose(image.affine, expected.affine)
        assert image.meta["space"] == expected.meta["space"]

    def test_colour_has_channels_and_no_depth(self, tmp_path):
        file = SHIPPED / "SC_rgb_rle.dcm"
        image = EnsureChannelFirstd("image")({"image": load(str(file))})["image"]
        assert image.shape == (3, 100, 100)
        pixels = pydicom.dcmread(file).pixel_array
        assert np.array_equal(image.numpy(), pixels.transpose(2, 1, 0))

    def test_palette_is_refused(self):
        with pytest.raises(ValueError, match="got numbers of a colour palette"):
            load(str(SHIPPED / "examples_palette.dcm"))

    @pytest.mark.skipif(not HEAD.is_dir(), reason="the shared series of a head is not there")
    def test_a_real_series_is_as_monai_reads_it(self, tmp_path):
        for file in HEAD.glob("*.dcm"):  # MONAI warns of the text beside them
            shutil.copy(file, tmp_path)
        expected = LoadImage()(str(tmp_path))
        image = load(str(HEAD))
        assert np.array_equal(image.numpy(), expected.numpy())
        assert np.allclose(image.affine, expected.affine, atol=1e-4)


class TestRefused:
    def test_missing_slice(self, tmp_path):
        write_series(tmp_path, numbers=[1, 2, 3, 5, 6])
        text = problem(tmp_path)
        assert "got 5 slices 3 to 6 mm apart (slices are missing)" in text

    def test_unequal_spacing(self, tmp_path):
        for number, height in enumerate([0, 3, 7.11, 9]):
            write_slice(tmp_path / str(number), ImagePositionPatient=[0, 0, height])
        assert "unequal spacing, or a tilted gantry" in problem(tmp_path)

    def test_two_slices_at_one_position(self, tmp_path):
        write_series(tmp_path)
        write_series(tmp_path, prefix="echo2-")
        assert "got 14 slices at 7 positions" in problem(tmp_path)

    def test_two_series_that_fill_one_size(self, tmp_path):
        write_series(tmp_path, numbers=[1, 2, 3])
        write_series(tmp_path, numbers=[4, 5, 6, 7], series="1.2.4")
        assert "expected one DICOM series, got 2 among 7 files" in problem(tmp_path)
        with pytest.raises(ValueError, match="expected one DICOM series"):
            load(str(tmp_path))

    def test_localizer(self, tmp_path):
        for name, orientation in PLANES.items():
            write_series(tmp_path, numbers=[1], orientation=orientation, prefix=name)
        assert "got 4 orientations among 4 files (a localizer?)" in problem(tmp_path)

    def test_slices_of_two_sizes(self, tmp_path):
        write_series(tmp_path)
        write_slice(tmp_path / "other", 9, pixels=values_of(9, rows=8))
        assert "got [(6, 5), (8, 5)] rows and columns" in problem(tmp_path)

    @pytest.mark.parametrize("name", ["rtdose.dcm", "examples_ybr_color.dcm"])
    def test_several_frames(self, name):
        with pytest.raises(ValueError, match="expected one frame for each file"):
            load(str(SHIPPED / name))

    def test_pictures_without_a_place(self, tmp_path):
        for name in ("CR1/6154", "CR2/6247"):
            file = SHIPPED / "dicomdirtests" / "77654033" / name
            shutil.copy(file, tmp_path)
        assert "without; give each picture as an image of its own" in problem(tmp_path)
        assert len(folder_content(tmp_path).images) == 2

    def test_a_damaged_slice_is_an_image_of_its_own(self, tmp_path):
        write_series(tmp_path)
        (tmp_path / "damaged.dcm").write_bytes(b"no DICOM")
        content = folder_content(tmp_path)
        assert [len(image) for image in content.images if isinstance(image, list)] == [7]
        assert str(tmp_path / "damaged.dcm") in content.images

    def test_a_slice_that_ends_before_its_size_is_damaged(self, tmp_path):
        write_series(tmp_path)
        whole = (tmp_path / "IM095").read_bytes()
        (tmp_path / "IM095").write_bytes(whole[: whole.index(b"\x28\x00\x10\x00")])  # Rows
        content = folder_content(tmp_path)
        assert "header that cannot be read" in content.refused[str(tmp_path / "IM095")]

    @pytest.mark.parametrize("name", ["SeriesInstanceUID", "PixelSpacing"])
    def test_a_missing_field_is_named(self, tmp_path, name):
        for number in range(3):
            write_slice(tmp_path / f"{number}", number, **{name: None})
        assert f"expected slices with {name}, got 0 and 2 more without" in problem(tmp_path)

    def test_without_highdicom_the_message_says_what_to_install(self, tmp_path, monkeypatch):
        write_series(tmp_path)
        monkeypatch.setitem(__import__("sys").modules, "highdicom.spatial", None)
        assert "pip install 'monai_ifim[dicom]'" in problem(tmp_path)


class TestRun:
    def test_series_of_one_folder_have_a_result_each(self, tmp_path):
        data = tmp_path / "data"
        volumes = {
            "1.2.7.1": write_series(data, prefix="1.2.7.", series="1.5", numbers=range(91, 99)),
            "b": write_series(data, series="1.6", prefix="b", orientation=OBLIQUE),
        }
        write_series(data, numbers=[1, 2, 4], series="1.7", prefix="gap")
        write_series(data / "deep" / "er", series="1.8", orientation=SAGITTAL)
        rows, files = run(mi.find_images(data), tmp_path)
        assert {name for name, status in rows.items() if status == "ok"} == {
            "data/1.2.7.002",
            "data/b093",
            "data/deep/er",
        }
        assert "slices are missing" in rows["data/gap096"]
        assert len(rows) == 4
        assert set(files) == {
            f"data/{name}_{key}.nii.gz"
            for name in ("1.2.7.002", "b093", "deep/er")
            for key in ("ifim_high", "ifim_orth")
        }
        for start, expected in [("1.2.7", volumes["1.2.7.1"]), ("b0", volumes["b"])]:
            high, orth = (
                image.get_fdata()
                for name, image in files.items()
                if Path(name).name.startswith(start)
            )
            scaled = (expected - expected.min()) / (expected.max() - expected.min())
            assert np.allclose(high + orth, scaled, atol=1e-5)

    def test_the_pictures_of_a_localizer_one_by_one(self, tmp_path):
        shutil.copytree(SHIPPED / "dicomdirtests" / "98892003" / "MR700", tmp_path / "in")
        rows, files = run(mi.find_images(tmp_path / "in"), tmp_path, dims=2)
        assert len(rows) == 7
        assert set(rows.values()) == {"ok"}
        assert len(files) == 14
        for image in files.values():
            axes = image.affine[:3, :3]
            lengths = np.linalg.norm(axes, axis=0)
            assert np.allclose(axes.T @ axes, np.diag(lengths**2), atol=1e-3)
            assert lengths.min() > 0.1

    @pytest.mark.parametrize("reader", [None, "PydicomReader"])
    def test_a_folder_that_a_bundle_lists_itself(self, tmp_path, reader):
        write_series(tmp_path / "two", numbers=[1, 2, 3])
        write_series(tmp_path / "two", numbers=[4, 5, 6], series="1.2.4")
        data = Dataset([{"image": str(tmp_path / "two")}], Compose([LoadImaged("image", reader)]))
        loader = mi.FaultTolerantDataLoader(data, batch_size=1)
        assert list(loader) == []
        assert "expected one DICOM series, got 2" in loader.failures[0].reason


def test_a_segmentation_is_no_image_and_no_fault(tmp_path):
    write_series(tmp_path)
    shutil.copy(SHIPPED / "liver_1frame.dcm", tmp_path)
    content = folder_content(tmp_path)
    assert len(content.images) == 1
    assert content.left_out == {str(tmp_path / "liver_1frame.dcm"): "DICOM with a segmentation"}
    check_source(str(tmp_path / "liver_1frame.dcm"))
    assert load(str(tmp_path)).shape == (5, 6, 7)


def test_readers_are_registered_once():
    loader = LoadImaged("image")
    nested = Compose([Compose([loader])])
    use_own_readers(nested)
    count = len(loader._loader.readers)
    use_own_readers([nested, loader])
    assert len(loader._loader.readers) == count
    assert isinstance(loader._loader.readers[-1], SeriesReader)
