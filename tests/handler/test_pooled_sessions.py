"""A pooled eigenspace over sessions, shards and runs: every image once, never silently fewer."""

import gc
import os

import pytest
import torch
from ignite.engine import Events
from monai.data import DataLoader
from monai.engines import SupervisedEvaluator

import monai_ifim as mi
from _helpers.networks import smooth_network
from _helpers.pooled import assert_same, plain
from _helpers.recorders import evaluate
from _helpers.runs import record
from _helpers.runs import run as run_part
from _helpers.scans import dataset, unreadable, write_scan
from monai_ifim.core.pooling.sketch import Sketch
from monai_ifim.data.run_folder.merge import merge_runs
from monai_ifim.handlers.pooling import epochs as pooled_epochs

FILE = "ifim_pooled.safetensors"


@pytest.mark.parametrize("stop_after", [1, 3])
def test_a_resumed_run_pools_all_images(files, tmp_path, stop_after):
    out = tmp_path / "out"
    run_part(files, out, stop_after=stop_after, pooled=FILE)
    assert not (out / FILE).exists()
    assert len(run_part(files, out, pooled=FILE, resume=True)) == 5 - stop_after
    stored = mi.PooledEigenspace.load(out / FILE)
    assert_same(stored, plain(files))
    assert stored.about["images"] == "5"


def test_a_complete_run_with_further_images(files, tmp_path):
    out = tmp_path / "out"
    run_part(files[:3], out, pooled=FILE)
    assert len(run_part(files, out, pooled=FILE, resume=True)) == 2
    assert_same(mi.PooledEigenspace.load(out / FILE), plain(files))
    assert run_part(files, out, pooled=FILE, resume=True) == []  # nothing is left
    assert_same(mi.PooledEigenspace.load(out / FILE), plain(files))


def test_an_image_that_is_done_again_counts_once(files, tmp_path):
    out = tmp_path / "out"
    run_part(files, out, pooled=FILE)
    (out / "scan2_ifim_high.nii.gz").unlink()
    assert len(run_part(files, out, pooled=FILE, resume=True)) == 1
    assert_same(mi.PooledEigenspace.load(out / FILE), plain(files))


def test_what_was_done_without_pooling_is_said(files, tmp_path, caplog):
    out = tmp_path / "out"
    run_part(files, out, stop_after=2)
    run_part(files, out, pooled=FILE, resume=True)
    stored = mi.PooledEigenspace.load(out / FILE)
    assert_same(stored, plain(files[2:]))
    assert (stored.count, stored.about["images"]) == (3, "5")
    assert "that of 3 of 5 images" in caplog.text


def test_a_run_that_is_begun_anew_forgets_the_other(files, tmp_path):
    out = tmp_path / "out"
    run_part(files, out, stop_after=2, pooled=FILE)
    run_part(files, out, pooled=FILE, existing="move")
    assert_same(mi.PooledEigenspace.load(out / FILE), plain(files))
    (earlier,) = out.glob("earlier-*")
    assert len(list((earlier / ".ifim").glob("pooled-*.safetensors"))) == 1
    run_part(files, out, seed=1, pooled=FILE, existing="move")
    assert len(list(out.glob(f"earlier-*/{FILE}"))) == 1
    assert_same(mi.PooledEigenspace.load(out / FILE), plain(files, seed=1))


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_shards(same_grid, tmp_path, order):
    out = tmp_path / "out"
    for shard in order:
        assert not (out / FILE).exists()
        run_part(same_grid, out, shard=f"{shard}/2", pooled=FILE)
    stored = mi.PooledEigenspace.load(out / FILE)
    assert_same(stored, plain(same_grid))
    assert stored.about["images"] == "5"
    assert (out / "ifim_pooled.nii.gz").is_file()
    assert {FILE, "ifim_pooled.nii.gz"} <= set(record(out)["tables"])


def test_a_shard_that_is_resumed(files, tmp_path):
    out = tmp_path / "out"
    run_part(files, out, shard="0/2", stop_after=1, pooled=FILE)
    run_part(files, out, shard="1/2", pooled=FILE)
    run_part(files, out, shard="0/2", resume=True, pooled=FILE)
    assert_same(mi.PooledEigenspace.load(out / FILE), plain(files))


def test_a_process_that_is_killed_leaves_what_it_has_written(files, tmp_path, monkeypatch, caplog):
    out = tmp_path / "out"
    monkeypatch.setattr(pooled_epochs, "PERIOD", 0.0)
    left = pooled_epochs.PooledEpochs._leave_part

    def once(self, own=None):  # the process ends before the second time
        if not list((out / ".ifim").glob("pooled-*")):
            left(self, own)

    monkeypatch.setattr(pooled_epochs.PooledEpochs, "_leave_part", once)
    run_part(files, out, stop_after=3, pooled=FILE)
    monkeypatch.undo()
    run_part(files, out, pooled=FILE, resume=True)
    stored = mi.PooledEigenspace.load(out / FILE)
    assert_same(stored, plain([files[i] for i in (0, 3, 4)]))
    assert "that of 3 of 5 images" in caplog.text


