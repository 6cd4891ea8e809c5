"""``monai-ifim doctor``: what is there, whether a bundle fits, and what an image costs."""

import json
import re
import shutil
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
import torch

from _helpers import foreign_bundles as foreign
from _helpers.bundle_images import BUNDLES, make_images
from _helpers.commands import refused, told
from monai_ifim.runs.doctor import reader_lines
from monai_ifim.runs.doctor.trial import Trial, memory_of

pytestmark = pytest.mark.filterwarnings("ignore:NvImgCodecPydicomReader:UserWarning")
SIGNAL = next(bundle for bundle in BUNDLES if bundle.name == "ifim_signal_2d")
TRIED = re.compile(
    r"^tried: (.*): ([\d.e-]+) s an image \(1,000 images: about \d+ (?:s|min)\), "
    r"([\d.]+) [MG]iB of memory on top \(on cpu\)$",
    re.MULTILINE,
)


def changed(bundle: Path, folder: Path, file: str, change) -> Path:
    """A copy of a bundle with one of its files changed."""
    copy = Path(shutil.copytree(bundle, folder / "changed"))
    content = json.loads((copy / "configs" / file).read_text())
    change(content)
    (copy / "configs" / file).write_text(json.dumps(content))
    return copy


def test_the_machine(capsys: pytest.CaptureFixture[str]):
    text = told(capsys, "doctor")
    for name in ("torch", "monai", "nibabel"):
        assert f"{name} {version(name)}" in text
    assert f"{torch.get_num_threads()} threads of torch" in text
    assert re.search(r"[\d.]+ [MG]iB memory", text)
    assert "cuda" in text
    assert f"reads .nii .nii.gz .mgz .mgh .img: nibabel {version('nibabel')}" in text
    assert "bundle" not in text


def test_what_is_missing_can_be_installed(monkeypatch: pytest.MonkeyPatch):
    for module in ("nrrd", "itk", "highdicom"):
        monkeypatch.setitem(sys.modules, module, None)  # importing it raises
    lines = reader_lines()
    assert "reads no .nrrd; pip install pynrrd (or 'monai_ifim[images]', for all)" in lines
    assert any(line.startswith("reads no .mha .mhd; pip install itk-io") for line in lines)
    assert (
        "DICOM series with their geometry: not installed; pip install 'monai_ifim[dicom]'" in lines
    )
    assert any(line.startswith("reads .png") and "itk" not in line for line in lines)


@pytest.mark.parametrize("bundle", BUNDLES, ids=lambda path: path.name)
def test_our_bundles_fit(bundle: Path, capsys: pytest.CaptureFixture[str]):
    text = told(capsys, "doctor", "--bundle", bundle, "--device", "cpu")
    assert text.endswith("it fits\n")
    assert "overlay: none needed, its own configuration has the handler" in text
    assert "likelihood: categorical, as its own handler has it" in text
    what, seconds, memory = TRIED.search(text).groups()
    assert what.startswith("a random image of 1x")
    assert float(seconds) > 0
    assert float(memory) > 0


def test_an_image_is_tried_and_nothing_is_left_behind(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    images = make_images("ifim_signal_2d", tmp_path / "images")
    monkeypatch.chdir(tmp_path)
    text = told(capsys, "doctor", "--bundle", SIGNAL, "--input", images, "--device", "cpu")
    assert TRIED.search(text)[1] == str(images / "signal_0000.nii.gz")
    assert [path.name for path in tmp_path.iterdir()] == ["images"]
    broken = images / "signal_0000.nii.gz"
    broken.write_bytes(broken.read_bytes()[:200])
    text = told(capsys, "doctor", "--bundle", SIGNAL, "--input", images, status=1)
    assert f"tried: {broken}: " in text
    assert "\nproblem: " in text
    assert "it fits" not in text


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("softmax_rgb", "categorical, because its postprocessing has a softmax"),
        ("sigmoid_labels", "bernoulli, because its postprocessing has a sigmoid"),
        ("segment_3d", "categorical, a softmax at each voxel"),
    ],
)
def test_foreign_bundles(name, why, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    bundle = foreign.install(name, tmp_path)
    text = told(capsys, "doctor", "--bundle", bundle)
    assert f"likelihood: {why}" in text
    assert "segmentation" in text if name == "segment_3d" else "overlay: ifim.yaml" in text
    assert "ids: bundle_root, device, dataset_dir, dataset, evaluator" in text
    assert "tried: nothing; metadata.json gives no shape: pass --input IMAGE" in text


def test_a_likelihood_that_nothing_shows_is_assumed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    def bare(config):
        del config["evaluator"]["postprocessing"]
        config["handlers"] = config["handlers"][:1]

    bundle = foreign.install("softmax_rgb", tmp_path)
    text = told(capsys, "doctor", "--bundle", changed(bundle, tmp_path, "inference.json", bare))
    assert "likelihood: categorical, assumed" in text


def test_a_random_image_that_the_network_refuses(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    def wrong(metadata):
        metadata["network_data_format"]["inputs"]["image"]["num_channels"] = 2

    bundle = changed(SIGNAL, tmp_path, "metadata.json", wrong)
    text = told(capsys, "doctor", "--bundle", bundle, status=1)
    assert "problem: " in text
    assert "2x64x64" in text


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("mask_channel", "got image and label in its preprocessing; run it on the list that"),
        ("nothing", "expected the folder of a bundle with configs/inference.json"),
    ],
)
def test_what_does_not_fit(name, words, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    bundle = tmp_path if name == "nothing" else foreign.install(name, tmp_path)
    text = told(capsys, "doctor", "--bundle", bundle, status=1)
    assert words in text.partition("\nproblem: ")[2]


def test_input_without_a_bundle(capsys: pytest.CaptureFixture[str]):
    assert "name the bundle to try" in refused(capsys, "doctor", "--input", "x")


def test_memory_is_measured():
    freed = [torch.ones(2**18) for _ in range(200)]  # a megabyte each
    last = freed.pop()
    del freed
    with memory_of(torch.device("cpu")) as peak:
        held = torch.ones(2**24)  # 64 MiB
        for _ in range(20):
            held.mul_(1.0)
    assert peak[0] > 0.9 * 2**26
    assert last[0] == held[0]  # which keeps the freed memory below it in the process


def test_minutes_of_many_images():
    assert "(1,000 images: about 8 min)" in str(Trial("x", 0.5, 2**20))
    assert "(1,000 images: about 50 s)" in str(Trial("x", 0.05, 2**20))
