"""The Ray engine: whatever is lost on the way, the bytes of an undisturbed run of one process."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from _helpers.bundles import SIGNAL
from _helpers.commands import files_of, rows_of
from _helpers.disturbed import disturbed_bundle, done, lines, starts
from _helpers.ray_runs import (
    ROOT,
    command,
    ended,
    gone,
    listening,
    on_ray,
    processes_of,
    record,
    same_bytes,
    wait_until,
)
from _helpers.scans import unreadable
from monai_ifim import run_on_ray
from monai_ifim.experiments import signal_task, write_signal_images
from monai_ifim.runs import RunOptions, run_bundle

pytest.importorskip("ray", reason="needs Ray: pip install 'monai_ifim[cluster]'")
pytestmark = [
    pytest.mark.filterwarnings("ignore:NvImgCodecPydicomReader:UserWarning"),
    # Ray 2.60 warns of its own settings when it makes the first ones.
    pytest.mark.filterwarnings("ignore:.*deprecated:DeprecationWarning:ray.data.context"),
]
IMAGES = 16


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """As each worker has: with another number the last digits differ."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ray") / "images"
    write_signal_images(signal_task("2d"), folder, IMAGES, 0)
    return folder


@pytest.fixture(scope="module")
def damaged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ray") / "images"
    write_signal_images(signal_task("2d"), folder, 6, 0)
    unreadable(folder / "signal_0002.nii.gz")
    return folder


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return disturbed_bundle(tmp_path / "bundle")


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory, images: Path) -> Path:
    """What one process makes of the images, undisturbed."""
    folder = tmp_path_factory.mktemp("expected")
    run_bundle(disturbed_bundle(folder / "bundle"), images, folder / "out")
    return folder / "out"


# The whole way, quickly.


def test_a_damaged_image_and_the_bytes_of_one_process(damaged: Path, tmp_path: Path):
    theirs = run_bundle(SIGNAL, damaged, tmp_path / "one", RunOptions(workers=0))
    output = tmp_path / "out"
    text = ended(on_ray(SIGNAL, damaged, output, "--processes", 2), output, status=1)
    assert "6 images found, 5 done, 1 failed" in text
    summary = [line for line in text.splitlines() if not re.match(r"\d+/6 images", line)]
    assert len(summary) == len(str(theirs).splitlines())  # and nothing else but the progress
    same_bytes(output, tmp_path / "one")
    state = record(output)
    assert state["state"] == "complete"
    assert state["images"] == {"listed": 6, "done": 5, "failed": 1}
    assert state["command"][1] == "run"
    assert not list((output / ".ifim").glob("lock-worker-*"))


def test_the_caller_is_not_disturbed(damaged: Path, tmp_path: Path, capfd):
    import ray
    import ray.data

    context = ray.data.DataContext.get_current()

    def state() -> tuple[object, ...]:
        variables = {name: value for name, value in os.environ.items() if name != "RAY_AUTH_MODE"}
        return variables, signal.getsignal(signal.SIGTERM), context.wait_for_min_actors_s

    before = state()
    summary = run_on_ray(SIGNAL, damaged, tmp_path / "out", processes=1, progress=False)
    assert (summary.found, summary.done, len(summary.failed)) == (6, 5, 1)
    assert summary.error == ""
    assert any("IFIM" in note or "bundle" in note for note in summary.notes)
    assert "images/s" in str(summary)
    assert not ray.is_initialized()
    assert state() == before
    assert capfd.readouterr() == ("", "")
    with pytest.raises(ValueError, match="expected no results of another run"):
        run_on_ray(SIGNAL, damaged, tmp_path / "out", progress=False)
    with pytest.raises(ValueError, match=r"expected a Ray cluster at .*, got Connection"):
        run_on_ray(SIGNAL, damaged, tmp_path / "other", address="127.0.0.1:1", progress=False)
    assert state() == before


def test_what_cannot_be_is_told_before_ray_starts(damaged: Path, tmp_path: Path):
    out = tmp_path / "out"
    with pytest.raises(ValueError, match="expected an id of the configuration, got no_such"):
        run_on_ray(SIGNAL, damaged, out, ids={"no_such": 1})
    with pytest.raises(ValueError, match="expected existing='refuse' with Ray"):
        run_on_ray(SIGNAL, damaged, out, RunOptions(existing="move"))
    with pytest.raises(ValueError, match="expected 1 or more as processes, got 0"):
        run_on_ray(SIGNAL, damaged, out, processes=0)
    with pytest.raises(FileNotFoundError, match="expected the folder of a bundle"):
        run_on_ray(tmp_path, damaged, out)
    assert not out.exists() or not list(out.iterdir())


