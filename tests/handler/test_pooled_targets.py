"""Where a pooled eigenspace is written: nothing of others is replaced."""

import os
import shutil

import pytest
from monai.data import DataLoader

import monai_ifim as mi
from _helpers.networks import smooth_network
from _helpers.pooled import assert_same, plain
from _helpers.recorders import evaluate
from _helpers.runs import run as run_part
from _helpers.scans import dataset
from monai_ifim.handlers.pooling import target

FILE = "ifim_pooled.safetensors"


@pytest.fixture
def other(files, tmp_path):
    """A pooled eigenspace that somebody has kept."""
    path = tmp_path / "kept" / "ref.safetensors"
    path.parent.mkdir()
    plain(files[:3], seed=1).save(path)
    return path


def another_process(monkeypatch):
    monkeypatch.setattr(target, "_CLAIMED", {})


@pytest.mark.parametrize("place", ["kept/ref.safetensors", "out/ref.safetensors", "link"])
@pytest.mark.parametrize("read_as", ["reference", "space", "epoch"])
def test_a_file_that_is_read_is_not_written(tmp_path, other, place, read_as):
    path = tmp_path / place
    if place == "link":
        (tmp_path / "link").symlink_to(other.parent, target_is_directory=True)
        path = tmp_path / "link" / "ref.safetensors"
    path.parent.mkdir(exist_ok=True)
    read = path.with_name("ref_epoch_0002.safetensors") if read_as == "epoch" else path
    if not read.exists():
        shutil.copy(other, read)
    content, options = read.read_bytes(), {}
    if read_as == "space":
        options["space"] = str(read)
        choices = mi.IFIMPooling(path)
    else:
        choices = mi.IFIMPooling(path, reference=read)
    with pytest.raises(ValueError, match=r"which is read, got .*ref\.safetensors"):
        mi.IFIMHandler(output_dir=tmp_path / "out", pooled=choices, **options)
    assert read.read_bytes() == content


@pytest.mark.parametrize("folder", [True, False])
@pytest.mark.parametrize("name", ["ref.safetensors", "ref_epoch_0001.safetensors", "ref.nii.gz"])
def test_a_file_of_others_is_not_replaced(tmp_path, other, name, folder):
    os.rename(other, other.with_name(name))
    out = {"output_dir": tmp_path / "out"} if folder else {}
    with pytest.raises(ValueError, match=f"of others for the pooled eigenspace, got .*{name}"):
        mi.IFIMHandler(pooled=other, **out)
    assert [path.name for path in other.parent.iterdir()] == [name]
    assert not (tmp_path / "out" / "run.json").exists()


def test_a_file_that_comes_before_a_run_begins(files, tmp_path, other):
    path = other.with_name("mine.safetensors")
    handler = mi.IFIMHandler(output_dir=tmp_path / "out", pooled=path)
    shutil.copy(other, path)
    with pytest.raises(ValueError, match="which this run has not written"):
        evaluate(smooth_network(3), DataLoader(dataset(files)), handler)
    assert path.read_bytes() == other.read_bytes()


def test_a_run_goes_on_with_its_own_file_elsewhere(files, tmp_path, monkeypatch, other):
    out, path = tmp_path / "out", tmp_path / "elsewhere" / FILE
    run_part(files[:3], out, pooled=path)
    another_process(monkeypatch)
    assert len(run_part(files, out, pooled=path, resume=True)) == 2
    assert_same(mi.PooledEigenspace.load(path), plain(files))
    another_process(monkeypatch)
    shutil.copy(other, path)
    with pytest.raises(ValueError, match="which this run has not written"):
        run_part(files, out, pooled=path, resume=True)
    assert path.read_bytes() == other.read_bytes()


def test_the_same_run_again_replaces_its_own(files, tmp_path, caplog, monkeypatch):
    out, path = tmp_path / "out", tmp_path / "elsewhere" / FILE
    for _ in range(2):
        run_part(files, out, pooled=path)
    assert "of an earlier run of this process is replaced" in caplog.text
    assert_same(mi.PooledEigenspace.load(path), plain(files))
    with pytest.raises(ValueError, match="which this run has not written"):
        run_part(files, tmp_path / "another", pooled=path)
    another_process(monkeypatch)
    with pytest.raises(ValueError, match="which this run has not written"):
        run_part(files, out, pooled=path, existing="move")


def test_several_handlers_on_one_engine(files, tmp_path, caplog):
    loader, network = DataLoader(dataset(files), batch_size=5), smooth_network(3)
    equal = mi.IFIMHandler(
        output_dir=tmp_path / "equal", pooled=mi.IFIMPooling(FILE, weights="equal")
    )
    unit = mi.IFIMHandler(output_dir=tmp_path / "unit", pooled=FILE)
    evaluate(network, loader, equal)
    evaluate(network, loader, unit)
    assert "several handlers" not in caplog.text
    both = [
        mi.IFIMHandler(pooled=mi.IFIMPooling(None, weights=weights))
        for weights in ("equal", "unit_trace")
    ]
    evaluator, _ = evaluate(network, loader, both[0], more_handlers=both[1:])
    assert caplog.text.count("several handlers pool on one engine") == 1
    assert evaluator.state.ifim_pooled.weights == "unit_trace"
    evaluator.run()
    assert caplog.text.count("several handlers pool on one engine") == 2
