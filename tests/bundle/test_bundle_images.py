"""Images of a folder, preprocessed by a bundle; those that cannot be taken are left out."""

import csv
import logging
import shutil
from pathlib import Path

import numpy as np
import pytest

from _helpers.bundles import SIGNAL, copy_of, picture
from monai_ifim.bundle import load_bundle_images


def test_damaged_and_odd_images_are_left_out(foreigners, tmp_path, caplog):
    bundle, data = foreigners["sigmoid_labels"]  # its CacheDataset alone would die of them
    data = Path(shutil.copytree(data, tmp_path / "images"))
    (data / "a_broken.jpg").write_text("not an image")
    picture(data / "c_colour.jpg")
    with caplog.at_level(logging.ERROR):
        images, labels, names = load_bundle_images(bundle, data)
    assert names == ["breast0.jpg", "breast1.jpg", "breast2.jpg"]
    assert len(images) == 3
    assert labels is None
    (broken, colour) = (
        record.getMessage() for record in caplog.records if "left out" in record.msg
    )
    assert "a_broken.jpg is left out: " in broken
    assert "c_colour.jpg is left out: ValueError: expected finite values and" in colour


def test_nan_is_left_out(signals, tmp_path, caplog):
    import nibabel as nib

    data = Path(shutil.copytree(signals, tmp_path / "images"))
    scan = nib.load(data / "signal_0001.nii.gz")
    values = scan.get_fdata(dtype=np.float32)
    values[3, 4] = np.nan
    nib.save(nib.Nifti1Image(values, scan.affine), data / "signal_0001.nii.gz")
    images, labels, names = load_bundle_images(SIGNAL, data)
    assert [len(images), len(labels), len(names)] == [6, 6, 6]
    assert "signal_0001.nii.gz" not in names
    assert "NaN" in caplog.text
    rest = load_bundle_images(SIGNAL, signals)[1].tolist()
    assert labels.tolist() == rest[:1] + rest[2:]


def test_nothing_is_left(tmp_path):
    with pytest.raises(ValueError, match="expected images below"):
        load_bundle_images(SIGNAL, tmp_path / "nowhere")
    (tmp_path / "a.nii.gz").write_text("not an image")
    with pytest.raises(ValueError, match="got none among 1"):
        load_bundle_images(SIGNAL, tmp_path)


def test_a_limit_is_spread_over_the_list_and_meets_every_class(foreigners, tmp_path):
    bundle, _ = foreigners["softmax_rgb"]
    rows = []
    for i in range(60):
        picture(tmp_path / f"{i:02d}.png", (5, 4, 3))
        rows.append([f"{i:02d}.png", i % 3])
    with (tmp_path / "labels.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["path", "label"], *rows])
    images, labels, names = load_bundle_images(bundle, tmp_path, limit=20)
    positions = [int(name[:2]) for name in names]
    assert [position // 3 for position in positions] == list(range(20))
    assert labels.tolist() == [position % 3 for position in positions]
    assert labels.bincount().min() >= 3  # a fixed step of 3 would meet one class alone
    assert len(images) == 20
    assert load_bundle_images(bundle, tmp_path, limit=20)[2] == names
    assert len(load_bundle_images(bundle, tmp_path, limit=99)[0]) == 60
    with pytest.raises(ValueError, match="limit of at least 1"):
        load_bundle_images(bundle, tmp_path, limit=0)


def test_a_list_of_other_images_is_not_taken(foreigners, tmp_path, caplog):
    """Some bundles list their own sample data, whatever the folder."""
    bundle, elsewhere = foreigners["softmax_rgb"]
    fixed = copy_of(
        bundle,
        tmp_path,
        lambda c: c.update(
            datalist=f"$[{{'image': i}} for i in sorted(glob.glob({str(elsewhere)!r} + '/*.png'))]"
        ),
    )
    picture(tmp_path / "images" / "mine.png")
    assert load_bundle_images(fixed, tmp_path / "images")[2] == ["mine.png"]
    assert "every image below" in caplog.text
    assert "frame0.png" in caplog.text
    caplog.clear()
    assert len(load_bundle_images(fixed, elsewhere)[0]) == 3
    assert "every image below" not in caplog.text
