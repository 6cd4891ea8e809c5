"""Several processes share a list and a folder: every byte is as one process writes it."""

import os
import shutil
from itertools import permutations

import pytest
import torch
from monai.data import DataLoader
from monai.engines import SupervisedEvaluator

import monai_ifim as mi
from _helpers.networks import smooth_network
from _helpers.runs import Stop, record, results, run
from _helpers.scans import dataset
from _helpers.tables import read_table
from monai_ifim.data.run_folder.lock import FolderLock
from monai_ifim.data.run_folder.part_folder import PartFolder


@pytest.mark.parametrize("order", [*permutations("012")])
def test_in_any_order(scans, whole, tmp_path, order):
    loaded = []
    for i in order:
        assert not (tmp_path / "ifim.csv").exists()
        assert not (tmp_path / "predictions.csv").exists()
        loaded += run(scans, tmp_path, f"{i}/3")
    assert sorted(loaded) == scans  # each once
    assert results(tmp_path) == whole[1]
    assert record(tmp_path)["state"] == "complete"
    count = len(scans)
    assert record(tmp_path)["images"] == {"listed": count, "done": count, "failed": 0}
    assert record(tmp_path)["tables"] == ["ifim.csv", "predictions.csv"]


@pytest.mark.parametrize("of", [1, 2, 4, 40])
def test_whole_batches_in_any_number_of_parts(scans, whole, tmp_path, of):
    for i in range(of):
        run(scans, tmp_path, f"{i}/{of}", size=2)
    assert results(tmp_path) == whole[2]


def test_one_that_was_cut_short_goes_on(scans, whole, tmp_path):
    run(scans, tmp_path, "0/2", stop_after=1)
    assert record(tmp_path)["parts"]["ended"]["0"]["state"] == "interrupted"
    run(scans, tmp_path, "1/2")
    assert record(tmp_path)["state"] == "interrupted"
    assert record(tmp_path)["reason"] == "1 of 2 shards are missing"
    assert not (tmp_path / "ifim.csv").exists()
    with pytest.raises(ValueError, match=r"an unfinished one.*go on with it with resume=True"):
        run(scans, tmp_path, "0/2")
    loaded = run(scans, tmp_path, "0/2", resume=True)
    assert loaded == scans[2::2]
    assert results(tmp_path) == whole[1]
    assert record(tmp_path)["state"] == "complete"
    # Once more there is nothing to do, and nothing changes.
    assert run(scans, tmp_path, "1/2", resume=True) == []
    assert results(tmp_path) == whole[1]


def test_a_bad_image_is_a_row_of_the_table_of_all(scans, tmp_path):
    scans = [*scans[:-1], str(shutil.copy(scans[-1], tmp_path / "bad.nii.gz"))]
    os.truncate(scans[-1], 300)
    one, parts = tmp_path / "one", tmp_path / "parts"
    run(scans, one)
    for i in range(2):
        run(scans, parts, f"{i}/2")
    assert results(parts) == results(one)
    failed = [row for row in read_table(parts) if row["status"].startswith("failed")]
    assert [row["file"] for row in failed] == scans[-1:]
    assert record(parts)["images"]["failed"] == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": 1}, "expected results of the same network and settings"),
        ({"rank": 1}, "settings.rank was None, is 1"),
        ({"size": 2}, "the list of images and the size of batches"),
        ({"shard": "1/3"}, "done as 2 shards.*and shard 1/3; take the same number"),
        ({"shard": None}, "an unfinished one"),
        ({"existing": "move"}, "expected existing='refuse' with shard 1/2"),
        ({"shuffle": True}, "images in the order of their list.*shuffle=False"),
    ],
)
def test_what_does_not_belong_to_the_run_is_refused(scans, tmp_path, change, message):
    run(scans, tmp_path, "0/2")
    before = results(tmp_path), record(tmp_path)
    with pytest.raises(ValueError, match=message):
        run(scans, tmp_path, **{"shard": "1/2"} | change)
    assert (results(tmp_path), record(tmp_path)) == before


def test_another_list_is_refused_while_a_shard_is_at_work(scans, tmp_path):
    run(scans, tmp_path, "0/2")
    with pytest.raises(ValueError, match="the list of images"):
        run(scans[1:], tmp_path, "1/2")
    lock = FolderLock(tmp_path, "shard 0/2")
    lock.acquire()
    try:
        with pytest.raises(ValueError, match="the list of images"):
            run(scans[1:], tmp_path, "1/2", resume=True)
    finally:
        lock.release()


def test_a_run_can_be_cut_anew_when_no_shard_is_at_work(scans, whole, tmp_path):
    run(scans, tmp_path, "0/2")
    loaded = [file for i in range(3) for file in run(scans, tmp_path, f"{i}/3", resume=True)]
    assert sorted(loaded) == scans[1::2]
    assert results(tmp_path) == whole[1]


def test_shards_finish_a_whole_run_and_the_other_way_round(scans, whole, tmp_path):
    run(scans, tmp_path / "a", stop_after=2)
    for i in range(2):
        run(scans, tmp_path / "a", f"{i}/2", resume=True)
    assert results(tmp_path / "a") == whole[1]
    run(scans, tmp_path / "b", "1/2")
    assert run(scans, tmp_path / "b", resume=True) == scans[::2]
    assert results(tmp_path / "b") == whole[1]


def test_a_whole_run_waits_for_no_shard(scans, tmp_path):
    run(scans, tmp_path, "0/2")
    lock = FolderLock(tmp_path, "shard 1/2")
    lock.acquire()
    try:
        with pytest.raises(RuntimeError, match="for this run alone, got shard-1-2"):
            run(scans, tmp_path, resume=True)
    finally:
        lock.release()


