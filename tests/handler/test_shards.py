"""Several processes share a list and a folder: every byte is as one process writes it."""

import json
import os
import shutil
from itertools import permutations

import pytest
import torch
from ignite.engine import Events
from monai.data import DataLoader
from monai.engines import SupervisedEvaluator

import monai_ifim as mi
from _helpers.networks import smooth_network
from _helpers.scans import dataset, preprocessing, write_scans
from _helpers.tables import read_table
from monai_ifim.data.run_folder.lock import FolderLock
from monai_ifim.data.run_folder.merge import merge_runs


class Stop(Exception):
    """Ends a run, as a fault of the host would."""


class Loaded:
    """Notes which files come through."""

    def __init__(self):
        self.files = []

    def __call__(self, item):
        self.files.append(item["image"].meta["filename_or_obj"])
        return item


def run(files, out, shard=None, *, stop_after=None, size=1, seed=0, shuffle=False, **options):
    """One process; the files that it loaded."""
    seen, transform = Loaded(), preprocessing()
    transform.transforms = (*transform.transforms, seen)
    save = mi.SaveComponentsd(["ifim_high", "ifim_orth"], out, transform=None)
    handler = mi.IFIMHandler(output_dir=out, postprocessing=save, shard=shard, **options)
    predictions = mi.PredictionSaver(
        out,
        class_names=["a", "b", "c"],
        output_transform=lambda items: [item["pred"].softmax(0) for item in items],
    )
    data = dataset(files, transform)
    evaluator = SupervisedEvaluator(
        device=torch.device("cpu"),
        val_data_loader=mi.FaultTolerantDataLoader(
            data, batch_size=size, num_workers=0, shuffle=shuffle
        ),
        network=smooth_network(3, seed=seed),
        inferer=mi.IFIMInferer(),
        val_handlers=[handler, predictions],
    )
    if stop_after is None:
        evaluator.run()
        return seen.files

    def stop(engine):
        raise Stop

    evaluator.add_event_handler(Events.ITERATION_STARTED(once=stop_after + 1), stop)
    with pytest.raises(Stop):
        evaluator.run()
    return seen.files


def results(folder):
    return {
        path.name: path.read_bytes()
        for path in folder.iterdir()
        if path.is_file() and path.name != "run.json"
    }


