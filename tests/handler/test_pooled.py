"""The pooled eigenspace of a handler's epochs: files, metrics, what is left out."""

import logging

import nibabel as nib
import numpy as np
import pytest
import torch
from ignite.engine import Events
from monai.data import DataLoader
from monai.engines import SupervisedEvaluator

import monai_ifim as mi
from _helpers.comparisons import assert_close
from _helpers.networks import smooth_network
from _helpers.pooled import assert_same, images_of, plain
from _helpers.recorders import INFERERS, evaluate
from _helpers.runs import record
from _helpers.scans import dataset, oblique, unreadable, write_scans

FILE = "ifim_pooled.safetensors"


@INFERERS
@pytest.mark.parametrize("size", [1, 2, 5])
def test_the_handler_pools_what_the_plain_call_pools(files, tmp_path, size, inferer):
    handler = mi.IFIMHandler(output_dir=tmp_path / "out", pooled=FILE, rank=1)
    loader = DataLoader(dataset(files), batch_size=size)
    network = smooth_network(3)
    evaluator, _ = evaluate(network, loader, handler, inferer=inferer)
    stored = mi.PooledEigenspace.load(tmp_path / "out" / FILE)
    expected = plain(files)
    assert_same(stored, expected)
    assert_same(evaluator.state.ifim_pooled, expected)
    assert_close(stored.mean_jacobian, expected.mean_jacobian)
    assert stored.about["images"] == "5"
    assert stored.about["network"] == expected.about["network"]
    assert stored.about["network"].startswith(f"{type(network).__name__} ")
    assert evaluator.state.metrics["ifim_pooled_images"] == 5
    assert evaluator.state.metrics["ifim_pooled_stable_rank"] == expected.stable_rank
    assert set(record(tmp_path / "out")["tables"]) == {"ifim.csv", FILE}
    assert not any(name in str(stored.about) for name in files)


def test_two_axes(tmp_path):
    files = write_scans(tmp_path / "slices", 2, count=4)
    handler = mi.IFIMHandler(output_dir=tmp_path / "out", pooled=FILE)
    network = smooth_network(2)
    evaluate(network, DataLoader(dataset(files), batch_size=2), handler)
    expected = mi.pooled_eigenspace(network, images_of(files))
    assert_same(mi.PooledEigenspace.load(tmp_path / "out" / FILE), expected)


def test_without_a_folder_the_result_is_in_the_engine(files):
    handler = mi.IFIMHandler(pooled=mi.IFIMPooling(None, rank=2, weights="equal"))
    evaluator, _ = evaluate(smooth_network(3), DataLoader(dataset(files), batch_size=2), handler)
    found = evaluator.state.ifim_pooled
    assert_same(found, plain(files, rank=2, weights="equal"))
    assert (found.weights, len(found.eigenvalues)) == ("equal", 2)