# What is lost on the way.


@pytest.mark.slow
def test_a_process_is_killed(images: Path, bundle: Path, expected: Path, tmp_path: Path):
    output = tmp_path / "out"
    (bundle / "slow").write_text("0.3")
    process = on_ray(bundle, images, output, "--processes", 2)
    wait_until(lambda: len(done(output)) >= 4, process)
    workers = [line["pid"] for line in lines(output) if "journal" in line]
    os.kill(workers[0], signal.SIGKILL)
    ended(process, output)
    same_bytes(output, expected)
    assert len({line["pid"] for line in lines(output) if "journal" in line}) >= 3
    assert sum(starts(output).values()) <= IMAGES + 1


@pytest.mark.slow
def test_an_image_that_ends_its_process(images: Path, bundle: Path, expected: Path, tmp_path: Path):
    output, bad = tmp_path / "out", "signal_0005.nii.gz"
    (bundle / "killing").write_text(bad)
    text = ended(on_ray(bundle, images, output, "--processes", 2), output, status=1)
    assert f"{IMAGES} images found, {IMAGES - 1} done, 1 failed" in text
    row = next(row for row in rows_of(output) if row["file"].endswith(bad))
    assert row["status"].startswith("failed: its process ended 3 times")
    assert starts(output)[bad] == 3
    same_bytes(output, expected, but="signal_0005")
    (bundle / "killing").unlink()
    ended(on_ray(bundle, images, output, "--resume"), output)
    same_bytes(output, expected)
    assert sum(starts(output).values()) == IMAGES + 3


@pytest.mark.slow
def test_the_driver_is_killed(images: Path, bundle: Path, expected: Path, tmp_path: Path):
    output = tmp_path / "out"
    (bundle / "slow").write_text("0.4")
    process = on_ray(bundle, images, output, "--processes", 2)
    wait_until(lambda: len(done(output)) >= 4, process)
    family = processes_of(process.pid)
    process.kill()
    process.wait(30)
    ended(on_ray(bundle, images, output, "--processes", 2, "--resume"), output)
    same_bytes(output, expected)
    again = {file: count for file, count in starts(output).items() if count > 1}
    assert len(again) <= 2  # those that were in work
    assert max(again.values(), default=1) <= 2
    assert not gone(family, 90)


@pytest.mark.slow
@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal(
    number: int, status: int, images: Path, bundle: Path, expected: Path, tmp_path: Path
):
    output = tmp_path / "out"
    (bundle / "slow").write_text("0.4")
    process = on_ray(bundle, images, output, "--processes", 2)
    wait_until(lambda: len(done(output)) >= 4, process)
    family = processes_of(process.pid)
    if number == signal.SIGINT:
        os.killpg(process.pid, number)  # as a terminal does
    else:
        process.send_signal(number)
    text = ended(process, output, status)
    assert "interrupted" in text
    rows = {Path(row["file"]).name: row["status"] for row in rows_of(output)}
    assert rows["run"].startswith("failed: ")
    assert {name for name, told in rows.items() if not told.startswith("failed:")} == done(output)
    assert record(output)["state"] == "interrupted"
    assert not gone(family)
    (bundle / "slow").unlink()
    ended(on_ray(bundle, images, output, "--resume"), output)
    same_bytes(output, expected)
    assert record(output)["state"] == "complete"


@contextmanager
def cluster(**head: object) -> Iterator:
    """A cluster of Ray's on this machine."""
    from ray.cluster_utils import Cluster

    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, **head})
    try:
        yield made
    finally:
        made.shutdown()


@pytest.mark.slow
def test_a_node_is_lost(images: Path, bundle: Path, expected: Path, tmp_path: Path):
    output = tmp_path / "out"
    (bundle / "slow").write_text("0.4")
    with cluster() as two:
        node = two.add_node(num_cpus=1)
        process = on_ray(bundle, images, output, "--address", two.address, "--processes", 2)
        wait_until(lambda: len({n["pid"] for n in lines(output) if "journal" in n}) == 2, process)
        wait_until(lambda: len(done(output)) >= 4, process)
        two.remove_node(node, allow_graceful=False)
        ended(process, output)
    same_bytes(output, expected)


