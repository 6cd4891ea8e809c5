"""A plain PyTorch network over files: ``mi.run`` and ``monai-ifim run --network``."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import monai_ifim as mi
from _helpers.commands import assert_same_results, refused, rows_of, told
from _helpers.dicom import write_series
from _helpers.foreign_bundles import write_picture, write_scan
from _helpers.networks import smooth_network
from _helpers.untouched import assert_untouched, snapshot
from monai_ifim.transforms.save import SaveComponentsd

pytestmark = pytest.mark.filterwarnings("ignore:NvImgCodecPydicomReader:UserWarning")
FACTORY = """
import torch
from torch import nn


def make(classes=3, channels=1, name="one"):
    assert name == "one"
    return nn.Sequential(
        nn.Conv2d(channels, 4, 3), nn.Tanh(), nn.AdaptiveAvgPool2d(3), nn.Flatten(),
        nn.Linear(36, classes),
    )


def number():
    return 3
"""


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for i in range(3):
        write_picture(folder / f"p{i}.png", i, (17, 12))
    write_picture(folder / "p3.jpg", 3, (17, 12))
    return folder


@pytest.fixture
def code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to work in, with ``factories_of_a_user.py`` and its weights."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "factories_of_a_user.py").write_text(FACTORY)
    names: dict = {}
    exec(FACTORY, names)
    torch.manual_seed(3)
    torch.save(names["make"]().state_dict(), tmp_path / "W.pt")
    return tmp_path


def network_of(code: Path) -> nn.Module:
    names: dict = {}
    exec(FACTORY, names)
    network = names["make"]()
    network.load_state_dict(torch.load(code / "W.pt", weights_only=True))
    return network


def test_three_lines(pictures: Path, tmp_path: Path):
    network = smooth_network(2)
    summary = mi.run(network, pictures, tmp_path / "out", progress=False)
    assert (summary.found, summary.done, summary.failed, summary.complete) == (4, 4, {}, True)
    assert summary.table == tmp_path / "out" / "ifim.csv"
    text = str(summary)
    assert "network: Sequential, " in text
    assert "preprocessing: LoadPictured, EnsureChannelFirstd\n" in text
    assert "4 images found, 4 done, 0 failed" in text
    assert "not a diagnosis" in text
    rows = rows_of(tmp_path / "out")
    assert [Path(row["file"]).name for row in rows] == ["p0.png", "p1.png", "p2.png", "p3.jpg"]
    steps = mi.image_preprocessing()
    for row in rows:
        image = steps({"image": row["file"]})["image"].as_tensor()[None]
        space = mi.eigenspace(network, image)
        assert float(row["trace"]) == pytest.approx(float(space.trace), rel=1e-5)
        assert float(row["eigenvalue_1"]) == pytest.approx(float(space.eigenvalues[0, 0]), rel=1e-5)


def test_volumes_are_those_of_the_transforms(tmp_path: Path):
    """Oblique scans of unequal size, oriented, resampled and resized."""
    (tmp_path / "scans").mkdir()
    for i in range(3):
        write_scan(tmp_path / "scans" / f"scan{i}.nii.gz", i)
    network = smooth_network(3)
    steps = mi.image_preprocessing(
        channels=1, orientation="LAS", spacing=(1, 1.2, 2), size=(12, 11, 10), intensity="zscore"
    )
    probe = torch.zeros(1, 1, 12, 11, 10)
    before = snapshot(network, probe)
    summary = mi.run(
        network,
        sorted((tmp_path / "scans").iterdir()),
        tmp_path / "out",
        preprocessing=steps,
        volumes=["high", "orth", "sensitivity"],
        batch_size=2,
        likelihood="bernoulli",
        rank=2,
        progress=False,
    )
    assert summary.complete
    assert_untouched(before, network, probe)
    assert "Spacingd (1, 1.2, 2), Resized (12, 11, 10)" in str(summary)
    assert "likelihood: bernoulli" in str(summary)
    save = SaveComponentsd(
        ["ifim_high", "ifim_orth", "ifim_sensitivity"], tmp_path / "byhand", transform=steps
    )
    components = mi.IFIMComponentsd(
        "image",
        network,
        volumes=["high", "orth", "sensitivity"],
        likelihood="bernoulli",
        rank=2,
    )
    for i in range(3):
        save(components(steps({"image": str(tmp_path / "scans" / f"scan{i}.nii.gz")})))
    import nibabel as nib

    files = sorted((tmp_path / "byhand").rglob("*.nii.gz"))
    assert len(files) == 9
    for file in files:
        one, other = nib.load(file), nib.load(tmp_path / "out" / file.name)
        values = np.asarray(one.dataobj)
        error = np.abs(values - np.asarray(other.dataobj)).max()
        assert error <= 1e-4 * np.abs(values).max()
        np.testing.assert_array_equal(one.affine, other.affine)


def test_dicom(tmp_path: Path):
    write_series(tmp_path / "study", range(1, 12))
    network = smooth_network(3)
    steps = mi.image_preprocessing(size=(12, 12, 12), intensity="range")
    summary = mi.run(network, tmp_path / "study", tmp_path / "out", preprocessing=steps)
    assert summary.complete
    assert len(list((tmp_path / "out").glob("study_ifim_*.nii.gz"))) == 2


def test_one_image_that_the_network_refuses(pictures: Path, tmp_path: Path):
    write_picture(pictures / "p1a.png", 5, (13, 11, 3))
    (pictures / "p1b.png").write_bytes(b"no picture")
    summary = mi.run(smooth_network(2), pictures, tmp_path / "out", progress=False)
    assert (summary.found, summary.done) == (6, 4)
    reasons = {Path(file).name: why for file, why in summary.failed.items()}
    assert sorted(reasons) == ["p1a.png", "p1b.png"]
    assert "to have 1 channels, but got 3" in reasons["p1a.png"]
    assert "identify" in reasons["p1b.png"]
    assert not summary.complete
    assert len(list((tmp_path / "out").glob("*_ifim_high.nii.gz"))) == 4


def test_the_network_is_left_in_training(pictures: Path, tmp_path: Path):
    network = nn.Sequential(smooth_network(2), nn.Dropout(0.5)).train()
    mi.run(network, pictures, tmp_path / "out", progress=False)
    assert network.training
    assert all(parameter.requires_grad for parameter in network.parameters())
    assert all(parameter.grad is None for parameter in network.parameters())


@pytest.mark.parametrize(
    ("choices", "error", "words"),
    [
        ({"rnk": 1}, TypeError, "did you mean 'rank'"),
        ({"batch_size": 0}, ValueError, "at least 1 image"),
        ({"device": "gpu"}, ValueError, "such as cpu or cuda:0"),
        ({"volumes": "low"}, ValueError, "low"),
        ({"preprocessing": lambda data: data}, ValueError, "expected"),
    ],
)
def test_impossible_choices(choices, error, words, pictures: Path, tmp_path: Path):
    with pytest.raises(error, match=words):
        mi.run(smooth_network(2), pictures, tmp_path / "out", **choices)


@pytest.mark.parametrize(
    ("choices", "words"),
    [
        ({"intensity": "window"}, "none, range, zscore"),
        ({"size": (4, 5), "spacing": (1, 1, 1)}, "2 by size, 3 by spacing"),
        ({"size": (4, 5), "dims": 3}, "one number of axes"),
        ({"size": (4, 5, 6, 7)}, "1 to 3"),
        ({"channels": 1}, "dims or size"),
        ({"channels": 0, "dims": 2}, "above 0"),
        ({"size": (0, 4)}, "above 0"),
        ({"spacing": (1, -1)}, "above 0"),
        ({"orientation": "RAS", "dims": 2}, "volumes alone"),
    ],
)
def test_steps_that_do_not_fit_together(choices, words):
    with pytest.raises(ValueError, match=words):
        mi.image_preprocessing(**choices)


def test_the_command_does_what_python_does(
    code: Path, pictures: Path, capsys: pytest.CaptureFixture[str]
):
    steps = mi.image_preprocessing(channels=1, size=(16, 14), intensity="range")
    mi.run(network_of(code), pictures, code / "python", preprocessing=steps, rank=1)
    text = told(
        capsys,
        *("run", "--network", "factories_of_a_user:make", "--weights", "W.pt"),
        *("--arguments", "classes=3", "name=one", "--device", "cpu"),
        *("--input", pictures, "--output", "command", "--rank", 1),
        *("--channels", 1, "--size", 16, 14, "--intensity", "range"),
    )
    assert text.startswith("weights: W.pt (4 tensors)\n")
    assert "CheckImaged (1 channel, 2 axes), Resized (16, 14), ScaleIntensityd (0 to 1)" in text
    assert_same_results(code / "command", code / "python")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda state: state, "W2.pt (4 tensors)"),
        (lambda state: {"model": state, "epoch": 3}, "under 'model'"),
        (lambda state: {"state_dict": state}, "under 'state_dict'"),
        (lambda state: {f"module.{k}": v for k, v in state.items()}, "without module."),
    ],
)
def test_weights_of_a_checkpoint(
    change, words, code: Path, pictures: Path, capsys: pytest.CaptureFixture[str]
):
    torch.save(change(torch.load(code / "W.pt", weights_only=True)), code / "W2.pt")
    common = ["--network", f"{code}/factories_of_a_user.py:make", "--input", pictures]
    text = told(capsys, "run", *common, "--weights", "W2.pt", "--output", "one")
    assert words in text
    told(capsys, "run", *common, "--weights", "W.pt", "--output", "two")
    assert_same_results(code / "one", code / "two")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"model": 3, "epoch": 1}, "got the keys model, epoch"),
        ([1, 2], "got a list"),
        (nn.Linear(2, 2), "without code"),
        ({"0.weight": torch.zeros(4, 1, 3, 3), "x": torch.zeros(2)}, "3 missing (0.bias, 4.weight"),
        (b"no checkpoint", "without code"),
        (None, "which does not exist"),
    ],
)
def test_weights_that_do_not_fit(
    content, words, code: Path, pictures: Path, capsys: pytest.CaptureFixture[str]
):
    if isinstance(content, bytes):
        (code / "bad.pt").write_bytes(content)
    elif content is not None:
        torch.save(content, code / "bad.pt")
    line = refused(
        capsys,
        *("run", "--network", "factories_of_a_user:make", "--weights", "bad.pt"),
        *("--input", pictures, "--output", "out"),
    )
    assert words in line
    assert not (code / "out").exists()


@pytest.mark.parametrize(
    ("factory", "words"),
    [
        ("make", "package.module:factory or file.py:factory"),
        ("no_such_module_at_all:make", "No module named"),
        ("no_such_file.py:make", "no file no_such_file.py"),
        ("factories_of_a_user:nothing", "has no attribute 'nothing'"),
        ("factories_of_a_user:number", "expected a torch.nn.Module"),
        ("torch.nn:Linear", "--arguments NAME=VALUE"),
    ],
)
def test_factories_that_make_no_network(
    factory, words, code: Path, pictures: Path, capsys: pytest.CaptureFixture[str]
):
    line = refused(capsys, "run", "--network", factory, "--input", pictures, "--output", "out")
    assert words in line


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--bundle", "x", "--weights", "w"], "expected --weights with --network alone"),
        (["--bundle", "x", "--size", "3"], "expected --size with --network alone"),
        (["--bundle", "x", "--network", "y:z"], "not allowed with"),
        ([], "one of the arguments --bundle --network is required"),
        (["--network", "y:z", "--arguments", "3"], "expected NAME=VALUE"),
    ],
)
def test_options_that_exclude_each_other(arguments, words, capsys: pytest.CaptureFixture[str]):
    line = refused(capsys, "run", "--input", "i", "--output", "o", *arguments)
    assert words in line
