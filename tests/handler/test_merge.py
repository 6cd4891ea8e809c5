"""One table of what several processes have done."""

import json
import shutil

import pytest

from _helpers.runs import record, results, run
from _helpers.tables import read_table
from monai_ifim.data.run_folder.lock import FolderLock
from monai_ifim.data.run_folder.merge import merge_runs


def test_a_merge_names_what_is_missing(scans, tmp_path):
    run(scans, tmp_path, "1/2")
    merged = merge_runs([tmp_path], tmp_path / "so_far.csv")
    assert list(merged.absent) == scans[::2]
    assert merged.done == len(scans[1::2])
    rows = read_table(tmp_path, "so_far.csv")
    assert [row["file"] for row in rows] == [*scans, "run"]
    assert rows[0]["status"] == "failed: no row in any journal: its work has not ended"
    assert rows[-1]["status"].startswith(f"failed: {len(scans[::2])} of {len(scans)} images have")


def test_nodes_that_share_no_disk(scans, whole, tmp_path):
    folders = [tmp_path / name for name in "ab"]
    for i, folder in enumerate(folders):
        run(scans, folder, f"{i}/2")
        assert not (folder / "ifim.csv").exists()
    merged = merge_runs(folders, tmp_path / "ifim.csv", verify=True)
    assert not merged.absent
    assert not merged.damaged
    both = results(tmp_path) | results(folders[0]) | results(folders[1])
    assert both == whole[1]


def test_two_images_of_the_same_name_are_no_one_image(scans, tmp_path, monkeypatch):
    """Machines that share no disk, whose paths are told from their own folders."""
    folders = [tmp_path / name for name in "ab"]
    for i, folder in enumerate(folders):
        (folder / "images").mkdir(parents=True)
        shutil.copy(scans[i], folder / "images" / "x.nii.gz")
        monkeypatch.chdir(folder)
        run(["images/x.nii.gz"], folder / "out")
    outs = [folder / "out" for folder in folders]
    with pytest.raises(ValueError, match=r"got 'images/x\.nii\.gz' with other results in .*a/out"):
        merge_runs(outs, tmp_path / "both.csv")
    same = merge_runs([outs[0], outs[0]], tmp_path / "both.csv")
    assert len(same.rows) == 1


def test_a_merge_waits_for_who_writes_the_same_table(scans, tmp_path, monkeypatch):
    monkeypatch.setattr("monai_ifim.data.run_folder.lock.PATIENCE", 0.2)
    run(scans, tmp_path, "0/2")
    lock = FolderLock(tmp_path)
    lock.acquire()
    try:
        with pytest.raises(RuntimeError, match="which is writing to it"):
            merge_runs([tmp_path], tmp_path / "ifim.csv")
        assert merge_runs([tmp_path], tmp_path.parent / "elsewhere.csv").absent
    finally:
        lock.release()


def test_a_merge_says_in_the_record_that_all_is_there(scans, whole, tmp_path):
    for i in range(2):
        run(scans, tmp_path, f"{i}/2")
    path = tmp_path / "run.json"
    path.write_text(json.dumps(record(tmp_path) | {"state": "interrupted"}))
    merge_runs([tmp_path], tmp_path / "ifim.csv")
    assert record(tmp_path)["state"] == "complete"
    assert results(tmp_path) == whole[1]
    for name in ("run.json", "predictions.csv"):
        with pytest.raises(ValueError, match=r"another file of the run|a table\.csv"):
            merge_runs([tmp_path], tmp_path / name)
    assert results(tmp_path) == whole[1]


def test_images_that_are_no_longer_listed_are_in_no_merged_table(scans, tmp_path):
    run(scans, tmp_path)
    run(scans[:3], tmp_path, resume=True)
    merged = merge_runs([tmp_path], tmp_path / "ifim.csv")
    assert [row["file"] for row in merged.rows] == scans[:3]
    assert merged.dropped == 2