@pytest.mark.slow
def test_more_processes_than_a_cluster_has(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    import monai_ifim.cluster as module

    monkeypatch.setitem(module._SETTINGS, "wait_for_min_actors_s", 20)
    with cluster() as one:
        summary = run_on_ray(
            SIGNAL, images, tmp_path / "out", address=one.address, processes=3, progress=False
        )
    assert summary.error.startswith("RuntimeError: expected 3 processes within 20 s, got fewer")
    assert "1 CPUs and 0 GPUs" in summary.error


@pytest.mark.slow
def test_a_connection_of_the_caller_stays(damaged: Path, tmp_path: Path):
    import ray

    ray.init(
        "local", num_cpus=1, include_dashboard=False, log_to_driver=False, logging_level="ERROR"
    )
    try:
        summary = run_on_ray(SIGNAL, damaged, tmp_path / "out", progress=False)
        assert summary.done == 5
        assert ray.is_initialized()
        assert ray.get(ray.put(1)) == 1
    finally:
        ray.shutdown()


@pytest.mark.slow
def test_an_error_of_a_worker_is_one_sentence(images: Path, bundle: Path, tmp_path: Path):
    output = tmp_path / "out"
    for path in (bundle / "models").iterdir():
        path.unlink()
    text = ended(on_ray(bundle, images, output), output, status=1)
    assert "the run ended early: " in text
    assert "results: none" in text
    assert text.count("\n") < 8, text


# The folder belongs to one run.


@pytest.mark.slow
def test_the_folder_is_for_one_driver(images: Path, bundle: Path, expected: Path, tmp_path: Path):
    output, other = tmp_path / "out", tmp_path / "second.log"
    (bundle / "slow").write_text("2")
    process = on_ray(bundle, images, output, "--processes", 1)
    wait_until(lambda: len(done(output)) >= 1, process)
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    for further in (["--engine", "ray", "--resume"], ["--resume"], ["--engine", "ray"]):
        second = subprocess.run(
            command(bundle, images, output, *further),
            env=environment, capture_output=True, text=True, timeout=120, cwd=other.parent,
        )  # fmt: skip
        assert second.returncode != 0
        assert "expected " in second.stderr + second.stdout
        assert "wait for the" in second.stderr + second.stdout or "--resume" in second.stderr
    (bundle / "slow").unlink()
    ended(process, output)
    same_bytes(output, expected)


@pytest.mark.slow
@pytest.mark.parametrize("how", ["shards", "whole"])
def test_going_on_with_another_kind_of_run(
    how: str, images: Path, bundle: Path, expected: Path, tmp_path: Path
):
    output = tmp_path / "out"
    if how == "shards":
        run_bundle(bundle, images, output, RunOptions(shard="0/2"))
    else:
        (bundle / "slow").write_text("0.4")
        environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
        words = command(bundle, images, output)
        process = subprocess.Popen(words, env=environment, stderr=subprocess.DEVNULL)
        wait_until(lambda: len(done(output)) >= 5, process)
        process.kill()
        process.wait()
        (bundle / "slow").unlink()
    kept = done(output)
    assert len(kept) >= 5
    ended(on_ray(bundle, images, output, "--resume"), output)
    same_bytes(output, expected)
    assert all(starts(output)[file] == 1 for file in kept)


@pytest.mark.slow
def test_results_of_another_network_are_refused(images: Path, bundle: Path, tmp_path: Path):
    output = tmp_path / "out"
    run_bundle(bundle, images, output, RunOptions(rank=1))
    before = {name: file.read_bytes() for name, file in files_of(output).items()}
    text = ended(on_ray(bundle, images, output), output, status=2)
    assert "expected no results of another run" in text
    text = ended(on_ray(bundle, images, output, "--resume", "--volumes", "high"), output, status=1)
    assert "expected results of the same network and settings" in text
    assert {name: file.read_bytes() for name, file in files_of(output).items()} == before


# No other machine reaches it.


LOOPBACK = ("0100007F:", "00000000000000000000000001000000:", "0000000000000000FFFF00000100007F:")


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="needs Linux")
@pytest.mark.parametrize("before", [False, True], ids=["imported by us", "imported before"])
def test_all_ports_are_on_loopback(before: bool, images: Path, bundle: Path, tmp_path: Path):
    output = tmp_path / "out"
    (bundle / "slow").write_text("0.5")
    words = command(bundle, images, output, "--engine", "ray")[3:]
    program = f"{'import ray;' * before}from monai_ifim.cli import main; main({words!r})"
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen([sys.executable, "-c", program], env=environment)
    wait_until(lambda: len(done(output)) >= 2, process)
    found = listening(processes_of(process.pid))
    process.send_signal(signal.SIGINT)
    process.wait(60)
    assert len(found) > 3
    assert [address for address in found if not address.startswith(LOOPBACK)] == []
