"""A run that was cut short goes on: what is done is not loaded again; the bytes are the same."""

import json
import os

import pytest
import torch
from monai.data import DataLoader
from monai.engines import SupervisedEvaluator

import monai_ifim as mi
from _helpers.networks import smooth_network
from _helpers.runs import results, run
from _helpers.tables import read_table
from monai_ifim.data.run_folder.merge import merge_runs


@pytest.mark.parametrize("loader", [mi.FaultTolerantDataLoader, DataLoader])
@pytest.mark.parametrize(("size", "stop_after"), [(1, 2), (2, 1), (1, 0)])
def test_the_bytes_are_those_of_an_undisturbed_run(files, tmp_path, loader, size, stop_after):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    run(files, whole, size=size, loader=loader)
    run(files, cut, stop_after=stop_after, size=size, loader=loader)
    done = size * stop_after
    record = json.loads((cut / "run.json").read_text())
    assert (record["state"], record["images"]["done"]) == ("interrupted", done)
    rows = read_table(cut)
    assert [row["status"] for row in rows[:done]] == ["ok"] * done
    assert rows[-1]["file"] == "run"
    assert rows[-1]["status"].startswith("failed: the run ended here, Stop")
    loaded = run(files, cut, resume=True, size=size, loader=loader)
    assert loaded == files[done:]
    assert results(cut) == results(whole)
    assert json.loads((cut / "run.json").read_text())["state"] == "complete"
    # Once more there is nothing to do, and nothing changes.
    assert run(files, cut, resume=True, size=size, loader=loader) == []
    assert results(cut) == results(whole)


def test_what_has_changed_since_is_done_again(files, tmp_path):
    run(files, tmp_path / "whole")
    out = tmp_path / "out"
    run(files, out)
    os.utime(files[1])
    (out / "scan3_ifim_orth.nii.gz").unlink()
    (out / "scan4_ifim_high.nii.gz").write_bytes(b"half")
    (out / "ifim.csv").unlink()
    assert run(files, out, resume=True) == [files[1], files[3], files[4]]
    assert results(out) == results(tmp_path / "whole")


def test_images_that_are_new_are_added(files, tmp_path):
    run(files, tmp_path / "whole")
    run(files[:3], tmp_path / "out")
    assert run(files, tmp_path / "out", resume=True) == files[3:]
    assert results(tmp_path / "out") == results(tmp_path / "whole")


def test_an_image_that_is_no_longer_listed_has_no_row(files, tmp_path, caplog):
    run(files, tmp_path)
    run(files[1:], tmp_path, resume=True)
    assert [row["file"] for row in read_table(tmp_path)] == files[1:]
    assert "1 images of the run's journals are no longer in the list" in caplog.text


def test_a_file_listed_twice_is_done_again(files, tmp_path):
    listed = [files[0], files[1], files[0]]
    run(listed, tmp_path / "whole")
    run(listed, tmp_path / "out", stop_after=2)
    assert run(listed, tmp_path / "out", resume=True) == [files[0], files[0]]
    assert results(tmp_path / "out") == results(tmp_path / "whole")


def test_another_network_or_setting_is_refused(files, tmp_path):
    run(files, tmp_path)
    before = results(tmp_path)
    with pytest.raises(ValueError, match=r"got a run of others: network\.weights_sha256 was"):
        run(files, tmp_path, resume=True, seed=1)
    with pytest.raises(ValueError, match=r"settings\.rank was None, is 1"):
        run(files, tmp_path, resume=True, rank=1)
    assert results(tmp_path) == before
    run(files, tmp_path, existing="move", seed=1)
    (moved,) = tmp_path.glob("earlier-*")
    assert results(moved) == before
    assert results(tmp_path) != before


def test_an_image_that_ends_its_process_is_given_up_after_three_times(files, tmp_path):
    run(files, tmp_path, stop_after=2)
    (journal,) = (tmp_path / ".ifim").glob("journal*")
    start = json.dumps({"start": [files[2]]}) + "\n"
    with journal.open("a") as file:
        file.write(3 * start)
    assert run(files, tmp_path, resume=True) == files[3:]
    rows = read_table(tmp_path)
    assert rows[2]["status"].startswith("failed: its process ended 3 times while it was in work")
    assert [row["status"] for row in rows].count("ok") == 4
    # A row has been written: it is tried again.
    assert run(files, tmp_path, resume=True) == [files[2]]
    assert [row["status"] for row in read_table(tmp_path)] == ["ok"] * 5


