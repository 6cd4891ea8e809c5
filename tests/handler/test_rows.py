"""The table of one row an image."""

import logging

import pytest
import torch
from monai.data import DataLoader

import monai_ifim as mi
from _helpers.comparisons import assert_close
from _helpers.networks import smooth_network
from _helpers.recorders import evaluate
from _helpers.scans import dataset
from _helpers.tables import read_table
from monai_ifim.data import tables


@pytest.mark.parametrize("options", [{}, {"rank": 1}, {"energy": 0.6}])
def test_table(files, tmp_path, options):
    options = {**options, "vjp_chunk": None}  # the same passes for every batch size
    data = dataset(files)
    network = smooth_network(3)
    handler = mi.IFIMHandler(output_dir=tmp_path, filename="t.csv", **options)
    evaluate(network, DataLoader(data, batch_size=2), handler, inferer=mi.IFIMInferer())

    images = torch.stack([item["image"].as_tensor() for item in data])
    space = mi.eigenspace(network, images, **options)
    high, _ = space.split(images)
    share = high.double().flatten(1).square().sum(1) / images.double().flatten(1).square().sum(1)
    probabilities = torch.softmax(network(images).detach().double(), dim=1)

    rows = read_table(tmp_path, "t.csv")
    eigenvalues = [f"eigenvalue_{i + 1}" for i in range(space.eigenvalues.shape[1])]
    classes = [f"probability_{k}" for k in range(probabilities.shape[1])]
    assert list(rows[0]) == [
        *("file", "predicted_class", "probability", *classes, "trace"),
        *eigenvalues,
        *("rank", "trace_share", "high_energy_share", "flip_distance", "flip_class", "status"),
    ]
    assert [row["file"] for row in rows] == files
    for i, row in enumerate(rows):
        assert row["status"] == "ok"
        assert int(row["predicted_class"]) == probabilities[i].argmax()
        assert int(row["rank"]) == space.rank[i]
        numbers = {
            "probability": probabilities[i].max(),
            "trace": space.trace[i],
            "trace_share": space.eigenvalues[i].sum() / space.trace[i],
            "high_energy_share": share[i],
            **dict(zip(eigenvalues, space.eigenvalues[i], strict=True)),
            **dict(zip(classes, probabilities[i], strict=True)),
        }
        for name, value in numbers.items():
            assert float(row[name]) == pytest.approx(value.item(), rel=1e-5)
    if options.get("rank"):
        assert {row["rank"] for row in rows} == {"1"}
    if options.get("energy"):
        assert all(0.6 <= float(row["trace_share"]) < 1 for row in rows)


def test_a_second_run_replaces_the_table(files, tmp_path):
    network, handler = smooth_network(3), mi.IFIMHandler(output_dir=tmp_path)
    evaluator, _ = evaluate(network, DataLoader(dataset(files), batch_size=2), handler)
    first = read_table(tmp_path)
    evaluator.run()
    assert read_table(tmp_path) == first
    assert len(first) == 5


def test_only_the_chosen_volumes_are_formed(files):
    loader = DataLoader(dataset(files[:2]), batch_size=2)
    _, items = evaluate(smooth_network(3), loader, mi.IFIMHandler(volumes=("sensitivity",)))
    numbers = {"ifim_eigenvalues", "ifim_trace", "ifim_rank"}
    assert {key for key in items[0] if key.startswith("ifim")} == numbers | {"ifim_sensitivity"}
    for item in items:
        # The diagonal of F sums to its trace.
        assert_close(item["ifim_sensitivity"].sum(), item["ifim_trace"])


def test_impossible_options_are_refused(files):
    with pytest.raises(ValueError, match="expected volumes from"):
        mi.IFIMHandler(volumes=("low",))
    with pytest.raises(ValueError, match="expected likelihood in"):
        mi.IFIMHandler(likelihood="gaussian")
    loader = DataLoader(dataset(files[:2]), batch_size=2)
    with pytest.raises(ValueError, match="expected 1 <= rank <= 3"):
        evaluate(smooth_network(3), loader, mi.IFIMHandler(rank=4))
    with pytest.raises(ValueError, match="expected rank or energy"):
        evaluate(smooth_network(3), loader, mi.IFIMHandler(rank=1, energy=0.5))


def test_messages_reach_the_log_once(files, tmp_path, caplog):
    """Nothing is logged as an error when nothing is wrong."""
    with caplog.at_level(logging.WARNING, logger="monai_ifim"):
        loader = DataLoader(dataset(files), batch_size=2)
        evaluate(smooth_network(3), loader, mi.IFIMHandler(output_dir=tmp_path))
    assert [r for r in caplog.records if r.name.startswith("monai_ifim")] == []


def test_the_table_is_whole_or_not_there(files, tmp_path, monkeypatch):
    """A crash while writing leaves the older table."""
    loader, network = DataLoader(dataset(files[:2]), batch_size=2), smooth_network(3)
    evaluator, _ = evaluate(network, loader, mi.IFIMHandler(output_dir=tmp_path))
    before = read_table(tmp_path)
    torch.nn.init.ones_(network[-1].weight)  # the next table is another one

    def fail(*args):
        raise OSError("disk full")

    monkeypatch.setattr(tables, "_guarded", fail)  # a cell of the new table
    with pytest.raises(OSError, match="disk full"):
        evaluator.run()
    assert read_table(tmp_path) == before


@pytest.mark.parametrize("loader", [DataLoader, mi.FaultTolerantDataLoader])
def test_images_behind_one_that_ends_the_run_have_rows(files, tmp_path, loader):
    class Stops(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.network, self.left = smooth_network(3), 2

        def forward(self, images):
            self.left -= 1
            if self.left < 0:
                raise RuntimeError("expected another size")
            return self.network(images)

    data = dataset(files)
    if loader is mi.FaultTolerantDataLoader:
        data.data = [{"image": str(tmp_path / "damaged.nii.gz")}, *data.data]
        (tmp_path / "damaged.nii.gz").write_bytes(b"nothing")
    handler = mi.IFIMHandler(output_dir=tmp_path / "out", filename="t.csv")
    with pytest.raises(RuntimeError, match="another size"):
        evaluate(Stops(), loader(data, batch_size=1), handler, inferer=mi.IFIMInferer())
    rows = {row["file"]: row["status"] for row in read_table(tmp_path / "out", "t.csv")}
    assert "expected another size" in rows.pop("run")
    assert sorted(rows) == sorted(entry["image"] for entry in data.data)
    assert [rows[file] for file in files[:2]] == ["ok", "ok"]
    assert "the run ended here, RuntimeError: expected another size" in rows[files[2]]
    assert all("failed: not reached" in rows[file] for file in files[3:])
