"""Whose a folder is: fresh, resumed, refused, moved aside, locked; what killed processes left."""

import json
import os
import subprocess
import sys

import pytest

from monai_ifim.data.atomic import complete_file
from monai_ifim.data.run_folder import folder as folders
from monai_ifim.data.run_folder import lock
from monai_ifim.data.run_folder.earlier import remove_leftovers
from monai_ifim.data.run_folder.folder import RunFolder, add_table
from monai_ifim.data.run_folder.identity import described
from monai_ifim.data.run_folder.image_list import ImageList, read_list
from monai_ifim.data.run_folder.record import COMPLETE, INTERRUPTED, read_record

IDENTITY = {"network": {"weights_sha256": "aa"}, "settings": {"rank": None}}


def begin(path, identity=IDENTITY, **options):
    folder = RunFolder(path, "ifim.csv", **options)
    folder.check()
    folder.join(folder.begin(identity, ImageList(("a", "b"))), 0)
    return folder


def results(path, state=COMPLETE, identity=IDENTITY):
    """A run of another process, with a volume and a table."""
    folder = begin(path, identity)
    (path / "sub").mkdir()
    (path / "sub" / "a_ifim_high.nii.gz").write_bytes(b"volume")
    row = {"file": "a", "status": "ok"}
    line = {"row": row, "part": 0, "volumes": {"sub/a_ifim_high.nii.gz": 6}}
    folder.journal.add([line])
    (path / "ifim.csv").write_text("file,status\na,ok\n")
    folder.end(state, {"done": 1})
    add_table(path, "predictions.csv")
    (path / "predictions.csv").write_text("file\na\n")
    (path / "notes.txt").write_text("mine")
    folder.close()
    folders._BEGUN.clear()  # as in another process


@pytest.mark.parametrize(("value", "expected"), [("1", True), ("0", False), ("", False)])
def test_files_and_lines_are_synced_where_that_is_asked_for(tmp_path, monkeypatch, value, expected):
    synced = []
    fsync = os.fsync
    monkeypatch.setattr(
        os, "fsync", lambda file: synced.append(os.fstat(file).st_ino) or fsync(file)
    )
    monkeypatch.setenv("MONAI_IFIM_FSYNC", value)
    folder = begin(tmp_path)
    folder.journal.start(["a"])
    journal = folder.journal.path.stat().st_ino
    record = (tmp_path / "run.json").stat().st_ino
    assert {journal, record, tmp_path.stat().st_ino} <= set(synced) or not expected
    assert bool(synced) == expected
    folder.close()


def test_the_record_says_whose_results_these_are(tmp_path):
    folder = begin(tmp_path)
    record = read_record(tmp_path)
    assert record["state"] == "running"
    assert record["identity"] == IDENTITY
    assert record["versions"]["torch"]
    assert record["process"]["pid"] == os.getpid()
    assert record["command"] == sys.argv
    assert read_list(tmp_path) == ImageList(("a", "b"))
    folder.end(INTERRUPTED, {"done": 1, "failed": 0}, "OSError: no")
    record = read_record(tmp_path)
    assert (record["state"], record["reason"]) == ("interrupted", "OSError: no")
    assert record["images"]["done"] == 1
    assert record["started"] < record["ended"]


@pytest.mark.parametrize("state", [COMPLETE, INTERRUPTED])
def test_results_of_another_run_are_refused_when_the_handler_is_made(tmp_path, state):
    results(tmp_path, state)
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    kind = "a complete one" if state == COMPLETE else "an unfinished one"
    with pytest.raises(ValueError, match=f"got {kind}.*--ifim_resume true.*--ifim_existing move"):
        RunFolder(tmp_path, "ifim.csv").check()
    assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == before


def test_results_from_before_there_was_a_record_are_refused(tmp_path):
    (tmp_path / "ifim.csv").write_text("file,status\n")
    for resume in (False, True):
        with pytest.raises(ValueError, match=r"ifim\.csv or journals without"):
            begin(tmp_path, resume=resume)
    (tmp_path / "a_ifim_orth.nii.gz").write_bytes(b"volume")
    begin(tmp_path, existing="move").close()
    (moved,) = tmp_path.glob("earlier-*")
    assert {p.name for p in moved.iterdir()} == {"ifim.csv", "a_ifim_orth.nii.gz"}


def test_a_record_of_somebody_else_is_refused(tmp_path):
    (tmp_path / "run.json").write_text("{}")
    with pytest.raises(ValueError, match="got another file"):
        begin(tmp_path)


def test_moved_results_are_whole_and_what_is_not_ours_stays(tmp_path):
    results(tmp_path)
    begin(tmp_path, {**IDENTITY, "network": "other"}, existing="move").close()
    (moved,) = tmp_path.glob("earlier-*")
    names = {str(p.relative_to(moved)) for p in moved.rglob("*") if p.is_file()}
    (journal,) = (moved / ".ifim").glob("journal*")
    assert names == {
        *("ifim.csv", "predictions.csv", "run.json", "sub/a_ifim_high.nii.gz"),
        *(".ifim/images.json", f".ifim/{journal.name}"),
    }
    assert (tmp_path / "notes.txt").read_text() == "mine"
    assert read_record(moved)["state"] == COMPLETE
    assert read_record(tmp_path)["run"] != read_record(moved)["run"]
    folders._BEGUN.clear()
    begin(tmp_path, {**IDENTITY, "network": "third"}, existing="move").close()
    assert len(list(tmp_path.glob("earlier-*"))) == 2


