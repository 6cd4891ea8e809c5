"""What counts as an image, and which images and classes a section holds."""

from pathlib import Path

import numpy as np
import pytest
import torch
from monai.transforms import Compose, EnsureChannelFirstd
from PIL import Image

from monai_ifim.data.datalist import find_images, labelled_images
from monai_ifim.data.sources.arrays import LoadImageOrArrayd

SIZES = {"training": 7, "validation": 1, "test": 2}


def touch(directory: Path, *names: str, content: bytes = b"") -> None:
    for name in names:
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def found(directory: Path) -> list[str]:
    return [str(Path(e["image"]).relative_to(directory)) for e in find_images(directory)]


def write_table(directory: Path, text: str) -> None:
    touch(directory, "labels.csv", content=text.encode())


def write_arrays(directory: Path, shape: tuple[int, ...] = (4, 5), name: str = "a.npz") -> dict:
    random = np.random.default_rng(0)
    arrays = {}
    for number, split in enumerate(["train", "val", "test"], 3):
        arrays[f"{split}_images"] = random.integers(0, 256, (number, *shape), dtype=np.uint8)
        arrays[f"{split}_labels"] = np.arange(number, dtype=np.uint8)[:, None]
    directory.mkdir(exist_ok=True)
    np.savez(directory / name, class_names=np.array(list("abcde")), **arrays)
    return arrays


class TestFindImages:
    def test_sorted_recursive_and_only_images(self, tmp_path: Path):
        touch(tmp_path, "b.nii.gz", "a.NII", "sub/deep/c.png", "sub/d.jpeg", "e.JPG", "f.tif")
        touch(tmp_path, "labels.csv", "SOURCE.txt", "notes.json", "weights.npz", "g.bmp")
        touch(tmp_path, ".hidden.png", ".git/h.png", "._b.nii.gz")
        wanted = ["a.NII", "b.nii.gz", "e.JPG", "f.tif", "g.bmp", "sub/d.jpeg", "sub/deep/c.png"]
        assert found(tmp_path) == wanted

    def test_unreadable_image_is_listed(self, tmp_path: Path):
        touch(tmp_path, "broken.nii.gz", content=b"not gzip")
        assert found(tmp_path) == ["broken.nii.gz"]

    def test_dicom_series_is_one_image(self, tmp_path: Path):
        magic = bytes(128) + b"DICM"
        touch(tmp_path, "scan.nii", "series/1.dcm", "series/2.dcm", "series/README.txt")
        touch(tmp_path, "bare/IM0001", "bare/1.2.840.7", content=magic)
        touch(tmp_path, "texts/Makefile", "texts/short", content=b"no DICOM here")
        touch(tmp_path, "DICOMDIR", content=magic)
        assert found(tmp_path) == ["bare", "scan.nii", "series"]

    def test_series_itself_and_one_file(self, tmp_path: Path):
        touch(tmp_path, "1.dcm", "2.dcm")
        assert find_images(tmp_path) == [{"image": str(tmp_path)}]
        touch(tmp_path / "other", "a.png")
        assert found(tmp_path / "other") == ["a.png"]
        file = tmp_path / "other" / "a.png"
        assert find_images(str(file)) == [{"image": str(file)}]

    def test_errors_say_how_to_fix_them(self, tmp_path: Path):
        with pytest.raises(FileNotFoundError, match=r"expected a folder .* pass --dataset_dir"):
            find_images(tmp_path / "nowhere")
        touch(tmp_path, "labels.csv")
        for empty in (tmp_path, tmp_path / "labels.csv"):
            with pytest.raises(ValueError, match=r"expected images .* got none .* pass"):
                find_images(empty)


class TestTable:
    def test_rows_of_the_section(self, tmp_path: Path):
        rows = ["path,label,class,split", "n/a.nii,2,x,train", "n/b.nii,0,y,test"]
        write_table(tmp_path, "\n".join([*rows, "n/c.nii,1,z,train"]))
        wanted = [
            {"image": str(tmp_path / f), "label": n} for f, n in [("n/a.nii", 2), ("n/c.nii", 1)]
        ]
        assert labelled_images(tmp_path, "training") == wanted
        assert labelled_images(tmp_path / "labels.csv", "test")[0]["label"] == 0
        with pytest.raises(ValueError, match=r"expected images for validation .* got none"):
            labelled_images(tmp_path, "validation")

    def test_missing_column(self, tmp_path: Path):
        write_table(tmp_path, "path,label\na.nii,1\n")
        with pytest.raises(ValueError, match=r"got \['path', 'label'\]; add split"):
            labelled_images(tmp_path, "training")

    def test_comes_before_arrays(self, tmp_path: Path):
        write_arrays(tmp_path)
        write_table(tmp_path, "path,label,split\na.nii,1,train\n")
        assert labelled_images(tmp_path, "training")[0]["image"] == str(tmp_path / "a.nii")
        assert isinstance(labelled_images(tmp_path / "a.npz", "training")[0]["image"], np.ndarray)