def test_failed_images_are_left_out_and_counted(files, tmp_path, caplog):
    unreadable(files[1])
    bad = images_of(files[2:3])

    class Refusing(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.body = smooth_network(3)

        def forward(self, x):
            if any(torch.allclose(image, bad[0]) for image in x):
                raise ValueError("not this one")
            return self.body(x)

    handler = mi.IFIMHandler(output_dir=tmp_path / "out", pooled=FILE)
    loader = mi.FaultTolerantDataLoader(dataset(files), batch_size=2)
    with caplog.at_level(logging.INFO):
        evaluator, _ = evaluate(Refusing(), loader, handler, inferer=mi.IFIMInferer(on_error="row"))
    stored = mi.PooledEigenspace.load(tmp_path / "out" / FILE)
    assert_same(stored, plain([files[i] for i in (0, 3, 4)]))
    assert (stored.count, stored.about["images"]) == (3, "5")
    assert evaluator.state.metrics["ifim_pooled_images"] == 3
    assert "that of 3 of 5 images" in caplog.text


def test_eigenvectors_on_a_shared_grid(same_grid, tmp_path):
    handler = mi.IFIMHandler(output_dir=tmp_path / "out", pooled=FILE)
    evaluate(smooth_network(3), DataLoader(dataset(same_grid), batch_size=2), handler)
    stored = mi.PooledEigenspace.load(tmp_path / "out" / FILE)
    image = nib.load(tmp_path / "out" / "ifim_pooled.nii.gz")
    np.testing.assert_allclose(image.affine, oblique(), atol=1e-3)
    np.testing.assert_allclose(
        np.moveaxis(image.get_fdata(), -1, 0), stored.eigenvectors[:, 0].numpy(), atol=1e-6
    )
    assert b"research use only" in image.header["descrip"].item()
    assert "ifim_pooled.nii.gz" in record(tmp_path / "out")["tables"]


def test_grids_of_their_own_are_a_line_in_the_log(files, tmp_path, caplog):
    handler = mi.IFIMHandler(output_dir=tmp_path / "out", pooled=FILE)
    with caplog.at_level(logging.INFO):
        evaluate(smooth_network(3), DataLoader(dataset(files), batch_size=2), handler)
    assert "as NIfTI: the preprocessed images share no grid" in caplog.text
    assert not (tmp_path / "out" / "ifim_pooled.nii.gz").exists()


@pytest.mark.parametrize("fail_at_end", [False, True])
def test_images_of_several_shapes(scans_of_two_shapes, tmp_path, caplog, fail_at_end):
    handler = mi.IFIMHandler(output_dir=tmp_path / "out", pooled=FILE, fail_at_end=fail_at_end)
    evaluator = SupervisedEvaluator(
        torch.device("cpu"),
        DataLoader(dataset(scans_of_two_shapes), batch_size=1),
        smooth_network(3),
        val_handlers=[handler],
    )
    told = r"no pooled eigenspace of this epoch: ValueError: expected images of one shape"
    if fail_at_end:  # a command ends with another status than 0: what was asked for is not there
        with pytest.raises(RuntimeError, match=told):
            evaluator.run()
    else:
        evaluator.run()
    assert [line for line in caplog.text.splitlines() if "(the run goes on)" in line]
    assert caplog.text.count("(the run goes on)") == 1
    assert not (tmp_path / "out" / FILE).exists()
    assert "ifim_pooled_images" not in evaluator.state.metrics
    assert record(tmp_path / "out")["images"]["done"] == 3


def test_one_image_is_not_enough(files, tmp_path, caplog):
    handler = mi.IFIMHandler(output_dir=tmp_path / "out", pooled=FILE)
    evaluate(smooth_network(3), DataLoader(dataset(files[:1])), handler)
    assert "expected at least two images with a direction" in caplog.text
    assert not (tmp_path / "out" / FILE).exists()


class Looking:
    """A handler of the host's own that reads the metrics when an epoch is completed."""

    def __init__(self):
        self.seen = []

    def attach(self, engine):
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._look)

    def _look(self, engine):
        self.seen.append(dict(engine.state.metrics))


def test_epochs_have_files_and_angles_whatever_the_order_of_the_handlers(files, tmp_path):
    reference = plain(files, seed=5)
    reference.save(tmp_path / "reference.safetensors")
    choices = mi.IFIMPooling(
        FILE, rank=3, reference=tmp_path / "reference.safetensors", angle_rank=2, blur=None
    )
    handler = mi.IFIMHandler(output_dir=tmp_path / "out", pooled=choices)
    before, after = Looking(), Looking()
    network = smooth_network(3)
    evaluator = SupervisedEvaluator(
        torch.device("cpu"),
        DataLoader(dataset(files), batch_size=2),
        network,
        val_handlers=[before, handler, after],
    )
    pooled = []
    for epoch in (1, 2, 3):
        evaluator.run(epoch)
        pooled.append(plain(files, rank=3) if epoch < 3 else None)
        if epoch == 1:
            with torch.no_grad():
                for parameter in network.parameters():
                    parameter.mul_(1 + 0.1 * torch.rand_like(parameter))
    assert before.seen == after.seen
    assert len(before.seen) == 3
    first, second, third = before.seen
    assert not any("before" in name for name in first)
    names = sorted(path.name for path in (tmp_path / "out").glob("*.safetensors"))
    assert names == [FILE] + [f"ifim_pooled_epoch_000{i}.safetensors" for i in (1, 2, 3)]
    stored = [mi.PooledEigenspace.load(tmp_path / "out" / name) for name in names]
    assert [one.about["epoch"] for one in stored] == ["3", "1", "2", "3"]
    _, one, two, three = stored
    for seen, mine, last in ((second, two, one), (third, three, two)):
        angles = mine.angles(last, rank=2).rad2deg()
        assert seen["ifim_pooled_angle_before"] == pytest.approx(float(angles.max()), abs=1e-4)
        assert seen["ifim_pooled_angle_before_mean"] == pytest.approx(
            float(angles.mean()), abs=1e-4
        )
    assert second["ifim_pooled_angle_before"] > 0.1 > third["ifim_pooled_angle_before"]
    angle = float(one.angles(reference, rank=2).rad2deg().max())
    assert first["ifim_pooled_angle_reference"] == pytest.approx(angle, abs=1e-4)