def test_a_part_that_cannot_be_read_ends_pooling_alone(files, tmp_path, caplog):
    out = tmp_path / "out"
    run_part(files, out, stop_after=3, pooled=FILE)
    (part,) = (out / ".ifim").glob("pooled-*")
    part.write_bytes(part.read_bytes()[:40])
    run_part(files, out, pooled=FILE, resume=True)
    assert "what earlier sessions have pooled cannot be read" in caplog.text
    assert not (out / FILE).exists()
    assert record(out)["state"] == "complete"


def test_runs_of_several_folders_are_merged(files, tmp_path):
    for name, own in (("one", files[:2]), ("two", files[2:])):
        run_part(own, tmp_path / name, pooled=FILE)
    (tmp_path / "both").mkdir()
    merge_runs([tmp_path / "one", tmp_path / "two"], tmp_path / "both" / "ifim.csv")
    stored = mi.PooledEigenspace.load(tmp_path / "both" / FILE)
    assert_same(stored, plain(files))
    assert stored.about["images"] == "5"


def test_a_list_that_is_merged_anew(files, tmp_path):
    out = tmp_path / "out"
    for shard in ("0/2", "1/2"):
        run_part(files, out, shard=shard, pooled=FILE)
    (out / FILE).unlink()
    merge_runs([out], out / "ifim.csv")
    assert_same(mi.PooledEigenspace.load(out / FILE), plain(files))
    assert FILE in record(out)["tables"]


def test_shards_with_failed_images_and_other_shapes(scans_of_two_shapes, tmp_path, caplog):
    out = tmp_path / "out"
    for shard in ("0/3", "1/3", "2/3"):
        run_part(scans_of_two_shapes, out, shard=shard, pooled=FILE)
    assert "no pooled eigenspace" in caplog.text
    assert "expected images of one shape" in caplog.text
    assert not (out / FILE).exists()
    assert record(out)["state"] == "complete"


def test_a_shard_without_results(files, tmp_path):
    out = tmp_path / "out"
    for i in (1, 3):
        unreadable(files[i])
    for shard in ("0/2", "1/2"):
        run_part(files, out, shard=shard, pooled=FILE)
    stored = mi.PooledEigenspace.load(out / FILE)
    assert_same(stored, plain([files[i] for i in (0, 2, 4)]))
    assert stored.about["images"] == "5"


def test_a_segmentation(files, tmp_path):
    """All pairs that were computed: of a dense prediction the leading ones."""
    torch.manual_seed(0)
    network = torch.nn.Sequential(
        torch.nn.Conv3d(1, 4, 3, padding=1), torch.nn.Tanh(), torch.nn.Conv3d(4, 2, 3, padding=1)
    ).eval()
    options = {"likelihood": mi.VoxelwiseCategorical(), "rank": 2, "tolerance": 1e-6}
    choices = mi.IFIMPooling(FILE, rank=2)
    handler = mi.IFIMHandler(output_dir=tmp_path / "out", volumes=(), pooled=choices, **options)
    evaluate(network, DataLoader(dataset(files), batch_size=1), handler)
    stored = mi.PooledEigenspace.load(tmp_path / "out" / FILE)
    images = torch.stack([item["image"].as_tensor() for item in dataset(files)])
    expected = mi.pooled_eigenspace(network, images.split(1), **options)
    assert stored.count == 5
    torch.testing.assert_close(stored.eigenvalues, expected.eigenvalues, rtol=1e-2, atol=1e-4)
    assert stored.eigenvalue_error > 0  # what the method has left out


def test_offloaded_gradients(files, tmp_path):
    handler = mi.IFIMHandler(output_dir=tmp_path / "out", pooled=FILE, offload=True)
    evaluate(smooth_network(3), DataLoader(dataset(files), batch_size=2), handler)
    assert_same(mi.PooledEigenspace.load(tmp_path / "out" / FILE), plain(files))


def test_what_is_replaced_does_not_pass_for_the_new_one(same_grid, scans_of_two_shapes, tmp_path):
    out = tmp_path / "out"
    run_part(same_grid, out, pooled=FILE)
    assert (out / "ifim_pooled.nii.gz").is_file()
    run_part(scans_of_two_shapes, out, pooled=FILE)  # the same network in the same process
    assert not (out / FILE).exists()
    assert not (out / "ifim_pooled.nii.gz").exists()


@pytest.mark.filterwarnings("ignore:the network holds half-precision:UserWarning")
def test_half_precision(files, tmp_path):
    """What is computed in 16 bits is stored in 32."""
    batches = [{"image": item["image"].as_tensor()[None].bfloat16()} for item in dataset(files)]
    network = smooth_network(3).bfloat16()
    handler = mi.IFIMHandler(output_dir=tmp_path / "out", volumes=(), pooled=FILE)
    evaluate(network, batches, handler)
    stored = mi.PooledEigenspace.load(tmp_path / "out" / FILE)
    assert stored.count == 5
    assert stored.eigenvectors.dtype == torch.float32


