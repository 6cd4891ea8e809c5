"""The journal: what is written, what is read back, and lines that were torn."""

import json
import os
import re
import time

import pytest

from monai_ifim.data.run_folder import journal as journals
from monai_ifim.data.run_folder.done import Done, source_state, volume_sizes
from monai_ifim.data.run_folder.image_list import ImageList
from monai_ifim.data.run_folder.journal import Journal, read_history


def line(file, part=0, status="ok", **more):
    return {"row": {"file": str(file), "status": status}, "part": part, "volumes": {}, **more}


def written(folder, batches, session="s1", run="r"):
    journal = Journal(folder, run, session)
    for batch in batches:
        journal.start([each["row"]["file"] for each in batch])
        journal.add(batch)
    journal.close()
    return journal.path


def test_numbers_and_names_come_back_as_they_were(tmp_path):
    numbers = {"trace": 0.1 + 0.2, "rank": 3, "tiny": 1e-310, "none": None}
    row = {"file": "J\udcf6rg, 1.png", "status": "ok", **numbers}
    written(tmp_path, [[{"row": row, "part": 0, "volumes": {}}]])
    (found,) = read_history(tmp_path).lines["J\udcf6rg, 1.png"]
    assert found["row"] == row


def test_each_process_has_a_file_of_its_own(tmp_path):
    paths = {written(tmp_path, []) for _ in range(3)}
    assert len(paths) == 3
    assert all(path.name.startswith("journal-") for path in paths)
    assert all(f"-{os.getpid()}-" in path.name for path in paths)


@pytest.mark.parametrize("cut", [2, 20, 60])
def test_a_torn_line_is_skipped(tmp_path, cut):
    path = written(tmp_path, [[line("a")], [line("b")]])
    path.write_bytes(path.read_bytes()[:-cut])
    history = read_history(tmp_path)
    assert set(history.lines) == {"a"}
    assert history.starts == {"b": 1}


def test_a_batch_counts_only_when_it_is_whole(tmp_path):
    path = written(tmp_path, [[line("a"), line("b")], [line("c"), line("d")]])
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:-1]))
    history = read_history(tmp_path)
    assert set(history.lines) == {"a", "b"}
    assert history.starts == {"c": 1, "d": 1}


def test_the_last_session_that_did_a_file_counts(tmp_path):
    written(tmp_path, [[line("a", 0), line("a", 1)], [line("b")]], "s1")
    time.sleep(0.001)
    written(tmp_path, [[line("a", 0, "ok, again")]], "s2")
    history = read_history(tmp_path)
    assert [each["row"]["status"] for each in history.lines["a"]] == ["ok, again"]
    assert len(history.lines["b"]) == 1
    assert read_history(tmp_path, but="s2").lines["a"][1]["part"] == 1


def test_starts_are_counted_until_there_is_a_row(tmp_path):
    for session in "123":
        journal = Journal(tmp_path, "r", session)
        journal.start(["poison", "slow"])
        journal.close()
    assert read_history(tmp_path).starts == {"poison": 3, "slow": 3}
    time.sleep(0.001)
    written(tmp_path, [[line("slow")]], "4")
    assert read_history(tmp_path).starts == {"poison": 3}


def test_nothing_follows_a_line_that_could_not_be_written(tmp_path, monkeypatch):
    journal = Journal(tmp_path, "r", "s")
    journal.add([line("a")])
    write, calls = os.write, []

    def full(file, data):
        calls.append(len(data))
        if len(calls) > 1:
            raise OSError(28, "No space left on device")
        return write(file, data[:10])

    monkeypatch.setattr(journals.os, "write", full)
    with pytest.raises(OSError, match="No space left"):
        journal.add([line("b")])
    monkeypatch.undo()
    journal.add([line("c")])
    assert set(read_history(tmp_path).lines) == {"a"}


def test_a_folder_that_was_replaced_is_noticed(tmp_path):
    folder = tmp_path / "out"
    journal = Journal(folder, "r", "s")
    journal.check()
    folder.rename(tmp_path / "elsewhere")
    with pytest.raises(FileNotFoundError, match="expected the output folder"):
        journal.check()
    Journal(folder, "r", "s")
    with pytest.raises(FileNotFoundError, match="removed, replaced or renamed"):
        journal.check()


