"""``monai-ifim run --bundle`` gives what ``python -m monai.bundle run`` gives."""

import json
import re
import shutil
import sys
from pathlib import Path

import nrrd
import numpy as np
import pytest

from _helpers import foreign_bundles as foreign
from _helpers.bundle_images import BUNDLES, make_images
from _helpers.commands import assert_same_results, refused, rows_of, told
from _helpers.dicom import OBLIQUE, write_series
from monai_ifim.cli import main

pytestmark = [
    pytest.mark.filterwarnings("ignore:NvImgCodecPydicomReader:UserWarning"),
]
OVERLAYS = Path(__file__).parents[2] / "configs"
SIGNAL = next(bundle for bundle in BUNDLES if bundle.name == "ifim_signal_2d")
HIPPOCAMPUS = next(bundle for bundle in BUNDLES if bundle.name == "ifim_hippocampus_3d")
FOREIGN = [shape for shape in foreign.SHAPES if shape.name != "mask_channel"]


@pytest.fixture(scope="module")
def signals(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_images("ifim_signal_2d", tmp_path_factory.mktemp("signals") / "images")


@pytest.mark.parametrize("bundle", BUNDLES, ids=lambda path: path.name)
def test_our_bundles(bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    images = make_images(bundle.name, tmp_path / "images")
    theirs = foreign.command(
        *("monai.bundle", "run", "--workflow_type", "infer", "--config_file"),
        *(str(bundle / "configs" / "inference.json"), "--dataset_dir", str(images)),
        *("--output_dir", str(tmp_path / "theirs"), "--ifim_rank", "1", "--batch_size", "2"),
        cwd=tmp_path,
    )
    assert theirs.returncode == 0, theirs.stdout
    ours = tmp_path / "ours"
    text = told(
        capsys,
        *("run", "--bundle", bundle, "--input", images, "--output", ours),
        *("--rank", 1, "--batch-size", 2, "--device", "cpu"),
    )
    count = len(rows_of(ours))
    assert f"{count} images found, {count} done, 0 failed" in text
    assert "its own configuration has the handler" in text
    assert "likelihood: categorical" in text
    assert str(ours / "ifim.csv") in text
    assert "not a diagnosis" in text
    assert_same_results(ours, tmp_path / "theirs")


@pytest.mark.parametrize("shape", FOREIGN, ids=lambda shape: shape.name)
def test_foreign_bundles(shape, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    bundle, images = foreign.install(shape.name, tmp_path), tmp_path / "images"
    images.mkdir()
    shape.write_images(images)
    theirs = foreign.run_bundle(bundle, images, tmp_path / "theirs", overlay=OVERLAYS / "ifim.yaml")
    assert theirs.returncode == 0, theirs.stdout
    before = foreign.digests(bundle)
    text = told(
        capsys,
        *("run", "--bundle", bundle, "--input", images, "--output", tmp_path / "ours"),
        *("--device", "cpu"),
    )
    assert "with ifim.yaml: a classifier, because metadata.json says format: classes" in text
    assert f"likelihood: {shape.likelihood}" in text
    assert_same_results(tmp_path / "ours", tmp_path / "theirs")
    assert foreign.digests(bundle) == before
    assert "--config_file" not in sys.argv
    assert str(bundle) not in sys.path


def test_a_segmentation_gets_its_own_overlay(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    bundle, images = foreign.install("segment_3d", tmp_path), tmp_path / "images"
    images.mkdir()
    foreign.write_scan(images / "scan.nii.gz", 1)
    theirs = foreign.run_bundle(
        bundle, images, tmp_path / "theirs", overlay=OVERLAYS / "ifim_segmentation.yaml"
    )
    assert theirs.returncode == 0, theirs.stdout
    arguments = ["run", "--bundle", bundle, "--input", images, "--device", "cpu"]
    text = told(capsys, *arguments, "--output", tmp_path / "ours")
    assert "with ifim_segmentation.yaml: a segmentation, because" in text
    assert "likelihood: categorical at each voxel" in text
    assert_same_results(tmp_path / "ours", tmp_path / "theirs")
    line = refused(capsys, *arguments, "--output", tmp_path / "x", "--likelihood", "bernoulli")
    assert "leave out --likelihood" in line


def test_a_bundle_that_pairs_files_is_told_how_to_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    bundle, images = foreign.install("mask_channel", tmp_path), tmp_path / "images"
    images.mkdir()
    foreign.nuclei(images)
    line = refused(
        capsys, "run", "--bundle", bundle, "--input", images, "--output", tmp_path / "out"
    )
    assert "got image and label in its preprocessing" in line
    assert "python -m monai.bundle run --workflow_type infer --config_file" in line
    # What it says works.
    advised = foreign.run_bundle(bundle, images, tmp_path / "out", overlay=OVERLAYS / "ifim.yaml")
    assert advised.returncode == 0, advised.stdout
    assert len(rows_of(tmp_path / "out")) == 3


def test_dicom_series_and_files_that_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    write_series(tmp_path / "study" / "one", series="1.2.3")
    write_series(tmp_path / "study" / "two", series="1.2.4", step=2.0)
    make_images(HIPPOCAMPUS.name, tmp_path / "scans")
    scans = sorted((tmp_path / "scans" / "nifti").glob("*.nii.gz"))[:2]
    output = tmp_path / "out"
    text = told(
        capsys,
        *("run", "--bundle", HIPPOCAMPUS, "--output", output, "--volumes", "sensitivity"),
        *("--input", tmp_path / "study", *scans, scans[0]),
    )
    assert "4 images found, 4 done, 0 failed" in text
    assert [row["status"] for row in rows_of(output)] == ["ok"] * 4
    assert len(list(output.rglob("*_ifim_sensitivity.nii.gz"))) == 4
    assert not list(output.rglob("*_ifim_high.nii.gz"))


def test_dicom_and_nrrd_as_the_bundle_run_reads_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    write_series(tmp_path / "images" / "one", series="1.2.3", orientation=OBLIQUE)
    write_series(tmp_path / "images" / "two", series="1.2.4", step=2.0)
    values = np.random.default_rng(0).normal(size=(14, 12, 10)).astype(np.float32)
    header = {
        "space": "left-posterior-superior",
        "space directions": [[1, 0, 0], [0, 1.5, 0], [0, 0, 2]],
        "space origin": [3, 4, 5],
    }
    nrrd.write(str(tmp_path / "images" / "three.nrrd"), values, header)
    theirs = foreign.command(
        *("monai.bundle", "run", "--workflow_type", "infer", "--config_file"),
        *(str(HIPPOCAMPUS / "configs" / "inference.json"), "--dataset_dir"),
        *(str(tmp_path / "images"), "--output_dir", str(tmp_path / "theirs")),
        cwd=tmp_path,
    )
    assert theirs.returncode == 0, theirs.stdout
    arguments = ["--bundle", HIPPOCAMPUS, "--input", tmp_path / "images", "--device", "cpu"]
    text = told(capsys, "run", *arguments, "--output", tmp_path / "ours")
    assert "3 images found, 3 done, 0 failed" in text
    assert_same_results(tmp_path / "ours", tmp_path / "theirs")


def test_names_that_repeat_keep_their_folders(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    bundle = foreign.install("oblique_3d", tmp_path)
    for i, name in enumerate(("a", "b")):
        (tmp_path / name).mkdir()
        foreign.write_scan(tmp_path / name / "scan.nii.gz", i)
    output = tmp_path / "out"
    inputs = [tmp_path / "a", tmp_path / "b" / "scan.nii.gz"]
    told(capsys, "run", "--bundle", bundle, "--input", *inputs, "--output", output)
    found = {str(file.relative_to(output)) for file in output.rglob("*_high.nii.gz")}
    assert {Path(file).parts[0] for file in found} == {"a", "b"}


def test_a_broken_file_among_good_ones(
    signals: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    images = Path(shutil.copytree(signals, tmp_path / "images"))
    broken = sorted(images.glob("*.nii.gz"))[1]
    broken.write_bytes(broken.read_bytes()[:200])
    output = tmp_path / "out"
    text = told(
        capsys,
        *("run", "--bundle", SIGNAL, "--input", images, "--output", output),
        status=1,
    )
    assert "5 images found, 4 done, 1 failed" in text
    assert f"failed: {broken}: " in text
    assert sorted(row["status"][:7] for row in rows_of(output)) == ["failed:"] + ["ok"] * 4
    assert capsys.readouterr().err == ""
    # What was done before counts as done, and not for the speed.
    shutil.copy(signals / broken.name, broken)
    again = ("run", "--bundle", SIGNAL, "--input", images, "--output", output, "--resume")
    text = told(capsys, *again)
    assert re.search(r"5 images found, 5 done \(4 of them before\), 0 failed \(.* images/s\)", text)
    text = told(capsys, *again)
    assert re.search(r"5 done \(5 of them before\), 0 failed \([\d.]+ s\)", text)


def test_a_run_that_ends_early_says_why(
    signals: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    bundle = Path(shutil.copytree(SIGNAL, tmp_path / "bundle"))
    (bundle / "models" / "model.pt").unlink()
    output = tmp_path / "out"
    told(capsys, "run", "--bundle", SIGNAL, "--input", signals, "--output", output)
    # The table of the earlier run is kept, and not taken for that of this one.
    before = (output / "ifim.csv").read_bytes()
    arguments = ["run", "--bundle", bundle, "--input", signals, "--output", output]
    text = told(capsys, *arguments, status=1)
    assert "5 images found, 0 done, 0 failed, 5 not reached" in text
    assert "the run ended early: " in text
    assert "model.pt" in text
    assert text.count("model.pt") == 1
    assert "results: none" in text
    assert (output / "ifim.csv").read_bytes() == before


def test_ids_are_set(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """A network that returns a tuple, and a batch size under two names."""
    bundle, images = foreign.install("softmax_rgb", tmp_path), tmp_path / "images"
    images.mkdir()
    foreign.rgb_images(images)
    file = bundle / "configs" / "inference.json"
    config = json.loads(file.read_text())
    config["network"] = "$@pack(@network_def).to(@device)"
    config["pack"] = "$lambda n: n.register_forward_hook(lambda m, a, y: (y, 0)) and n"
    config["postprocessing"] = "$lambda data: data"
    config["handlers"] = config["handlers"][:1]
    file.write_text(json.dumps(config))
    arguments = ["run", "--bundle", bundle, "--input", images, "--output", tmp_path / "out"]
    transform = "ifim_output_transform=$lambda y: y[0]"
    text = told(capsys, *arguments, "--set", transform, "ifim_volumes=['sensitivity']")
    assert "3 done" in text
    names = {file.name for file in (tmp_path / "out").glob("*.nii.gz")}
    assert names == {f"frame{i}_ifim_sensitivity.nii.gz" for i in range(3)}
    line = refused(capsys, *arguments, "--set", "ifim_volume=high")
    assert "did you mean ifim_volumes?" in line


def test_a_bundle_that_cannot_be_set_up(
    signals: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    bundle = Path(shutil.copytree(SIGNAL, tmp_path / "bundle"))
    file = bundle / "configs" / "inference.json"
    config = json.loads(file.read_text())
    config["network_def"]["_target_"] = "NoSuchNetwork"
    file.write_text(json.dumps(config))
    line = refused(
        capsys, "run", "--bundle", bundle, "--input", signals, "--output", tmp_path / "out"
    )
    assert "expected a bundle that can be set up, got " in line
    assert "NoSuchNetwork" in line
    file.write_text("{")
    line = refused(
        capsys, "run", "--bundle", bundle, "--input", signals, "--output", tmp_path / "out"
    )
    assert "JSONDecodeError" in line


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--bundle", "nowhere", "--input", "IMAGES"], "got no such folder in 'nowhere'"),
        (["--bundle", "EMPTY", "--input", "IMAGES"], "configs/inference.json (or .yaml), got none"),
        (["--bundle", "BUNDLE", "--input", "nowhere"], "'nowhere', which does not exist"),
        (["--bundle", "BUNDLE", "--input", "EMPTY"], "expected images (.nii"),
        (["--bundle", "BUNDLE", "--input", "IMAGES", "--rank", "0"], "rank"),
        (["--bundle", "BUNDLE", "--input", "IMAGES", "--energy", "2"], "energy"),
        (["--bundle", "BUNDLE", "--input", "IMAGES", "--device", "gpu"], "such as cpu or cuda:0"),
        (["--bundle", "BUNDLE", "--input", "IMAGES", "--batch-size", "0"], "at least 1 image"),
        (["--bundle", "BUNDLE", "--input", "IMAGES", "--workers", "-1"], "0 or more workers"),
        (["--bundle", "BUNDLE", "--input", "IMAGES", "--volumes", "low"], "choose from"),
        (["--bundle", "BUNDLE"], "--input"),
    ],
)
def test_wrong_use_is_one_line(
    arguments: list[str],
    words: str,
    signals: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    places = {"IMAGES": signals, "BUNDLE": SIGNAL, "EMPTY": "empty"}
    line = refused(capsys, "run", "--output", "out", *[places.get(a, a) for a in arguments])
    assert words in line
    assert not (tmp_path / "out").exists()


def test_debug_shows_the_log(signals: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    arguments = ["run", "--bundle", SIGNAL, "--input", signals, "--output", tmp_path / "out"]
    assert main([str(argument) for argument in [*arguments, "--debug"]]) == 0
    assert "Engine run finished" in capsys.readouterr().err