def test_resume_goes_on_with_the_same_run(tmp_path):
    results(tmp_path, INTERRUPTED)
    first = read_record(tmp_path)
    folder = begin(tmp_path, resume=True)
    record = read_record(tmp_path)
    assert record["run"] == first["run"]
    assert folder.session not in json.dumps(first)
    assert [each["state"] for each in record["sessions"]] == ["interrupted"]
    folder.close()
    assert begin(tmp_path / "fresh", resume=True).run  # nothing to go on with: it begins


def test_resume_names_what_differs(tmp_path):
    results(tmp_path)
    other = {"network": {"weights_sha256": "bb"}, "settings": {"rank": 2}}
    folder = RunFolder(tmp_path, "ifim.csv", resume=True)
    with pytest.raises(ValueError, match=r"sha256 was aa, is bb; settings\.rank was None, is 2"):
        folder.begin(other, None)
    # The lock is free again, and with existing="move" the others are moved aside.
    begin(tmp_path, other, resume=True, existing="move").close()
    assert list(tmp_path.glob("earlier-*"))


def test_the_next_run_of_one_object_replaces_its_own(tmp_path):
    folder = begin(tmp_path)
    (tmp_path / "ifim.csv").write_text("file\n")
    folder.end(COMPLETE, {})
    other = {**IDENTITY, "network": "after an epoch of training"}
    folder.join(folder.begin(other, None), 0)
    assert read_record(tmp_path)["identity"] == other
    assert len(list((tmp_path / ".ifim").glob("journal*"))) == 1
    folder.close()


def test_a_process_may_repeat_its_own_complete_run_but_no_other(tmp_path):
    folder = begin(tmp_path)
    folder.end(COMPLETE, {})
    folder.close()
    again = begin(tmp_path)  # a cell of a notebook, once more
    again.end(COMPLETE, {})
    again.close()
    with pytest.raises(ValueError, match="got a run of others: network was"):
        begin(tmp_path, {**IDENTITY, "network": "b"})


def test_a_second_run_at_the_same_time_is_refused(tmp_path, monkeypatch):
    folder = begin(tmp_path)
    with pytest.raises(RuntimeError, match="got another run of this process"):
        begin(tmp_path, resume=True)
    folder.close()
    code = (
        "import sys; from pathlib import Path; import filelock\n"
        f"lock = filelock.FileLock({str(tmp_path / '.ifim' / 'lock')!r}); lock.acquire()\n"
        "print(1, flush=True)\n"
        "sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        other.stdout.readline()
        monkeypatch.setattr(lock, "PATIENCE", 0.2)
        with pytest.raises(RuntimeError, match=r"got process \d+ on .*, which is writing to it"):
            begin(tmp_path, resume=True)
        other.kill()
    begin(tmp_path, resume=True).close()


def test_a_folder_that_cannot_be_written_is_refused_at_once(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="expected an output folder that can be written"):
        RunFolder(tmp_path / "file" / "out", "ifim.csv").check()
    with pytest.raises(ValueError, match="expected an output folder that can be written"):
        RunFolder(tmp_path / "file", "ifim.csv").check()
    with pytest.raises(ValueError, match="expected existing from"):
        RunFolder(tmp_path, "ifim.csv", existing="keep")


def test_left_over_files_of_dead_processes_are_removed(tmp_path):
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    with complete_file(tmp_path / "sub" / "mine.nii.gz") as partial:
        partial.write_bytes(b"x")
        theirs = partial.with_name(partial.name.replace(f"-{os.getpid()}-", f"-{dead.pid}-"))
        theirs.write_bytes(b"half")
        elsewhere = partial.with_name(".partial-otherhost-1-00112233-x.csv")
        elsewhere.write_bytes(b"half")
        (tmp_path / ".partial-notes").write_text("not ours")
        assert remove_leftovers(tmp_path) == 1
        assert partial.exists()
        assert elsewhere.exists()  # its host may still be at work
        os.utime(elsewhere, (0, 0))
        assert remove_leftovers(tmp_path) == 1
    assert {p.name for p in tmp_path.rglob("*")} == {"sub", "mine.nii.gz", ".partial-notes"}


def test_a_description_is_the_same_in_every_process():
    code = (
        "from monai.transforms import Compose, ScaleIntensityd, Resized\n"
        "from monai_ifim.data.run_folder.identity import described\n"
        "import json; print(json.dumps(described(Compose([ScaleIntensityd('image'),"
        " Resized('image', (8, 8)), lambda x: x + 1]))))"
    )
    command = [sys.executable, "-W", "ignore", "-c", code]
    told = {subprocess.run(command, capture_output=True, text=True).stdout for _ in range(2)}
    assert len(told) == 1
    assert "spatial_size" in told.pop()


def test_a_description_shows_a_change():
    from monai.transforms import Resized

    assert described(Resized("image", (8, 8))) != described(Resized("image", (8, 9)))
    assert described(lambda x: x + 1) != described(lambda x: x + 2)
    assert described({"a": (1, {2})}) == {"a": [1, ["2"]]}
