"""Volumes of large images are written while the next ones are computed: nothing else changes."""

import errno
import json
import os
import signal
import threading
import time

import pytest
import torch
from ignite.engine import Events
from monai.engines import SupervisedEvaluator

import monai_ifim as mi
from _helpers.networks import smooth_network
from _helpers.scans import dataset
from _helpers.tables import read_table
from monai_ifim.data import nifti
from monai_ifim.data.run_table.writer_thread import WriterThread
from monai_ifim.handlers import postprocessing

KEYS = ["ifim_high", "ifim_orth"]


class Observed(mi.SaveComponentsd):
    """Notes the thread of each call, and may be slow or fail at one image."""

    def __init__(self, *args, seconds=0.0, fail_at="", **kwargs):
        super().__init__(*args, **kwargs)
        self._threads, self._seconds, self._fail_at = [], seconds, fail_at

    def __call__(self, data):
        self._threads.append(threading.current_thread().name)
        time.sleep(self._seconds)
        if self._fail_at and self._fail_at in data["ifim_file"]:
            raise RuntimeError("no such luck")
        return super().__call__(data)


@pytest.fixture
def all_are_large(monkeypatch):
    monkeypatch.setattr(postprocessing, "LARGE", 0)


@pytest.fixture(autouse=True)
def no_thread_is_left():
    yield
    assert not [t.name for t in threading.enumerate() if t.name.startswith("ifim-writer")]


def evaluator_of(files, out, *, size=1, observed=None, **options):
    save = Observed(KEYS, out, transform=None, **(observed or {}))
    evaluator = SupervisedEvaluator(
        device=torch.device("cpu"),
        val_data_loader=mi.FaultTolerantDataLoader(dataset(files), batch_size=size),
        network=smooth_network(3),
        inferer=mi.IFIMInferer(),
        val_handlers=[mi.IFIMHandler(output_dir=out, postprocessing=save, **options)],
    )
    return evaluator, save


def results(folder):
    kept = [p for p in folder.iterdir() if p.is_file() and p.name != "run.json"]
    return {path.name: path.read_bytes() for path in kept}


def journal(folder):
    (path,) = (folder / ".ifim").glob("journal-*.jsonl")
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.parametrize("size", [1, 2])
def test_the_results_are_the_same_byte_for_byte(files, tmp_path, monkeypatch, size):
    before, waiting = evaluator_of(files, tmp_path / "before", size=size)
    before.run()
    monkeypatch.setattr(postprocessing, "LARGE", 0)
    beside, save = evaluator_of(files, tmp_path / "beside", size=size)
    beside.run()
    assert set(waiting._threads) == {threading.current_thread().name}
    assert all(name.startswith("ifim-writer") for name in save._threads)
    assert results(tmp_path / "beside") == results(tmp_path / "before")
    of_files = [
        {line["row"]["file"]: line["volumes"] for line in journal(tmp_path / name) if "row" in line}
        for name in ("before", "beside")
    ]
    assert of_files[0] == of_files[1]


@pytest.mark.usefixtures("all_are_large")
def test_a_line_comes_after_the_names_of_its_files(files, tmp_path):
    evaluator, _ = evaluator_of(files, tmp_path / "out", observed={"seconds": 0.03})
    seen = []

    def look(engine):
        names = {path.name for path in (tmp_path / "out").glob("*.nii.gz")}
        lines = [line for line in journal(tmp_path / "out") if "row" in line]
        assert all(set(line["volumes"]) <= names and len(line["volumes"]) == 2 for line in lines)
        seen.append(engine.state.iteration - len(lines))

    evaluator.add_event_handler(Events.ITERATION_COMPLETED, look)
    evaluator.run()
    assert max(seen) <= 4  # one in work, two that wait, one whose line is due
    assert len([line for line in journal(tmp_path / "out") if "row" in line]) == len(files)


@pytest.mark.usefixtures("all_are_large")
def test_an_error_is_the_status_of_its_own_image(files, tmp_path):
    name = os.path.basename(files[1])
    evaluator, _ = evaluator_of(files, tmp_path / "out", size=2, observed={"fail_at": name})
    evaluator.run()
    status = {os.path.basename(row["file"]): row["status"] for row in read_table(tmp_path / "out")}
    assert "in postprocessing, RuntimeError: no such luck" in status.pop(name)
    assert set(status.values()) == {"ok"}
    assert evaluator.state.metrics["ifim_left_out"] == 1


