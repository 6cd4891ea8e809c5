"""Where the class numbers of a folder's images come from."""

import shutil
from pathlib import Path

import pytest

from _helpers.bundles import copy_of, picture
from monai_ifim.bundle import load_bundle_images


@pytest.mark.parametrize(
    ("label", "expected"),
    [
        ("i + 1", [1, 2, 3]),
        ("torch.tensor(2 - i)", [2, 1, 0]),
        ("float(i)", None),
        ("[i, 1 - i]", None),
        ("torch.ones(2, dtype=torch.int64)", None),
        ("i if i else None", None),
    ],
)
def test_labels_of_the_bundles_own_list(label, expected, foreigners, tmp_path):
    bundle, data = foreigners["softmax_rgb"]
    entries = f"$[{{**e, 'label': {label}}} for i, e in enumerate(@datalist)]"
    root = copy_of(bundle, tmp_path, lambda c: c["dataset"].update(data=entries))
    labels = load_bundle_images(root, data)[1]
    assert (labels if labels is None else labels.tolist()) == expected


def test_labels_of_class_folders(foreigners, tmp_path):
    bundle, _ = foreigners["softmax_rgb"]
    for name in ("class 3", "class 0", "class 2/deeper"):
        picture(tmp_path / name / "x.png")  # one file name in three folders
    _, labels, names = load_bundle_images(bundle, tmp_path)
    assert names == ["class 0/x.png", "class 2/deeper/x.png", "class 3/x.png"]
    assert labels.tolist() == [0, 2, 3]
    picture(tmp_path / "unknown" / "x.png")
    assert load_bundle_images(bundle, tmp_path)[1] is None


@pytest.mark.parametrize(
    "table",
    [
        "file,label\nframe0.png,1\n",
        "file,label\nframe0.png,1\nframe1.png,2\nframe2.png,dog\n",
        "name,class\n",
    ],
    ids=["rows", "words", "columns"],
)
def test_half_a_table_is_no_table(table, foreigners, tmp_path, caplog):
    bundle, data = foreigners["softmax_rgb"]
    data = Path(shutil.copytree(data, tmp_path / "images"))
    (data / "labels.csv").write_text(table)
    images, labels, _ = load_bundle_images(bundle, data)
    assert len(images) == 3
    assert labels is None
    assert "no labels: expected in" in caplog.text