def record(folder):
    return json.loads((folder / "run.json").read_text())


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Five scans."""
    return write_scans(tmp_path_factory.mktemp("lists") / "scans", 3, count=5)


@pytest.fixture(scope="module")
def whole(files, tmp_path_factory):
    """Results of one process, by size of the batches."""
    folders = {size: tmp_path_factory.mktemp("whole") / "out" for size in (1, 2)}
    for size, out in folders.items():
        run(files, out, size=size)
    return {size: results(out) for size, out in folders.items()}


@pytest.mark.parametrize("order", [*permutations("012")])
def test_in_any_order(files, whole, tmp_path, order):
    loaded = []
    for i in order:
        assert not (tmp_path / "ifim.csv").exists()
        assert not (tmp_path / "predictions.csv").exists()
        loaded += run(files, tmp_path, f"{i}/3")
    assert sorted(loaded) == files  # each once
    assert results(tmp_path) == whole[1]
    assert record(tmp_path)["state"] == "complete"
    count = len(files)
    assert record(tmp_path)["images"] == {"listed": count, "done": count, "failed": 0}
    assert record(tmp_path)["tables"] == ["ifim.csv", "predictions.csv"]


@pytest.mark.parametrize("of", [1, 2, 4, 40])
def test_whole_batches_in_any_number_of_parts(files, whole, tmp_path, of):
    for i in range(of):
        run(files, tmp_path, f"{i}/{of}", size=2)
    assert results(tmp_path) == whole[2]


def test_one_that_was_cut_short_goes_on(files, whole, tmp_path):
    run(files, tmp_path, "0/2", stop_after=1)
    assert record(tmp_path)["parts"]["ended"]["0"]["state"] == "interrupted"
    run(files, tmp_path, "1/2")
    assert record(tmp_path)["state"] == "interrupted"
    assert record(tmp_path)["reason"] == "1 of 2 shards are missing"
    assert not (tmp_path / "ifim.csv").exists()
    with pytest.raises(ValueError, match=r"an unfinished one.*go on with it with resume=True"):
        run(files, tmp_path, "0/2")
    loaded = run(files, tmp_path, "0/2", resume=True)
    assert loaded == files[2::2]
    assert results(tmp_path) == whole[1]
    assert record(tmp_path)["state"] == "complete"
    # Once more there is nothing to do, and nothing changes.
    assert run(files, tmp_path, "1/2", resume=True) == []
    assert results(tmp_path) == whole[1]


def test_a_bad_image_is_a_row_of_the_table_of_all(files, tmp_path):
    files = [*files[:-1], str(shutil.copy(files[-1], tmp_path / "bad.nii.gz"))]
    os.truncate(files[-1], 300)
    one, parts = tmp_path / "one", tmp_path / "parts"
    run(files, one)
    for i in range(2):
        run(files, parts, f"{i}/2")
    assert results(parts) == results(one)
    failed = [row for row in read_table(parts) if row["status"].startswith("failed")]
    assert [row["file"] for row in failed] == files[-1:]
    assert record(parts)["images"]["failed"] == 1


def test_a_merge_names_what_is_missing(files, tmp_path):
    run(files, tmp_path, "1/2")
    merged = merge_runs([tmp_path], tmp_path / "so_far.csv")
    assert list(merged.absent) == files[::2]
    assert merged.done == len(files[1::2])
    rows = read_table(tmp_path, "so_far.csv")
    assert [row["file"] for row in rows] == [*files, "run"]
    assert rows[0]["status"] == "failed: no row in any journal: its work has not ended"
    assert rows[-1]["status"].startswith(f"failed: {len(files[::2])} of {len(files)} images have")


def test_nodes_that_share_no_disk(files, whole, tmp_path):
    folders = [tmp_path / name for name in "ab"]
    for i, folder in enumerate(folders):
        run(files, folder, f"{i}/2")
        assert not (folder / "ifim.csv").exists()
    merged = merge_runs(folders, tmp_path / "ifim.csv", verify=True)
    assert not merged.absent
    assert not merged.damaged
    both = results(tmp_path) | results(folders[0]) | results(folders[1])
    assert both == whole[1]


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
def test_what_does_not_belong_to_the_run_is_refused(files, tmp_path, change, message):
    run(files, tmp_path, "0/2")
    before = results(tmp_path), record(tmp_path)
    with pytest.raises(ValueError, match=message):
        run(files, tmp_path, **{"shard": "1/2"} | change)
    assert (results(tmp_path), record(tmp_path)) == before


def test_another_list_is_refused_while_a_shard_is_at_work(files, tmp_path):
    run(files, tmp_path, "0/2")
    with pytest.raises(ValueError, match="the list of images"):
        run(files[1:], tmp_path, "1/2")
    lock = FolderLock(tmp_path, "shard 0/2")
    lock.acquire()
    try:
        with pytest.raises(ValueError, match="the list of images"):
            run(files[1:], tmp_path, "1/2", resume=True)
    finally:
        lock.release()


def test_a_run_can_be_cut_anew_when_no_shard_is_at_work(files, whole, tmp_path):
    run(files, tmp_path, "0/2")
    loaded = [file for i in range(3) for file in run(files, tmp_path, f"{i}/3", resume=True)]
    assert sorted(loaded) == files[1::2]
    assert results(tmp_path) == whole[1]


def test_shards_finish_a_whole_run_and_the_other_way_round(files, whole, tmp_path):
    run(files, tmp_path / "a", stop_after=2)
    for i in range(2):
        run(files, tmp_path / "a", f"{i}/2", resume=True)
    assert results(tmp_path / "a") == whole[1]
    run(files, tmp_path / "b", "1/2")
    assert run(files, tmp_path / "b", resume=True) == files[::2]
    assert results(tmp_path / "b") == whole[1]


def test_a_whole_run_waits_for_no_shard(files, tmp_path):
    run(files, tmp_path, "0/2")
    lock = FolderLock(tmp_path, "shard 1/2")
    lock.acquire()
    try:
        with pytest.raises(RuntimeError, match="for this run alone, got shard-1-2"):
            run(files, tmp_path, resume=True)
    finally:
        lock.release()


def test_the_same_shard_twice_at_once_is_refused(files, tmp_path, monkeypatch):
    monkeypatch.setattr("monai_ifim.data.run_folder.lock.PATIENCE", 0.2)
    run(files, tmp_path, "0/2")
    lock = FolderLock(tmp_path, "shard 1/2")
    lock.acquire()
    try:
        with pytest.raises(RuntimeError, match=r"expected shard 1/2 .* for this process alone"):
            run(files, tmp_path, "1/2")
    finally:
        lock.release()


def test_a_file_that_is_listed_twice_is_refused(files, tmp_path):
    with pytest.raises(ValueError, match="each file once in a list that is done in parts"):
        run([*files, files[0]], tmp_path, "0/2")


def test_results_of_a_whole_run_are_refused(files, tmp_path):
    run(files, tmp_path)
    with pytest.raises(ValueError, match="got a complete one"):
        run(files, tmp_path, "0/2")


def test_a_shard_needs_a_folder_and_a_list(files):
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


def test_two_images_of_the_same_name_are_no_one_image(files, tmp_path, monkeypatch):
    """Machines that share no disk, whose paths are told from their own folders."""
    folders = [tmp_path / name for name in "ab"]
    for i, folder in enumerate(folders):
        (folder / "images").mkdir(parents=True)
        shutil.copy(files[i], folder / "images" / "x.nii.gz")
        monkeypatch.chdir(folder)
        run(["images/x.nii.gz"], folder / "out")
    outs = [folder / "out" for folder in folders]
    with pytest.raises(ValueError, match=r"got 'images/x\.nii\.gz' with other results in .*a/out"):
        merge_runs(outs, tmp_path / "both.csv")
    same = merge_runs([outs[0], outs[0]], tmp_path / "both.csv")
    assert len(same.rows) == 1


def test_a_merge_waits_for_who_writes_the_same_table(files, tmp_path, monkeypatch):
    monkeypatch.setattr("monai_ifim.data.run_folder.lock.PATIENCE", 0.2)
    run(files, tmp_path, "0/2")
    lock = FolderLock(tmp_path)
    lock.acquire()
    try:
        with pytest.raises(RuntimeError, match="which is writing to it"):
            merge_runs([tmp_path], tmp_path / "ifim.csv")
        assert merge_runs([tmp_path], tmp_path.parent / "elsewhere.csv").absent
    finally:
        lock.release()


def test_a_merge_says_in_the_record_that_all_is_there(files, whole, tmp_path):
    for i in range(2):
        run(files, tmp_path, f"{i}/2")
    path = tmp_path / "run.json"
    path.write_text(json.dumps(record(tmp_path) | {"state": "interrupted"}))
    merge_runs([tmp_path], tmp_path / "ifim.csv")
    assert record(tmp_path)["state"] == "complete"
    assert results(tmp_path) == whole[1]
    for name in ("run.json", "predictions.csv"):
        with pytest.raises(ValueError, match=r"another file of the run|a table\.csv"):
            merge_runs([tmp_path], tmp_path / name)
    assert results(tmp_path) == whole[1]


def test_images_that_are_no_longer_listed_are_in_no_merged_table(files, tmp_path):
    run(files, tmp_path)
    run(files[:3], tmp_path, resume=True)
    merged = merge_runs([tmp_path], tmp_path / "ifim.csv")
    assert [row["file"] for row in merged.rows] == files[:3]
    assert merged.dropped == 2


def test_a_part_that_was_killed_before_the_record_leaves_nothing_behind(
    files, whole, tmp_path, monkeypatch
):
    def killed(*_):
        raise Stop

    with monkeypatch.context() as patch:
        patch.setattr("monai_ifim.data.run_folder.folder.write_record", killed)
        with pytest.raises(Stop):
            run(files, tmp_path, "0/2")
    assert not (tmp_path / "run.json").exists()
    for i in range(2):
        run(files, tmp_path, f"{i}/2")
    assert results(tmp_path) == whole[1]


@pytest.mark.parametrize("error", [OSError("disk"), KeyboardInterrupt()])
def test_tables_that_cannot_be_written_are_made_by_a_resume(
    files, whole, tmp_path, monkeypatch, error
):
    def broken(*_):
        raise error

    run(files, tmp_path, "0/2")
    with monkeypatch.context() as patch:
        patch.setattr("monai_ifim.data.run_folder.merge.write_table", broken)
        with pytest.raises(type(error)):
            run(files, tmp_path, "1/2")
    assert record(tmp_path)["state"] == "interrupted"
    assert record(tmp_path)["reason"]
    assert run(files, tmp_path, "1/2", resume=True) == []
    assert results(tmp_path) == whole[1]
    assert record(tmp_path)["state"] == "complete"


def test_the_same_process_does_not_throw_away_what_others_did(files, tmp_path):
    for i in range(2):
        run(files, tmp_path, f"{i}/2")
    with pytest.raises(ValueError, match="got a complete one"):
        run(files, tmp_path)
    assert len(list((tmp_path / ".ifim").glob("journal*"))) == 2


def test_a_shard_is_for_one_epoch(files, tmp_path):
    evaluator = SupervisedEvaluator(
        device=torch.device("cpu"),
        val_data_loader=mi.FaultTolerantDataLoader(dataset(files), batch_size=1),
        network=smooth_network(3),
        val_handlers=[mi.IFIMHandler(output_dir=tmp_path, shard="0/2", resume=True)],
    )
    evaluator.run()
    with pytest.raises(ValueError, match="expected one epoch with shard 0/2"):
        evaluator.run(2)


def test_a_loader_that_drops_images_is_refused(files, tmp_path):
    evaluator = SupervisedEvaluator(
        device=torch.device("cpu"),
        val_data_loader=DataLoader(dataset(files), batch_size=2, drop_last=True),
        network=smooth_network(3),
        val_handlers=[mi.IFIMHandler(output_dir=tmp_path, shard="0/2")],
    )
    with pytest.raises(ValueError, match="got drop_last=True"):
        evaluator.run()


def test_cutting_anew_is_said(files, tmp_path, caplog):
    run(files, tmp_path, "0/2")
    run(files, tmp_path, "0/3", resume=True)
    assert "the list is cut anew: all shards must be run again" in caplog.text
