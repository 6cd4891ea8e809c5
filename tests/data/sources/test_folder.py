"""Every file below a folder is taken, refused or left out, and what is not taken is named."""

import logging
import os
import random
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from monai.data import Dataset
from monai.transforms import Compose, LoadImaged
from PIL import Image

import monai_ifim as mi
from _helpers.dicom import SHIPPED, write_series, write_slice
from monai_ifim.data.datalist import folder_content, image_root
from monai_ifim.data.sources import formats

pytest.importorskip("pydicom")


def touch(top: Path, *names: str) -> None:
    for name in names:
        (top / name).parent.mkdir(parents=True, exist_ok=True)
        (top / name).write_bytes(b"")


def found(top: Path) -> list[str]:
    return [str(Path(entry["image"]).relative_to(top)) for entry in mi.find_images(top)]


class TestLinks:
    def test_links_to_folders_and_files_are_followed(self, tmp_path):
        touch(tmp_path / "store", "far/b.nii.gz", "single.nii")
        touch(tmp_path / "data", "near/a.nii.gz")
        (tmp_path / "data" / "far").symlink_to(tmp_path / "store" / "far")
        (tmp_path / "data" / "one.nii").symlink_to(tmp_path / "store" / "single.nii")
        assert found(tmp_path / "data") == ["far/b.nii.gz", "near/a.nii.gz", "one.nii"]

    def test_the_folder_itself_may_be_a_link(self, tmp_path):
        touch(tmp_path / "store", "a.nii.gz")
        (tmp_path / "data").symlink_to(tmp_path / "store")
        assert found(tmp_path / "data") == ["a.nii.gz"]

    def test_loops_end(self, tmp_path):
        touch(tmp_path / "data", "a/a.nii.gz", "b/b.nii.gz")
        (tmp_path / "data" / "a" / "up").symlink_to(tmp_path / "data")
        (tmp_path / "data" / "b" / "self").symlink_to(tmp_path / "data" / "b")
        (tmp_path / "data" / "a" / "other").symlink_to(tmp_path / "data" / "b")
        assert found(tmp_path / "data") == ["a/a.nii.gz", "b/b.nii.gz"]
        assert len(folder_content(tmp_path / "data").left_out) == 3

    def test_two_links_to_one_folder_give_its_images_once(self, tmp_path):
        touch(tmp_path / "store", "a.nii.gz")
        (tmp_path / "data").mkdir()
        for name in "xy":
            (tmp_path / "data" / name).symlink_to(tmp_path / "store")
        assert found(tmp_path / "data") == ["x/a.nii.gz"]
        left = folder_content(tmp_path / "data").left_out
        assert left == {str(tmp_path / "data" / "y"): "a link to a folder that is searched already"}

    def test_a_link_to_a_folder_above(self, tmp_path):
        touch(tmp_path / "top", "data/a.nii.gz", "beside/b.nii.gz")
        (tmp_path / "top" / "data" / "up").symlink_to(tmp_path / "top")
        assert found(tmp_path / "top" / "data") == ["a.nii.gz", "up/beside/b.nii.gz"]

    def test_a_link_to_nothing_is_refused(self, tmp_path):
        touch(tmp_path, "a.nii.gz")
        (tmp_path / "gone.nii.gz").symlink_to(tmp_path / "nowhere")
        content = folder_content(tmp_path)
        assert list(content.refused) == [str(tmp_path / "gone.nii.gz")]
        assert len(content.images) == 2


class TestFormats:
    def test_all_that_the_readers_know(self, tmp_path):
        names = ["a.nii", "b.NII.GZ", "c.mgz", "d.MGH", "e.img", "f.png", "g.JPG", "h.tiff"]
        touch(tmp_path, *names, "e.hdr")
        assert found(tmp_path) == sorted(names)
        assert folder_content(tmp_path).refused == {}

    def test_a_pair_is_one_image_and_a_half_none(self, tmp_path):
        touch(tmp_path, "pair.HDR", "pair.img", "alone.img", "lonely.hdr")
        content = folder_content(tmp_path)
        assert [Path(image).name for image in content.images] == ["pair.img"]
        assert len(content.taken) == 2
        assert set(content.left_out.values()) == {"half of a pair of .hdr and .img"}
        assert mi.find_images(tmp_path / "pair.img") == [{"image": str(tmp_path / "pair.img")}]

    @pytest.mark.parametrize(
        ("name", "package"), [("a.nrrd", "pynrrd"), ("a.MHA", "itk-io"), ("a.png", "pillow")]
    )
    def test_a_missing_reader_is_named_and_the_image_stays(
        self, tmp_path, monkeypatch, name, package
    ):
        monkeypatch.setattr(formats, "_installed", lambda module: module == "nibabel")
        touch(tmp_path, name, "b.nii.gz")
        (text,) = folder_content(tmp_path).refused.values()
        assert f"pip install {package} (or 'monai_ifim[images]'" in text
        assert sorted(found(tmp_path)) == sorted([name, "b.nii.gz"])
        loader = mi.FaultTolerantDataLoader(
            Dataset([{"image": str(tmp_path / name)}]), batch_size=1
        )
        assert list(loader) == []
        assert f"pip install {package}" in loader.failures[0].reason

    def test_values_beside_their_header_belong_to_it(self, tmp_path):
        touch(tmp_path, "a.mhd", "a.raw", "b.raw")
        content = folder_content(tmp_path)
        assert content.left_out == {str(tmp_path / "b.raw"): "not an image's suffix"}

    # nibabel leaves the file of an uncompressed .mgh open
    @pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
    @pytest.mark.parametrize("name", ["a.mgz", "a.mgh", "a.img", "a.nii", "a.NII.gz", "a.tif"])
    def test_each_is_read_with_its_values_and_affine(self, tmp_path, name):
        values = np.random.default_rng(3).random((4, 5, 6)).astype(np.float32)
        affine = np.diag([-2.0, 3, 4, 1])
        if name == "a.tif":
            values, affine = values[:, :, 0], np.eye(4)
            Image.fromarray(values.T).save(tmp_path / name)
        else:
            kinds = {"mgz": nib.MGHImage, "mgh": nib.MGHImage, "img": nib.Nifti1Pair}
            kind = kinds.get(name.rsplit(".", maxsplit=1)[-1], nib.Nifti1Image)
            nib.save(kind(values, affine), tmp_path / name)
        data = Dataset(mi.find_images(tmp_path), Compose([LoadImaged("image")]))
        loader = mi.FaultTolerantDataLoader(data, batch_size=1)
        (batch,) = loader
        assert np.array_equal(batch["image"][0].numpy(), values)
        if name != "a.tif":  # a picture has no place; ITK gives it another than Pillow
            assert np.allclose(batch["image"].affine[0], affine)