def replaced(file, seed=17):
    write_scan(file, (13, 11, 9), seed)
    os.utime(file, ns=(1, 1))  # an older file than the one that was there


@pytest.mark.parametrize("shard", [None, "0/1"])
@pytest.mark.parametrize("then", [replaced, unreadable])
def test_an_image_that_was_replaced_meanwhile(same_grid, tmp_path, caplog, shard, then):
    """A sum from which nothing can be taken is left out, and what is done now is pooled."""
    files, out = same_grid, tmp_path / "out"
    run_part(files, out, shard, stop_after=1, pooled=FILE)
    run_part(files, out, shard, stop_after=2, resume=True, pooled=FILE)
    then(files[0])
    assert len(run_part(files, out, shard, pooled=FILE, resume=True)) >= 2
    stored = mi.PooledEigenspace.load(out / FILE)
    kept = files if then is replaced else files[1:]
    assert_same(stored, plain(kept))
    assert stored.about["images"] == "5"
    assert f"left out with its 1 images: {files[0]} has changed since" in caplog.text
    assert not any(str(file) in str(stored.about) for file in files)


def test_what_was_pooled_with_a_replaced_image_is_not_counted(same_grid, tmp_path, caplog):
    out = tmp_path / "out"
    run_part(same_grid, out, stop_after=2, pooled=FILE)
    replaced(same_grid[1])
    run_part(same_grid, out, pooled=FILE, resume=True)
    assert_same(mi.PooledEigenspace.load(out / FILE), plain(same_grid[1:]))
    assert "that of 4 of 5 images" in caplog.text
    for _ in range(2):  # the part that is left out stays so
        run_part(same_grid, out, pooled=FILE, resume=True)
        assert_same(mi.PooledEigenspace.load(out / FILE), plain(same_grid[1:]))
    (out / FILE).unlink()
    merge_runs([out], out / "ifim.csv")
    assert_same(mi.PooledEigenspace.load(out / FILE), plain(same_grid[1:]))


@pytest.mark.parametrize("other", [{"weights": "equal"}, {"rank": 4, "sketch": 40}, {"sketch": 60}])
def test_other_choices_are_refused_before_the_work(files, tmp_path, other):
    out = tmp_path / "out"
    run_part(files, out, stop_after=2, pooled=FILE)
    with pytest.raises(ValueError, match=r"weights='unit_trace', rank=10, sketch=40.*, got "):
        run_part(files, out, pooled=mi.IFIMPooling(FILE, **other), resume=True)
    assert len(run_part(files, out, pooled=FILE, resume=True)) == 3
    assert_same(mi.PooledEigenspace.load(out / FILE), plain(files))


def test_other_choices_of_a_shard_are_refused_before_the_work(files, tmp_path):
    out = tmp_path / "out"
    run_part(files, out, "0/2", pooled=FILE)
    with pytest.raises(ValueError, match="expected pooling with weights='unit_trace'"):
        run_part(files, out, "1/2", pooled=mi.IFIMPooling(FILE, weights="equal"))
    assert len(run_part(files, out, "1/2", pooled=FILE, resume=True)) == 2
    assert_same(mi.PooledEigenspace.load(out / FILE), plain(files))


@pytest.mark.parametrize("size", [1, 2, 3])
def test_the_count_of_a_run_with_a_broken_image(files, tmp_path, caplog, size):
    """Images that are done again with others of their batch are no further ones."""
    out = tmp_path / "out"
    unreadable(files[1])
    run_part(files, out, stop_after=1, size=size, pooled=FILE)
    run_part(files, out, resume=True, size=size, pooled=FILE)
    stored = mi.PooledEigenspace.load(out / FILE)
    assert_same(stored, plain([files[i] for i in (0, 2, 3, 4)]))
    assert stored.about["images"] == "5"
    assert "that of 4 of 5 images" in caplog.text


def test_nothing_is_held_on_the_device_after_an_epoch(files, tmp_path):
    def held():
        gc.collect()
        return sum(type(each) is Sketch and each.rows is not None for each in gc.get_objects())

    before, counts = held(), []
    handler = mi.IFIMHandler(output_dir=tmp_path / "out", pooled=FILE)
    evaluator = SupervisedEvaluator(
        torch.device("cpu"), DataLoader(dataset(files)), smooth_network(3), val_handlers=[handler]
    )
    evaluator.add_event_handler(Events.EPOCH_COMPLETED, lambda _: counts.append(held()))
    evaluator.run()
    assert counts == [before]
    evaluator.add_event_handler(Events.ITERATION_COMPLETED(once=3), lambda _: evaluator.terminate())
    evaluator.run()
    assert len(counts) == 1  # the second one was cut short
    assert held() == before