def test_the_last_epoch_alone(files, tmp_path):
    choices = mi.IFIMPooling(FILE, every_epoch=False)
    handler = mi.IFIMHandler(output_dir=tmp_path / "out", pooled=choices)
    loader = DataLoader(dataset(files), batch_size=2)
    evaluator, _ = evaluate(smooth_network(3), loader, handler)
    evaluator.run(2)
    assert [path.name for path in (tmp_path / "out").glob("*.safetensors")] == [FILE]
    assert mi.PooledEigenspace.load(tmp_path / "out" / FILE).about["epoch"] == "2"


def test_another_reference_shape_is_a_warning(files, tmp_path, caplog):
    other = mi.pooled_eigenspace(smooth_network(2), torch.randn(4, 1, 13, 11))
    handler = mi.IFIMHandler(pooled=mi.IFIMPooling(None, reference=other))
    evaluator, _ = evaluate(smooth_network(3), DataLoader(dataset(files), batch_size=2), handler)
    assert caplog.text.count("no angle to the reference") == 1
    assert "ifim_pooled_angle_reference" not in evaluator.state.metrics


@pytest.mark.parametrize("terminate", ["terminate", "terminate_epoch"])
def test_an_engine_that_is_terminated(files, tmp_path, terminate, caplog):
    handler = mi.IFIMHandler(output_dir=tmp_path / "out", pooled=FILE)
    loader = DataLoader(dataset(files))
    evaluator = SupervisedEvaluator(
        torch.device("cpu"), loader, smooth_network(3), val_handlers=[handler]
    )
    stop = getattr(evaluator, terminate)
    evaluator.add_event_handler(Events.ITERATION_COMPLETED(once=3), lambda _: stop())
    evaluator.run()
    if terminate == "terminate":  # the epoch is not completed: it can be gone on with
        assert not (tmp_path / "out" / FILE).exists()
        assert len(list((tmp_path / "out" / ".ifim").glob("pooled-*"))) == 1
    else:
        stored = mi.PooledEigenspace.load(tmp_path / "out" / FILE)
        assert (stored.count, stored.about["images"]) == (3, "5")


def test_an_error_of_pooling_is_not_the_runs(files, tmp_path, monkeypatch, caplog):
    from monai_ifim.core.pooling.pool import Pool

    def refuse(*_):
        raise torch.OutOfMemoryError("no memory for it")

    monkeypatch.setattr(Pool, "add", refuse)
    handler = mi.IFIMHandler(output_dir=tmp_path / "out", pooled=FILE)
    evaluate(smooth_network(3), DataLoader(dataset(files)), handler)
    assert caplog.text.count("no memory for it (the run goes on)") == 1
    assert record(tmp_path / "out")["images"]["done"] == 5


def test_components_in_the_eigenspace_of_another_network(files, tmp_path, caplog):
    plain(files).save(tmp_path / FILE)
    loader = DataLoader(dataset(files), batch_size=2)
    evaluate(smooth_network(3), loader, mi.IFIMHandler(space=tmp_path / FILE))
    assert "another network" not in caplog.text
    evaluate(smooth_network(3, seed=1), loader, mi.IFIMHandler(space=tmp_path / FILE))
    assert caplog.text.count("is that of another network") == 1


@pytest.mark.parametrize(
    ("pooled", "error", "told"),
    [
        (3, TypeError, "name of a file or as IFIMPooling, got int"),
        ("pooled.pt", ValueError, "ends in .safetensors, got 'pooled.pt'"),
    ],
)
def test_no_such_file(pooled, error, told):
    with pytest.raises(error, match=told):
        mi.IFIMHandler(pooled=pooled)


@pytest.mark.parametrize(
    ("choices", "told"),
    [
        ({"rank": 0}, "rank >= 1"),
        ({"weights": "heavy"}, "weights in"),
        ({"sketch": 3}, "sketch >= rank=10"),
        ({"angle_rank": 11}, "angle_rank from 1 to rank=10"),
        ({"blur": -1.0}, "blur in voxels"),
    ],
)
def test_impossible_choices(choices, told):
    with pytest.raises(ValueError, match=told):
        mi.IFIMPooling(**choices)
