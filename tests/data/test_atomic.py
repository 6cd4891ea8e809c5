"""The one place that writes files which are either complete or not there."""

import re
import threading
from pathlib import Path

import pytest

import monai_ifim
from monai_ifim.data.atomic import complete_file

PACKAGE = Path(monai_ifim.__file__).parent


def test_the_file_appears_when_it_is_complete(tmp_path):
    path = tmp_path / "new" / "scan.nii.gz"
    with complete_file(str(path)) as partial:
        partial.write_bytes(b"half ")
        assert partial.parent == path.parent  # a rename, not a copy from another disk
        assert partial.name.startswith(".")
        assert partial.name.endswith(".nii.gz")  # some writers choose the format by the ending
        assert not path.exists()
    assert path.read_bytes() == b"half "
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("error", [OSError, ValueError, KeyboardInterrupt, SystemExit])
def test_an_error_leaves_the_old_file_alone(tmp_path, error):
    path = tmp_path / "table.csv"
    path.write_text("old")

    def fail():
        with complete_file(path) as partial:
            partial.write_text("new, but")
            raise error

    with pytest.raises(error):
        fail()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_writer_that_wrote_nothing_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError), complete_file(tmp_path / "table.csv"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_final_name_that_is_a_folder(tmp_path):
    (tmp_path / "table.csv").mkdir()
    with pytest.raises(OSError), complete_file(tmp_path / "table.csv") as partial:
        partial.write_text("new")
    assert [path.name for path in tmp_path.iterdir()] == ["table.csv"]


def test_threads_do_not_write_into_one_another(tmp_path):
    path, together = tmp_path / "label.txt", threading.Barrier(4)

    def write(number):
        with complete_file(path) as partial:
            together.wait(10)
            partial.write_text(str(number) * 1000)
            together.wait(10)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(path.read_text())) == 1
    assert len(path.read_text()) == 1000
    assert list(tmp_path.iterdir()) == [path]


def test_no_other_place_renames_partial_files():
    """One place to change for one idea, and the core's own, which imports torch alone."""
    named = re.compile(r"""["']\.partial|\.part["']|os\.replace|partial\.replace""")
    found = {p.name for p in PACKAGE.rglob("*.py") if named.search(p.read_text())}
    assert found == {"atomic.py", "storage.py"}