def test_the_same_shard_twice_at_once_is_refused(scans, tmp_path, monkeypatch):
    monkeypatch.setattr("monai_ifim.data.run_folder.lock.PATIENCE", 0.2)
    run(scans, tmp_path, "0/2")
    lock = FolderLock(tmp_path, "shard 1/2")
    lock.acquire()
    try:
        with pytest.raises(RuntimeError, match=r"expected shard 1/2 .* for this process alone"):
            run(scans, tmp_path, "1/2")
    finally:
        lock.release()


def test_a_file_that_is_listed_twice_is_refused(scans, tmp_path):
    with pytest.raises(ValueError, match="each file once in a list that is done in parts"):
        run([*scans, scans[0]], tmp_path, "0/2")


def test_results_of_a_whole_run_are_refused(scans, tmp_path):
    run(scans, tmp_path)
    with pytest.raises(ValueError, match="got a complete one"):
        run(scans, tmp_path, "0/2")


def test_a_shard_needs_a_folder_and_a_list(scans):
    with pytest.raises(ValueError, match="expected an output_dir for shard 0/2"):
        mi.IFIMHandler(shard="0/2")


def test_batches_without_a_list_are_refused(tmp_path):
    handler = mi.IFIMHandler(output_dir=tmp_path, shard="0/2")
    evaluator = SupervisedEvaluator(
        device=torch.device("cpu"),
        val_data_loader=[{"image": torch.ones(1, 1, 8, 8)}],
        network=smooth_network(3),
        val_handlers=[handler],
    )
    with pytest.raises(ValueError, match=r"a DataLoader with a list of images.*got list"):
        evaluator.run()
    arrays = DataLoader([{"image": torch.ones(1, 8, 8)}], batch_size=1)
    evaluator = SupervisedEvaluator(
        device=torch.device("cpu"),
        val_data_loader=arrays,
        network=smooth_network(3),
        val_handlers=[mi.IFIMHandler(output_dir=tmp_path / "b", shard="0/2")],
    )
    with pytest.raises(ValueError, match="a list of files for shard 0/2"):
        evaluator.run()


def test_a_part_that_was_killed_before_the_record_leaves_nothing_behind(
    scans, whole, tmp_path, monkeypatch
):
    def killed(*_):
        raise Stop

    with monkeypatch.context() as patch:
        patch.setattr("monai_ifim.data.run_folder.folder.write_record", killed)
        with pytest.raises(Stop):
            run(scans, tmp_path, "0/2")
    assert not (tmp_path / "run.json").exists()
    for i in range(2):
        run(scans, tmp_path, f"{i}/2")
    assert results(tmp_path) == whole[1]


@pytest.mark.parametrize("error", [OSError("disk"), KeyboardInterrupt()])
def test_tables_that_cannot_be_written_are_made_by_a_resume(
    scans, whole, tmp_path, monkeypatch, error
):
    def broken(*_):
        raise error

    run(scans, tmp_path, "0/2")
    with monkeypatch.context() as patch:
        patch.setattr("monai_ifim.data.run_folder.merge.write_table", broken)
        with pytest.raises(type(error)):
            run(scans, tmp_path, "1/2")
    assert record(tmp_path)["state"] == "interrupted"
    assert record(tmp_path)["reason"]
    assert run(scans, tmp_path, "1/2", resume=True) == []
    assert results(tmp_path) == whole[1]
    assert record(tmp_path)["state"] == "complete"


def test_the_same_process_does_not_throw_away_what_others_did(scans, tmp_path):
    for i in range(2):
        run(scans, tmp_path, f"{i}/2")
    with pytest.raises(ValueError, match="got a complete one"):
        run(scans, tmp_path)
    assert len(list((tmp_path / ".ifim").glob("journal*"))) == 2


def test_a_shard_is_for_one_epoch(scans, tmp_path):
    evaluator = SupervisedEvaluator(
        device=torch.device("cpu"),
        val_data_loader=mi.FaultTolerantDataLoader(dataset(scans), batch_size=1),
        network=smooth_network(3),
        val_handlers=[mi.IFIMHandler(output_dir=tmp_path, shard="0/2", resume=True)],
    )
    evaluator.run()
    with pytest.raises(ValueError, match="expected one epoch with shard 0/2"):
        evaluator.run(2)


def test_a_loader_that_drops_images_is_refused(scans, tmp_path):
    evaluator = SupervisedEvaluator(
        device=torch.device("cpu"),
        val_data_loader=DataLoader(dataset(scans), batch_size=2, drop_last=True),
        network=smooth_network(3),
        val_handlers=[mi.IFIMHandler(output_dir=tmp_path, shard="0/2")],
    )
    with pytest.raises(ValueError, match="got drop_last=True"):
        evaluator.run()


def test_cutting_anew_is_said(scans, tmp_path, caplog):
    run(scans, tmp_path, "0/2")
    run(scans, tmp_path, "0/3", resume=True)
    assert "the list is cut anew: all shards must be run again" in caplog.text


def test_a_run_that_has_gone_meanwhile_is_an_error(scans, tmp_path, monkeypatch):
    def gone(folder):
        (folder / "run.json").unlink()

    end = PartFolder.end
    monkeypatch.setattr(PartFolder, "end", lambda self, *a: gone(self.path) or end(self, *a))
    with pytest.raises(RuntimeError, match=r"expected the run\.json of this run"):
        run(scans, tmp_path, "0/2")