class TestSummary:
    def test_one_warning_names_what_is_not_taken(self, tmp_path, caplog):
        touch(tmp_path, "a.nii.gz", "a_ifim_high.nii.gz", "notes.txt", ".hidden.png", ".git/x")
        touch(tmp_path, *(f"{n}.csv" for n in range(9)))
        shutil.copy(SHIPPED / "reportsi.dcm", tmp_path)
        with caplog.at_level(logging.WARNING, logger="monai_ifim"):
            mi.find_images(tmp_path)
            image_root(tmp_path)
        (record,) = caplog.records
        text = record.getMessage()
        assert "found 15 files: 1 taken, 0 refused, 14 left out; 1 images" in text
        assert "10 left out (0.csv, 1.csv, 2.csv, 3.csv, 4.csv and 5 more): not an image" in text
        assert "1 left out (a_ifim_high.nii.gz): our own result" in text
        assert "1 left out (reportsi.dcm): DICOM without an image" in text
        assert "2 left out (.git, .hidden.png): hidden" in text

    def test_results_of_further_images_of_a_file_are_left_out(self, tmp_path):
        names = ["a_ifim_orth_1.nii.gz", "a_ifim_high_0_2.nii", "a_ifim_sensitivity_12.nii.gz"]
        touch(tmp_path, "a.nii.gz", "ifim_high_1b.nii.gz", *names)
        content = folder_content(tmp_path)
        assert {Path(path).name for path in content.left_out} == set(names)
        assert set(content.left_out.values()) == {"our own result"}

    def test_nothing_to_say(self, tmp_path, caplog):
        touch(tmp_path, "a.nii.gz")
        mi.find_images(tmp_path)
        assert not caplog.records

    def test_a_name_that_is_no_text(self, tmp_path, caplog):
        name = os.fsdecode(b"scan\xff.txt")
        touch(tmp_path, "a.nii.gz", name)
        mi.find_images(tmp_path)
        assert r"scan\udcff.txt" in caplog.text

    def test_a_pipe_is_never_opened(self, tmp_path):
        for name in ("a.png", "b.dcm", "c"):
            os.mkfifo(tmp_path / name)
        content = folder_content(tmp_path)
        assert len(content.refused) == 2
        assert len(content.left_out) == 1

    @pytest.mark.parametrize("seed", range(100))
    def test_the_numbers_of_a_mixed_folder_add_up(self, tmp_path, seed):
        chance = random.Random(seed)
        top = tmp_path / "top"
        for number in range(chance.randint(2, 6)):
            folder = top / "/".join(chance.choices("abc", k=chance.randint(1, 3)))
            kind = chance.randint(0, 5)
            if kind == 0:
                numbers = chance.sample(range(9), chance.randint(1, 6))
                write_series(folder, numbers, f"1.{number}", prefix=f"{number}-")
            elif kind == 1:
                touch(folder, f"{number}.nii.gz", "labels.csv", "DICOMDIR", ".hidden/x.nii")
            elif kind == 2:
                write_slice(folder / f"X{number}", ImagePositionPatient=None)
            elif kind == 3:
                touch(folder, f"{number}.dcm", f"{number}.img", f"{number}.hdr", f"z{number}.hdr")
            elif kind == 4:
                folder.mkdir(parents=True, exist_ok=True)
                if not (folder / "up").is_symlink():
                    (folder / "up").symlink_to(top)
                (folder / f"{number}.png").symlink_to("nowhere")
            else:
                touch(folder, os.fsdecode(b"\xe9,=\n.PNG"), f"{number}_ifim_orth.nii")
        touch(top, "one.nii")
        content = folder_content(top)
        hidden = [p for p in top.rglob("*") if p.name == ".hidden"]
        there = {str(p) for p in top.rglob("*") if p.parent.name != ".hidden" and not p.is_dir()}
        there |= {str(p) for p in (*hidden, *top.rglob("up"))}
        parts = [*content.taken, *content.refused, *content.left_out]
        assert sorted(parts) == sorted(there)
        assert content.found == len(parts)
        listed = [i if isinstance(i, list) else [i] for i in content.images]
        assert len({paths[0] for paths in listed}) == len(listed)
