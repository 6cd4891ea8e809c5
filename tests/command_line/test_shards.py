"""``--shard`` and ``merge``: what is printed, and the files of a run as a whole."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from _helpers.bundle_images import BUNDLES, make_images
from _helpers.commands import assert_same_results, refused, rows_of, told
from _helpers.dicom import OBLIQUE, write_series
from monai_ifim.runs.options import RunOptions, device_of_process

pytestmark = [
    pytest.mark.filterwarnings("ignore:NvImgCodecPydicomReader:UserWarning"),
]
SIGNAL = next(bundle for bundle in BUNDLES if bundle.name == "ifim_signal_2d")
NETWORK = '''
import os, signal, torch
class Net(torch.nn.Module):
    """Takes its process with it at an image without contrast, as a crash in C code would."""
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.body = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(256, 3))
    def forward(self, x):
        if bool(x.max() == x.min()) and os.environ.get("CRASH"):
            os.kill(os.getpid(), signal.SIGKILL)
        return self.body(x / 255)
'''


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_images("ifim_signal_2d", tmp_path_factory.mktemp("shards") / "images")


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Eight pictures, of which the fourth has no contrast."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    for i in range(8):
        noise = np.random.default_rng(i).integers(0, 255, (16, 16), dtype=np.uint8)
        Image.fromarray(np.full_like(noise, 77) if i == 3 else noise).save(folder / f"p{i}.png")
    return folder


def run(*more: object) -> list[object]:
    return ["run", "--bundle", SIGNAL, "--device", "cpu", *more]


def test_shards_of_a_bundle(images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    told(capsys, *run("--input", images, "--output", whole))
    count = len(rows_of(whole))
    for i in (1, 0):
        text = told(capsys, *run("--input", images, "--output", parts, "--shard", f"{i}/2"))
        own = len(range(i, count, 2))
        assert f"shard {i}/2 of {count} images: {own} images found, {own} done, 0 failed" in text
        ended = f"results: {parts / 'ifim.csv'} and" in text
        assert ended == (i == 0)
        assert (f"or with monai-ifim merge {parts}" in text) == (i == 1)
    assert_same_results(parts, whole)


def test_images_that_come_later_are_told_and_left_out(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    folder = Path(shutil.copytree(images, tmp_path / "images"))
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    told(capsys, *run("--input", folder, "--output", whole))
    told(capsys, *run("--input", folder, "--output", parts, "--shard", "0/2"))
    first = min(folder.glob("*.nii.gz"))
    shutil.copy(first, folder / "aaa.nii.gz")  # would be the first of the list
    assert main_with_errors(capsys, *run("--input", folder, "--output", parts, "--shard", "1/2"))[
        1
    ].startswith("1 images have come since the run began, and are left out")
    (folder / "aaa.nii.gz").unlink()
    assert_same_results(parts, whole)


def test_an_image_that_has_gone_is_a_row(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    folder, parts = Path(shutil.copytree(images, tmp_path / "images")), tmp_path / "parts"
    told(capsys, *run("--input", folder, "--output", parts, "--shard", "0/2"))
    gone = sorted(folder.glob("*.nii.gz"))[1]
    gone.unlink()
    text = told(capsys, *run("--input", folder, "--output", parts, "--shard", "1/2"), status=1)
    assert f"failed: {gone}" in text
    rows = {row["file"]: row["status"] for row in rows_of(parts)}
    assert rows[str(gone)].startswith("failed")
    assert sum(status == "ok" for status in rows.values()) == len(rows) - 1


@pytest.mark.filterwarnings("ignore:Invalid value for VR UI:UserWarning")
def test_a_series_keeps_the_slices_that_it_had(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """Of two series in one folder, whose slices are told one by one; some arrive in between."""
    folder = tmp_path / "dicom"
    for name, series in (("a", "1.2.3"), ("b", "1.2.4")):
        write_series(folder, series=series, orientation=OBLIQUE, prefix=name)
    network = ["run", "--network", "torch.nn:Flatten", "--device", "cpu", "--input", folder]
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    told(capsys, *network, "--output", whole)
    told(capsys, *network, "--output", parts, "--shard", "0/2")
    for name, series in (("0a", "1.2.3"), ("0b", "1.2.4")):
        write_series(folder, range(8, 10), series, OBLIQUE, prefix=name)
    told(capsys, *network, "--output", parts, "--shard", "1/2")
    assert_same_results(parts, whole)


def test_other_images_are_no_images_of_the_run(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    other = Path(shutil.copytree(images, tmp_path / "other"))
    parts = tmp_path / "parts"
    told(capsys, *run("--input", images, "--output", parts, "--shard", "0/2"))
    text = refused(capsys, *run("--input", other, "--output", parts, "--shard", "1/2"))
    assert "give the same --input" in text
    assert "an empty text" in refused(
        capsys, *run("--input", images, "--output", parts, "--shard", "")
    )
    for file in (parts.parent / "other").iterdir():
        file.unlink()


def main_with_errors(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[str, str]:
    from monai_ifim.cli import main

    assert main([str(argument) for argument in arguments]) == 0
    captured = capsys.readouterr()
    return captured.out, captured.err


def test_merge(images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    told(capsys, *run("--input", images, "--output", whole))
    told(capsys, *run("--input", images, "--output", parts, "--shard", "1/2"))
    count = len(rows_of(whole))
    text = told(capsys, "merge", parts, status=1)
    missing = len(range(0, count, 2))
    assert f"{count} rows, {missing} of them without a result: {parts / 'ifim.csv'}" in text
    assert "no row in any journal" in text
    told(capsys, *run("--input", images, "--output", parts, "--shard", "0/2"))
    (parts / "ifim.csv").unlink()
    (parts / "predictions.csv").unlink()
    text = told(capsys, "merge", parts, "--verify")
    assert f"{count} rows, 0 of them without a result" in text
    assert_same_results(parts, whole)
    volume = min(parts.glob("*_ifim_high.nii.gz"))
    volume.write_bytes(b"cut")
    text = told(capsys, "merge", parts, "--verify", "--table", tmp_path / "t.csv", status=1)
    assert f"not as it was written: {volume}" in text
    assert "expected a folder with run.json" in refused(capsys, "merge", tmp_path)


def test_wrong_use(images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    wrong = run("--input", images, "--output", tmp_path / "out")
    assert "a shard from 0/2 to 1/2, got 2/2" in refused(capsys, *wrong, "--shard", "2/2")
    assert "name it: --shard 3/100" in refused(capsys, *wrong, "--shard")
    text = refused(capsys, *wrong, "--shard", "0/2", "--engine", "ray")
    assert "expected --shard or --engine" in text
    assert "expected --address with --engine ray" in refused(capsys, *wrong, "--address", "auto")
    text = refused(capsys, *wrong, "--shard", "0/2", "--existing", "move")
    assert "expected existing='refuse' with shard 0/2" in text
    network = ["run", "--network", "torch.nn:Flatten", "--input", images, "--output", tmp_path]
    assert "--engine with --bundle alone" in refused(capsys, *network, "--engine", "ray")


def test_each_process_of_a_machine_has_its_gpu(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 4)
    options = RunOptions(shard="5/8")
    assert device_of_process(options, {"LOCAL_RANK": "1"}) == "cuda:1"
    assert device_of_process(options, {"LOCAL_RANK": "5"}) == "cuda:1"
    assert device_of_process(options, {}) is None
    assert device_of_process(RunOptions(), {"LOCAL_RANK": "1"}) is None
    assert device_of_process(RunOptions(device="cpu", shard="0/2"), {"LOCAL_RANK": "1"}) == "cpu"


def command(pictures: Path, output: Path, *more: str) -> list[str]:
    (pictures.parent / "net.py").write_text(NETWORK)
    return [
        *("-m", "monai_ifim", "run", "--network", f"{pictures.parent / 'net.py'}:Net"),
        *("--device", "cpu", "--input", str(pictures), "--output", str(output), *more),
    ]


def test_four_processes_at_once_one_killed(pictures: Path, tmp_path: Path):
    """In any order, one of them killed and started again: the files of one process."""
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    subprocess.run([sys.executable, *command(pictures, whole)], check=True, capture_output=True)

    def start(i: int, crash: str) -> "subprocess.Popen[str]":
        environment = os.environ | {"SLURM_ARRAY_TASK_ID": str(i), "CRASH": crash}
        line = command(pictures, parts, "--shard", "auto/4", "--resume")
        return subprocess.Popen(
            [sys.executable, *line], env=environment, text=True, stdout=subprocess.PIPE
        )

    processes = [start(i, "yes") for i in (2, 3, 0, 1)]
    told_by = [process.communicate()[0] for process in processes]
    assert [process.returncode for process in processes] == [0, -signal.SIGKILL, 0, 0]
    assert "shard 2/4 of 8 images: 2 images found, 2 done, 0 failed" in told_by[0]
    assert not (parts / "ifim.csv").exists()
    assert json.loads((parts / "run.json").read_text())["state"] != "complete"
    again = start(3, "")
    assert "2 done, 0 failed" in again.communicate()[0]
    assert again.returncode == 0
    assert_same_results(parts, whole)


@pytest.mark.slow
def test_torchrun_restarts_a_process_that_an_image_kills(
    pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    """Without a process group: the image becomes a row, the run ends, others are done once."""
    parts = tmp_path / "parts"
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    line = command(pictures, parts, "--shard", "auto", "--resume")
    ended = subprocess.run(
        [sys.executable, *torchrun, "--max-restarts", "5", *line],
        env=os.environ | {"CRASH": "yes"},
        capture_output=True,
        text=True,
        check=False,
    )
    # An image without a result is no reason to start all processes again; merge has the status.
    assert ended.returncode == 0
    assert "status 0: torchrun would start all processes again" in ended.stderr
    assert told(capsys, "merge", parts, status=1).startswith("8 rows, 1 of them without a result")
    rows = rows_of(parts)
    assert len(rows) == 8
    failed = {row["file"]: row["status"] for row in rows if row["status"] != "ok"}
    assert list(failed) == [str(pictures / "p3.png")]
    assert "its process ended 3 times while it was in work" in failed[str(pictures / "p3.png")]