def test_foreign_files_are_no_journals(tmp_path):
    path = written(tmp_path, [[line("a")]])
    path.with_name("journal-x-1-00.jsonl").write_text("[]\n{}\n7\nnot JSON\n")
    path.with_name("journal-y-1-00.jsonl").write_text(json.dumps({"journal": 99}) + "\n")
    assert set(read_history(tmp_path).lines) == {"a"}


# What is done ------------------------------------------------------------------------------------


@pytest.fixture
def one(tmp_path):
    """An image that is done, with its volume."""
    source, volume = tmp_path / "scan.nii.gz", tmp_path / "out" / "a" / "scan_ifim_high.nii.gz"
    source.write_bytes(b"scan")
    volume.parent.mkdir(parents=True)
    volume.write_bytes(b"volume")
    sizes = volume_sizes(tmp_path / "out", [volume])
    assert sizes == {"a/scan_ifim_high.nii.gz": 6}
    found = line(source, source=source_state(str(source))) | {"volumes": sizes}
    written(tmp_path / "out", [[found]])
    return source, volume


def is_done(tmp_path, source, times=1, members=()):
    name = str(source)
    images = ImageList((name,) * times, {name: members} if members else {})
    return name in Done(read_history(tmp_path / "out"), tmp_path / "out", images)


def test_an_image_is_done_while_source_and_volumes_hold(tmp_path, one):
    assert is_done(tmp_path, one[0])
    assert not is_done(tmp_path, "another")
    assert not is_done(tmp_path, one[0], times=2)


def test_all_files_of_an_image_count(tmp_path):
    slices = [tmp_path / f"{i}.dcm" for i in range(3)]
    for path in slices:
        path.write_bytes(b"slice")
    paths = [str(path) for path in slices]
    found = line(slices[0], source=source_state(paths[0], paths)) | {"volumes": {}}
    written(tmp_path / "out", [[found]])
    assert is_done(tmp_path, slices[0], members=paths)
    assert not is_done(tmp_path, slices[0], members=paths[:2])
    slices[2].write_bytes(b"another")
    assert not is_done(tmp_path, slices[0], members=paths)
    slices[2].unlink()
    assert not is_done(tmp_path, slices[0], members=paths)


def test_the_session_that_began_last_counts_whatever_the_clocks_say(tmp_path):
    for number, started, status in ((1, "2099", "failed: broken"), (2, "2020", "ok")):
        journal = Journal(tmp_path, "run", f"s{number}", number=number)
        journal.add([{"row": {"file": "a", "status": status}, "part": 0}])
        journal.close()
        text = journal.path.read_text()
        journal.path.write_text(re.sub(r'"started":"\d{4}', f'"started":"{started}', text))
    (found,) = read_history(tmp_path).lines["a"]
    assert found["row"]["status"] == "ok"


def test_an_orderly_end_takes_the_starts_back(tmp_path):
    journal = Journal(tmp_path, "run", "s")
    for _ in range(4):
        journal.start(["a", "b"])
        journal.leave(["a", "b"])
    journal.start(["a"])
    journal.close()
    assert +read_history(tmp_path).starts == {"a": 1}


@pytest.mark.parametrize("change", ["source", "time", "no source", "volume", "no volume"])
def test_an_image_is_done_again_after_a_change(tmp_path, one, change):
    source, volume = one
    if change == "time":
        os.utime(source, ns=(1, 1))
    elif change.startswith("no "):
        (source if change == "no source" else volume).unlink()
    else:
        (source if change == "source" else volume).write_bytes(b"longer than before")
    assert not is_done(tmp_path, source)


def test_a_failed_image_is_done_again(tmp_path):
    written(tmp_path / "out", [[line("a", status="failed: no", source=None)]])
    assert not is_done(tmp_path, "a")


def test_state_of_a_series_is_that_of_its_files(tmp_path):
    folder = tmp_path / "series"
    folder.mkdir()
    (folder / "1.dcm").write_bytes(b"12")
    before = source_state(str(folder))
    assert before[0] == 2
    (folder / "2.dcm").write_bytes(b"345")
    assert source_state(str(folder))[0] == 5
    assert source_state(str(tmp_path / "absent")) is None