class TestArrays:
    # MONAI's loader warns where no GPU decoder is installed
    @pytest.mark.filterwarnings("ignore:NvImgCodecPydicomReader")
    def test_pictures_are_turned_like_the_reader_does(self, tmp_path: Path):
        arrays = write_arrays(tmp_path / "npz")
        entries = labelled_images(tmp_path / "npz", "test")
        assert [entry["label"] for entry in entries] == [0, 1, 2, 3, 4]
        load = Compose([LoadImageOrArrayd("image"), EnsureChannelFirstd("image")])
        for entry, picture in zip(entries, arrays["test_images"], strict=True):
            file = tmp_path / "picture.png"
            Image.fromarray(picture).save(file)
            image = load(entry)["image"]
            assert image.shape == (1, 5, 4)
            assert torch.equal(image, load({"image": str(file)})["image"])

    def test_volumes_keep_their_axes(self, tmp_path: Path):
        arrays = write_arrays(tmp_path, shape=(3, 4, 5))
        entries = labelled_images(tmp_path, "validation")
        for entry, volume in zip(entries, arrays["val_images"], strict=True):
            assert np.array_equal(entry["image"], volume)

    def test_come_before_class_folders(self, tmp_path: Path):
        write_arrays(tmp_path)
        touch(tmp_path, "x/1.png", "y/1.png")
        assert len(labelled_images(tmp_path, "training")) == 3

    def test_two_files(self, tmp_path: Path):
        write_arrays(tmp_path, name="a.npz")
        write_arrays(tmp_path, name="b.npz")
        with pytest.raises(ValueError, match=r"expected one .npz file, got \['a.npz', 'b.npz'\]"):
            labelled_images(tmp_path, "training")

    def test_other_arrays(self, tmp_path: Path):
        np.savez(tmp_path / "a.npz", weights=np.zeros(3))
        with pytest.raises(ValueError, match=r"train_images and train_labels .* got \['weights'\]"):
            labelled_images(tmp_path, "training")

    def test_several_labels_an_image(self, tmp_path: Path):
        np.savez(
            tmp_path / "a.npz", train_images=np.zeros((2, 4, 4)), train_labels=np.zeros((2, 3))
        )
        with pytest.raises(ValueError, match=r"got images \(2, 4, 4\) and labels \(2, 3\)"):
            labelled_images(tmp_path, "training")


class TestClassFolders:
    @pytest.fixture
    def directory(self, tmp_path: Path) -> Path:
        for name in ["ChestCT", "CXR", "Hand"]:
            touch(tmp_path, *(f"{name}/{i:06d}.jpeg" for i in range(10)))
        touch(tmp_path, "README.md", ".cache/1.png")
        return tmp_path

    def test_blocks_of_the_sorted_files(self, directory: Path):
        first = {"training": 0, "validation": 7, "test": 8}
        for section, size in SIZES.items():
            entries = labelled_images(directory, section)
            assert [e["label"] for e in entries] == [0] * size + [1] * size + [2] * size
            numbers = [Path(e["image"]).stem for e in entries if "CXR" in e["image"]]
            assert numbers == [f"{first[section] + i:06d}" for i in range(size)]
        assert "CXR" in entries[0]["image"]  # capitals first, as in MedNISTDataset

    def test_one_folder_is_no_task(self, directory: Path):
        with pytest.raises(ValueError, match=r"got \['0000.* pass the folder that holds them"):
            labelled_images(directory / "Hand", "training")


def test_unknown_section(tmp_path: Path):
    with pytest.raises(ValueError, match=r"expected a section in .* got 'val'; choose one"):
        labelled_images(tmp_path, "val")


def test_missing_data_set(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match="does not exist; pass --dataset_dir"):
        labelled_images(tmp_path / "nowhere", "test")
