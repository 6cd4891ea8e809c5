"""ifim_validate.yaml on a training of another project."""

import csv
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

import monai_ifim as mi
from _helpers.foreign_bundles import digests, install, parse, run_bundle, write_picture

pytestmark = [
    # MONAI 1.6.1 says so whenever LoadImage registers its readers without nvImageCodec.
    pytest.mark.filterwarnings("ignore:NvImgCodecPydicomReader:UserWarning"),
]

STATISTICS = ["ifim_trace", "ifim_largest_eigenvalue", "ifim_effective_rank"]
TABLES = {"ifim.csv", "ifim_epoch_0001.csv", "ifim_epoch_0002.csv"}


@dataclass(frozen=True)
class Training:
    """Two epochs, without or with the overlay."""

    bundle: Path
    images: Path
    output: Path
    status: int
    log: str

    def weights(self, name: str) -> dict[str, torch.Tensor]:
        return torch.load(self.bundle / "models" / name, weights_only=True)

    def events(self) -> dict[str, list[float]]:
        """Scalars of the TensorBoard event files, by tag."""
        events = self.board()
        tags = events.Tags()["scalars"]
        return {tag: [scalar.value for scalar in events.Scalars(tag)] for tag in tags}

    def board(self) -> Any:
        """What TensorBoard shows."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of protobuf, on import
            from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
        return EventAccumulator(str(self.output), size_guidance={"histograms": 0}).Reload()


@pytest.fixture(scope="module")
def trainings(overlay: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Training, Training]:
    images = tmp_path_factory.mktemp("training") / "images"
    images.mkdir()
    for i in range(16):
        write_picture(images / f"slice{i:02d}.png", 3 * i, (33, 37))
    found = []
    for more in (None, overlay.with_name("ifim_validate.yaml")):
        folder = tmp_path_factory.mktemp("trained")
        bundle, output = install("trained_2d", folder), folder / "output"
        (bundle / "models" / "model.pt").unlink()
        before = digests(bundle / "configs")
        run = run_bundle(bundle, images, output, overlay=more, kind="train")
        assert digests(bundle / "configs") == before
        found.append(Training(bundle, images, output, run.returncode, run.stdout))
    return found[0], found[1]


def rows_of(file: Path) -> list[list[str]]:
    with file.open(newline="") as stream:
        return list(csv.reader(stream))


def expected(training: Training) -> dict[str, torch.Tensor]:
    """The statistics of the last validation, from the final weights and the plain call."""
    parser = parse(training.bundle, dataset_dir=str(training.images))
    network = parser.get_parsed_content("network_def")
    network.load_state_dict(training.weights("model_final.pt"))
    dataset = parser.get_parsed_content("validate::dataset")
    spaces = [mi.eigenspace(network, item["image"].as_tensor()[None]) for item in dataset]
    eigenvalues = torch.cat([space.eigenvalues for space in spaces])
    share = eigenvalues / eigenvalues.sum(1, keepdim=True)
    return {
        "ifim_trace": torch.cat([space.trace for space in spaces]),
        "ifim_largest_eigenvalue": eigenvalues[:, 0],
        "ifim_effective_rank": (-share * share.log()).sum(1).exp(),
    }


def test_both_end_well(trainings: tuple[Training, Training]):
    for training in trainings:
        assert training.status == 0, training.log


def test_the_training_is_bit_for_bit_the_same(trainings: tuple[Training, Training]):
    plain, overlaid = trainings
    for name in ("model_final.pt", "model.pt"):
        one, other = plain.weights(name), overlaid.weights(name)
        assert list(one) == list(other)
        assert all(torch.equal(one[key], other[key]) for key in one)
    assert sorted(p.name for p in (plain.bundle / "models").iterdir()) == sorted(
        p.name for p in (overlaid.bundle / "models").iterdir()
    )


def test_the_network_did_learn_something(trainings: tuple[Training, Training]):
    start = parse(trainings[0].bundle).get_parsed_content("network_def").state_dict()
    final = trainings[0].weights("model_final.pt")
    moved = [key for key in start if not torch.equal(start[key], final[key])]
    assert any("running_var" in key for key in moved)
    assert any(key.endswith("conv0.weight") for key in moved)


def test_what_both_report_is_the_same(trainings: tuple[Training, Training]):
    plain, overlaid = (training.events() for training in trainings)
    assert {"train_loss", "val_accu"} <= set(plain)
    spectrum = {tag for tag in overlaid if tag.startswith("ifim_spectrum/")}
    assert set(overlaid) == set(plain) | set(STATISTICS) | spectrum
    assert all(overlaid[tag] == plain[tag] for tag in plain)
    names = [{f.name for f in t.output.iterdir() if "tfevents" not in f.name} for t in trainings]
    raw = {f"{name}_raw.csv" for name in STATISTICS}
    assert names[1] - names[0] == raw | TABLES | {"run.json", ".ifim"}
    assert not names[0] - names[1]


def test_metrics_files(trainings: tuple[Training, Training]):
    output, truth = trainings[1].output, expected(trainings[1])
    table = rows_of(output / "metrics.csv")
    means = {row[0]: float(row[1]) for row in table}
    assert set(means) == {"val_accu", *STATISTICS}
    for name in STATISTICS:
        assert means[name] == pytest.approx(float(truth[name].mean()), rel=1e-5)
        header, *rows = rows_of(output / f"{name}_raw.csv")
        assert header[0] == "filename"
        assert [Path(row[0]).name for row in rows[:5]] == [f"slice{i}.png" for i in range(11, 16)]
        values = [float(row[1]) for row in rows[:5]]
        # MetricsSaver writes four decimals; ifim.csv has them all.
        assert values == pytest.approx(truth[name].tolist(), rel=0, abs=6e-5)


def test_tensorboard_has_both_epochs(trainings: tuple[Training, Training]):
    events, truth = trainings[1].events(), expected(trainings[1])
    for name in STATISTICS:
        assert len(events[name]) == 2
        assert events[name][1] == pytest.approx(float(truth[name].mean()), rel=1e-5)
        assert events[name][0] != events[name][1]


def test_tensorboard_shows_the_spectrum_the_traces_and_pictures(trainings):
    plain, overlaid = (training.board() for training in trainings)
    assert plain.Tags()["images"] == plain.Tags()["histograms"] == []
    assert [image.step for image in overlaid.Images("ifim_cases")] == [1, 2]
    histograms = overlaid.Histograms("ifim_traces")
    assert [(h.step, h.histogram_value.num) for h in histograms] == [(1, 5), (2, 5)]
    shares = [overlaid.Scalars(tag) for tag in overlaid.Tags()["scalars"] if "spectrum" in tag]
    assert sum(share[1].value for share in shares) == pytest.approx(1)


def test_each_epoch_has_a_table(trainings: tuple[Training, Training]):
    output = trainings[1].output
    last, first, second = (rows_of(output / name) for name in sorted(TABLES))
    assert last == second
    assert [row[0] for row in first] == [row[0] for row in second]
    assert first != second


def test_table_of_the_last_epoch(trainings: tuple[Training, Training]):
    header, *rows = rows_of(trainings[1].output / "ifim.csv")
    truth = expected(trainings[1])
    found = [dict(zip(header, row, strict=True)) for row in rows]
    assert [Path(row["file"]).name for row in found] == [f"slice{i}.png" for i in range(11, 16)]
    assert {row["status"] for row in found} == {"ok"}
    traces = [float(row["trace"]) for row in found]
    assert traces == pytest.approx(truth["ifim_trace"].tolist(), rel=1e-5)