@pytest.mark.usefixtures("all_are_large")
@pytest.mark.parametrize("on_error", ["row", "raise"])
def test_a_full_disk_stops_the_run_with_that_reason(files, tmp_path, monkeypatch, on_error):
    whole, _ = evaluator_of(files, tmp_path / "whole")
    whole.run()
    out, write, calls = tmp_path / "out", nifti._write, []

    def full(image, stream):
        calls.append(1)
        if len(calls) > 3:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write(image, stream)

    monkeypatch.setattr(nifti, "_write", full)
    evaluator, _ = evaluator_of(files, out, on_error=on_error)
    with pytest.raises(OSError, match="expected space for") as raised:
        evaluator.run()
    assert raised.value.errno == errno.ENOSPC
    rows = read_table(out)
    assert rows[0]["status"] == "ok"
    assert "the run ended here, OSError: expected space" in rows[1]["status"]
    assert all("the run ended" in row["status"] for row in rows[1:])
    assert not list(out.glob(".partial-*"))
    monkeypatch.setattr(nifti, "_write", write)
    evaluator, _ = evaluator_of(files, out, resume=True)
    evaluator.run()
    assert results(out) == results(tmp_path / "whole")


@pytest.fixture
def interruptible():
    """Shells let what they start in the background ignore Ctrl-C."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("all_are_large", "interruptible")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_leaves_nothing_half_written(files, tmp_path, number):
    whole, _ = evaluator_of(files, tmp_path / "whole")
    whole.run()
    out = tmp_path / "out"
    evaluator, _ = evaluator_of(files, out, observed={"seconds": 0.1})
    evaluator.add_event_handler(
        Events.ITERATION_COMPLETED(once=3), lambda: os.kill(os.getpid(), number)
    )
    with pytest.raises(KeyboardInterrupt):
        evaluator.run()
    assert not list(out.glob(".partial-*"))
    done = [line for line in journal(out) if "row" in line]
    written = {path.name: path.read_bytes() for path in out.glob("*.nii.gz")}
    assert written.items() <= results(tmp_path / "whole").items()
    assert {name for line in done for name in line["volumes"]} <= set(written)
    status = [row["status"] for row in read_table(out)]
    assert status.count("ok") == len(done) < len(files)
    evaluator, _ = evaluator_of(files, out, resume=True)
    evaluator.run()
    assert results(out) == results(tmp_path / "whole")


@pytest.mark.usefixtures("all_are_large")
def test_an_error_of_the_host_is_raised_as_it_is(files, tmp_path):
    evaluator, _ = evaluator_of(files, tmp_path / "out", observed={"seconds": 0.05})
    error = LookupError("of the host")

    def fail():
        raise error

    evaluator.add_event_handler(Events.ITERATION_COMPLETED(once=2), fail)
    with pytest.raises(LookupError) as raised:
        evaluator.run()
    assert raised.value is error


@pytest.mark.usefixtures("all_are_large")
def test_the_host_keeps_its_random_numbers_and_its_threads(files, tmp_path):
    states, threads = [], torch.get_num_threads()
    for seconds in (0.0, 0.02):
        torch.manual_seed(3)
        evaluator, _ = evaluator_of(files, tmp_path / str(seconds), observed={"seconds": seconds})
        evaluator.run()
        states.append(torch.get_rng_state())
    assert torch.equal(*states)
    assert torch.get_num_threads() == threads
    assert torch.is_grad_enabled()


def test_no_more_jobs_than_there_is_room_for():
    thread, go, most = WriterThread(most=2), threading.Event(), []
    running = []

    def job():
        go.wait(5)
        return []

    def submit():
        for _ in range(4):
            running.append(thread.submit(job))
            most.append(sum(not each.done() for each in running))

    other = threading.Thread(target=submit)
    other.start()
    time.sleep(0.1)
    assert len(running) == 2  # the third one waits
    go.set()
    other.join(5)
    thread.close()
    assert max(most) <= 3
    assert len(running) == 4
    assert all(each.result() == [] for each in running)


def test_what_is_discarded_is_not_begun():
    thread, go, begun = WriterThread(most=3), threading.Event(), threading.Event()

    def job():
        begun.set()
        go.wait(5)
        return []

    first, second = thread.submit(job), thread.submit(job)
    begun.wait(5)
    closing = threading.Thread(target=thread.close, kwargs={"discard": True})
    closing.start()
    time.sleep(0.05)
    go.set()
    closing.join(5)
    assert first.result() == []
    assert second.cancelled()
