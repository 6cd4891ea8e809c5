"""Patches cut from a small tree in the Decathlon's layout."""

import csv
from collections import Counter
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from monai_ifim.data.datalist import labelled_images
from monai_ifim.experiments.tasks.hippocampus import write_hippocampus_patches

AFFINE = np.array([[0.9, -0.2, 0, 4], [0.3, 1.1, 0, -7], [0, 0.1, 1.6, 9], [0, 0, 0, 1]])
SHAPE = (34, 41, 37)
CENTRES = {1: (17, 27, 19), 2: (15, 14, 17)}
CASES = 13


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Voxels hold their index times a scale of the case, so that a patch tells its place."""
    directory = tmp_path_factory.mktemp("Task04_Hippocampus")
    labels = np.zeros(SHAPE, np.uint8)
    for label, centre in CENTRES.items():
        labels[tuple(slice(c - 2, c + 3) for c in centre)] = label
    for case in range(CASES):
        # the largest index is below 2^24, so float32 holds it
        image = np.arange(labels.size, dtype=np.float32).reshape(SHAPE) * 2.0 ** (case % 4)
        write_case(directory, case, image, labels)
    touch = directory / "imagesTr" / "._hippocampus_000.nii.gz"
    touch.write_bytes(b"resource fork, as the archive holds them")
    return directory


def write_case(directory: Path, case: int, image: np.ndarray, labels: np.ndarray) -> None:
    for folder, volume in (("imagesTr", image), ("labelsTr", labels)):
        (directory / folder).mkdir(exist_ok=True)
        file = directory / folder / f"hippocampus_{case:03d}.nii.gz"
        nib.save(nib.Nifti1Image(volume, AFFINE), file)


def rows_of(table: Path) -> list[dict[str, str]]:
    with table.open(newline="") as stream:
        return list(csv.DictReader(stream))


@pytest.fixture(scope="module")
def table(task: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_hippocampus_patches(task, tmp_path_factory.mktemp("patches"), seed=1)


def test_patches_lie_where_the_labels_say(task: Path, table: Path):
    labels = np.asarray(nib.load(task / "labelsTr" / "hippocampus_000.nii.gz").dataobj)
    offsets = []
    for row in rows_of(table):
        patch = nib.load(table.parent / row["path"])
        voxels = np.asarray(patch.dataobj)
        scale = 2 ** (int(row["subject"]) % 4)
        corner = np.array(np.unravel_index(int(voxels[0, 0, 0]) // scale, SHAPE))
        box = tuple(slice(c, c + 20) for c in corner)
        whole = np.arange(labels.size, dtype=np.float32).reshape(SHAPE) * scale
        assert np.array_equal(voxels, whole[box])
        assert voxels.shape == (20, 20, 20)
        assert patch.get_data_dtype() == np.float32
        # the first voxel is at the same millimetre as before
        assert np.allclose(patch.affine[:3, 3], (AFFINE @ [*corner, 1])[:3], atol=1e-4)
        assert np.allclose(patch.affine[:3, :3], AFFINE[:3, :3], atol=1e-6)
        if row["label"] == "0":
            assert not labels[box][5:15, 5:15, 5:15].any()
        else:
            offset = corner + 10 - CENTRES[int(row["label"])]
            offsets.append(offset)
            assert (abs(offset) <= 3).all()
    assert np.ptp(offsets, axis=0).min() >= 4  # jittered along every axis


def test_one_patch_a_subject_and_class_split_by_subject(table: Path):
    rows = rows_of(table)
    assert len(rows) == 3 * CASES
    assert {(r["label"], r["class"]) for r in rows} == {
        ("0", "other"),
        ("1", "anterior"),
        ("2", "posterior"),
    }
    splits = {row["subject"]: row["split"] for row in rows}
    assert all(row["split"] == splits[row["subject"]] for row in rows)
    assert Counter(splits.values()) == {"train": 8, "val": 2, "test": 3}
    assert len(labelled_images(table.parent, "training")) == 24


def test_seed_decides(task: Path, table: Path, tmp_path: Path):
    again = write_hippocampus_patches(task, tmp_path / "again", seed=1)
    other = write_hippocampus_patches(task, tmp_path / "other", seed=2)
    assert again.read_bytes() == table.read_bytes()
    assert other.read_bytes() != table.read_bytes()
    name = rows_of(again)[0]["path"]
    first, second = (nib.load(t.parent / name) for t in (table, again))
    assert np.array_equal(np.asarray(first.dataobj), np.asarray(second.dataobj))


def test_classes_without_a_place_are_left_out(tmp_path: Path):
    (tmp_path / "task").mkdir()
    full = np.full((22, 23, 24), 2, np.uint8)  # no class 0, no class 1
    write_case(tmp_path / "task", 5, np.ones(full.shape, np.uint8), full)
    small = np.ones((19, 30, 30), np.uint8)  # no patch fits
    write_case(tmp_path / "task", 6, np.ones(small.shape, np.uint8), small)
    rows = rows_of(write_hippocampus_patches(tmp_path / "task", tmp_path / "out"))
    assert [(row["subject"], row["class"]) for row in rows] == [("005", "posterior")]


def test_errors_say_how_to_fix_it(task: Path, tmp_path: Path):
    with pytest.raises(FileNotFoundError, match=r"expected imagesTr.* got none; pass the folder"):
        write_hippocampus_patches(tmp_path, tmp_path / "out")
    write_case(tmp_path, 1, np.zeros(SHAPE, np.uint8), np.zeros(SHAPE, np.uint8))
    (tmp_path / "labelsTr" / "hippocampus_001.nii.gz").unlink()
    with pytest.raises(FileNotFoundError, match=r"expected a segmentation .* incomplete"):
        write_hippocampus_patches(tmp_path, tmp_path / "out")
