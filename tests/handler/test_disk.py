"""The disk is full, or the folder is no longer there: the run stops, and goes on later."""

import errno
import os
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from ignite.engine import Events
from monai.engines import SupervisedEvaluator

import monai_ifim as mi
from _helpers.networks import smooth_network
from _helpers.scans import dataset, write_scans
from _helpers.tables import read_table
from monai_ifim.data import nifti


def evaluator_of(files, out, network=None, **options):
    save = mi.SaveComponentsd(["ifim_high", "ifim_orth"], out, transform=None)
    handler = mi.IFIMHandler(output_dir=out, postprocessing=save, **options)
    return SupervisedEvaluator(
        device=torch.device("cpu"),
        val_data_loader=mi.FaultTolerantDataLoader(dataset(files), batch_size=1),
        network=smooth_network(3) if network is None else network,
        inferer=mi.IFIMInferer(),
        val_handlers=[handler],
    )


def results(folder):
    kept = [p for p in folder.iterdir() if p.is_file() and p.name != "run.json"]
    return {path.name: path.read_bytes() for path in kept}


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS])
def test_a_full_disk_stops_the_run_with_that_reason(files, tmp_path, monkeypatch, number):
    evaluator_of(files, tmp_path / "whole").run()
    out, write, calls = tmp_path / "out", nifti._write, []

    def full(image, stream):
        calls.append(1)
        if len(calls) > 5:
            raise OSError(number, os.strerror(number))
        write(image, stream)

    monkeypatch.setattr(nifti, "_write", full)
    with pytest.raises(OSError, match=r"expected (space|a folder that can be written)") as raised:
        evaluator_of(files, out).run()
    assert raised.value.errno == number
    assert len(calls) == 6  # at once
    rows = read_table(out)
    assert [row["status"] for row in rows[:2]] == ["ok", "ok"]
    assert "the run ended here, OSError: expected" in rows[2]["status"]
    assert all("not reached" in row["status"] for row in rows[3:5])
    assert rows[5]["file"] == "run"
    monkeypatch.undo()
    evaluator_of(files, out, resume=True).run()
    assert results(out) == results(tmp_path / "whole")


def mounted(path, size):
    path.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(path)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("no mount command")
    if done.returncode:
        pytest.skip(f"no small disk can be mounted: {done.stderr.strip()}")


@pytest.mark.parametrize("pages", [8, 13])
def test_a_disk_that_is_full(tmp_path, pages):
    files = write_scans(tmp_path / "scans", 3, count=5)
    evaluator_of(files, tmp_path / "whole").run()
    mounted(tmp_path / "disk", f"{pages * 4}k")
    out = tmp_path / "disk" / "out"
    try:
        with pytest.raises(OSError, match=r"[Nn]o space|full disk"):
            evaluator_of(files, out).run()
        remount = ["mount", "-o", "remount,size=4m", str(tmp_path / "disk")]
        subprocess.run(remount, check=True)
        evaluator_of(files, out, resume=True).run()
        assert results(out) == results(tmp_path / "whole")
        assert not list(out.rglob(".partial*"))
    finally:
        subprocess.run(["umount", str(tmp_path / "disk")], check=True)


class Once:
    """Does something at the beginning of the third batch."""

    def __init__(self, work):
        self.work = work

    def __call__(self, engine):
        self.work()


@pytest.mark.parametrize("what", ["removed", "a file in its place", "renamed"])
def test_a_folder_that_goes_away_stops_the_run(files, tmp_path, what):
    out = tmp_path / "out"

    def spoil():
        if what == "renamed":
            out.rename(tmp_path / "elsewhere")
        else:
            shutil.rmtree(out)
        if what == "a file in its place":
            out.write_text("")

    evaluator = evaluator_of(files, out)
    # The last handler of the batch before, so that the next batch begins without the folder.
    evaluator.add_event_handler(Events.GET_BATCH_STARTED(once=3), Once(spoil))
    with pytest.raises(FileNotFoundError, match=r"expected the output folder .* as it was"):
        evaluator.run()
    if what == "renamed":
        evaluator_of(files, tmp_path / "elsewhere", resume=True).run()
        assert [row["status"] for row in read_table(tmp_path / "elsewhere")] == ["ok"] * 5
    if what == "a file in its place":
        with pytest.raises(ValueError, match="expected an output folder that can be written"):
            evaluator_of(files, out)


def test_a_file_that_vanishes_is_a_row(files, tmp_path):
    evaluator = evaluator_of(files, tmp_path)
    evaluator.add_event_handler(Events.STARTED, Once(Path(files[3]).unlink))
    evaluator.run()
    rows = read_table(tmp_path)
    assert [row["status"] == "ok" for row in rows] == [True, True, True, False, True]
    assert "scan3" in rows[3]["file"]


def test_the_folder_is_checked_when_the_handler_is_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="expected an output folder that can be written"):
        mi.IFIMHandler(output_dir=tmp_path / "file")


def test_an_engine_that_is_terminated_leaves_a_table_that_says_so(files, tmp_path):
    evaluator = evaluator_of(files, tmp_path)
    evaluator.add_event_handler(Events.ITERATION_COMPLETED(once=2), lambda e: e.terminate())
    evaluator.run()
    rows = read_table(tmp_path)
    assert [row["file"] for row in rows] == [*files, "run"]
    assert [row["status"] for row in rows].count("ok") == 2
    assert "the engine was terminated" in rows[-1]["status"]
    evaluator_of(files, tmp_path, resume=True).run()
    assert [row["status"] for row in read_table(tmp_path)] == ["ok"] * 5