def test_a_run_that_is_ended_often_blames_no_image(files, tmp_path):
    for _ in range(4):
        run(files, tmp_path, stop_after=2, resume=True)
        (tmp_path / "scan0_ifim_high.nii.gz").unlink()
        (tmp_path / "scan1_ifim_high.nii.gz").unlink()
    assert run(files, tmp_path, resume=True) == files
    assert [row["status"] for row in read_table(tmp_path)] == ["ok"] * 5


def test_after_two_times_the_images_of_a_batch_are_done_one_by_one(files, tmp_path):
    run(files, tmp_path, stop_after=1, size=3)
    (journal,) = (tmp_path / ".ifim").glob("journal*")
    with journal.open("a") as file:
        file.write(2 * (json.dumps({"start": files[3:]}) + "\n"))
    assert run(files, tmp_path, resume=True, size=3) == files[3:]
    starts = [
        line
        for path in (tmp_path / ".ifim").glob("journal*")
        for line in path.read_text().splitlines()
        if line.startswith('{"start"')
    ]
    assert starts.count(json.dumps({"start": [files[3]]}, separators=(",", ":"))) == 1
    assert [row["status"] for row in read_table(tmp_path)] == ["ok"] * 5


def test_images_without_a_file_are_all_done_again(tmp_path, caplog):
    network, images = smooth_network(2, 3), [{"image": torch.rand(1, 8, 8), "label": 0}] * 3
    for resume in (False, True):
        handler = mi.IFIMHandler(output_dir=tmp_path, resume=resume)
        SupervisedEvaluator(
            "cpu", DataLoader(images, batch_size=1), network=network, val_handlers=[handler]
        ).run()
    assert len(read_table(tmp_path)) == 3
    assert "all is done again" in caplog.text


def test_journals_alone_give_the_table(files, tmp_path):
    run(files, tmp_path / "a")
    merged = merge_runs([tmp_path / "a"], tmp_path / "merged.csv", verify=True)
    assert (merged.absent, merged.damaged, merged.failures) == ((), (), 0)
    assert (tmp_path / "merged.csv").read_bytes() == (tmp_path / "a" / "ifim.csv").read_bytes()


def test_merged_parts_are_the_whole_and_what_is_missing_is_named(files, tmp_path):
    run(files, tmp_path / "whole")
    run(files[:2], tmp_path / "a")
    run(files[2:], tmp_path / "b", stop_after=2)
    merged = merge_runs([tmp_path / "a", tmp_path / "b"], tmp_path / "merged.csv")
    assert merged.absent == (files[4],)
    last = merged.rows[-1]
    assert last == {
        "file": files[4],
        "status": "failed: no row in any journal: its work has not ended",
    }
    run(files[2:], tmp_path / "b", resume=True)
    merged = merge_runs([tmp_path / "b", tmp_path / "a"], tmp_path / "merged.csv")
    assert merged.failures == 0
    assert (tmp_path / "merged.csv").read_bytes() == (tmp_path / "whole" / "ifim.csv").read_bytes()
    (tmp_path / "a" / "scan0_ifim_high.nii.gz").write_bytes(b"short")
    merged = merge_runs([tmp_path / "a"], tmp_path / "merged.csv", verify=True)
    assert merged.damaged == (str(tmp_path / "a" / "scan0_ifim_high.nii.gz"),)


def test_runs_of_different_networks_are_not_merged(files, tmp_path):
    run(files[:1], tmp_path / "a")
    run(files[1:2], tmp_path / "b", seed=1)
    with pytest.raises(ValueError, match="expected runs with the same network and settings"):
        merge_runs([tmp_path / "a", tmp_path / "b"], tmp_path / "merged.csv")
    with pytest.raises(ValueError, match=r"expected a folder with run\.json"):
        merge_runs([tmp_path], tmp_path / "merged.csv")
