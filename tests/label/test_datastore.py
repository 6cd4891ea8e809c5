"""Many threads, and a second process, in one datastore."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

pytest.importorskip(
    "monailabel", reason="MONAI Label has an environment of its own: make label-test"
)

from starlette.exceptions import HTTPException

from monai_ifim.label.stores.checked import CheckedDatastore
from monai_ifim.label.stores.checks import check_new_id, check_tag

WRITER = """
import sys
from monai_ifim.label.stores.checked import CheckedDatastore
store = CheckedDatastore(sys.argv[1], auto_reload=False)
for i in range(40):
    store.update_image_info(f"image{i % 5}", {f"process{i}": i})
"""


def test_no_change_is_lost(tmp_path):
    for i in range(5):
        (tmp_path / f"image{i}.nii.gz").write_bytes(b"image")
    store = CheckedDatastore(str(tmp_path), auto_reload=True)
    label = tmp_path.parent / "label.nii.gz"
    label.write_bytes(b"label" * 1000)
    process = subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path)])

    def change(i):
        image = f"image{i % 5}"
        assert image in store.list_images()  # the stock store is empty for a moment now and then
        store.save_label(image, str(label), f"tag{i % 3}", {"number": i})
        store.update_image_info(image, {f"thread{i}": i})
        assert (tmp_path / "labels" / f"tag{i % 3}" / f"{image}.nii.gz").stat().st_size == 5000

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(change, range(60)))
    assert process.wait(timeout=120) == 0
    fresh = CheckedDatastore(str(tmp_path), auto_reload=False)
    infos = [fresh.get_image_info(f"image{i}") for i in range(5)]
    names = {name for info in infos for name in info}
    assert {f"thread{i}" for i in range(60)} | {f"process{i}" for i in range(40)} <= names
    store._observer.stop()


@pytest.mark.parametrize("tag", ["", ".", "..", "a/b", "a\\b", "../x", "\0", "\u00e9", "x" * 129])
def test_bad_tags(tag):
    with pytest.raises(HTTPException, match="expected a tag"):
        check_tag(tag)


@pytest.mark.parametrize("name", ["", ".", "..", ".x", "a/b", "a\\b", "\0", "a\nb", "x" * 201])
def test_bad_ids(name):
    with pytest.raises(HTTPException, match="plain file name"):
        check_new_id(name)


@pytest.mark.parametrize("name", ["scan 1", "Gr\u00fc\u00dfe", "a.b-c_d"])
def test_good_ids(name):
    check_new_id(name)
