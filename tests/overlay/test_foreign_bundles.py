"""ifim.yaml on the kinds of classification bundle that other people write.

The bundles have the shapes of four in MONAI's model zoo, and of a 3D one: see ``bundles/``.
"""

import math
from functools import cached_property
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.transforms import Compose, Invertd, ToTensord

import monai_ifim as mi
from _helpers.foreign_bundles import Runs, digests, network_of, parse, stem

pytestmark = [
    # MONAI 1.6.1 says so whenever LoadImage registers its readers without nvImageCodec.
    pytest.mark.filterwarnings("ignore:NvImgCodecPydicomReader:UserWarning"),
    # As foreign bundles use it, without the argument that MONAI 1.6 wants.
    pytest.mark.filterwarnings("ignore:.*Orientationd.__init__.labels:FutureWarning"),
]


class ByHand:
    """The images of a run, through the bundle's own preprocessing and network, in this process."""

    def __init__(self, runs: Runs) -> None:
        self.shape = runs.shape
        self.parser = parse(runs.bundle, dataset_dir=str(runs.images))
        own = self.parser.get_parsed_content("preprocessing")
        # It changes nothing here but forgets how to go back.
        self.preprocessing = Compose([t for t in own.transforms if not isinstance(t, ToTensord)])
        self.network = network_of(self.parser)
        entries = {stem(e["image"]): e for e in self.parser.get_parsed_content("datalist")}
        self.items = {name: self.preprocessing(entry) for name, entry in entries.items()}
        for name, entry in entries.items():
            assert torch.equal(self.items[name]["image"], own(entry)["image"])

    @cached_property
    def inverted(self) -> dict[str, np.ndarray]:
        """The network's input on the grid of the file, channel first, by name."""
        invert = Invertd("copy", self.preprocessing, orig_keys="image", nearest_interp=False)
        copies = {k: {**v, "copy": v["image"].clone()} for k, v in self.items.items()}
        return {k: invert(v)["copy"].numpy() for k, v in copies.items()}

    @cached_property
    def spaces(self) -> dict[str, mi.Eigenspace]:
        family = self.shape.likelihood
        return {
            k: mi.eigenspace(self.network, v["image"].as_tensor()[None], likelihood=family)
            for k, v in self.items.items()
        }


@pytest.fixture(scope="module")
def by_hand(runs: Runs) -> ByHand:
    return ByHand(runs)


def volume(runs: Runs, name: str, component: str) -> nib.Nifti1Image:
    (file,) = runs.output.rglob(f"{name}_ifim_{component}.nii.gz")
    return nib.load(file)


def channel_first(image: nib.Nifti1Image, channels: int) -> np.ndarray:
    """(H, W[, D]) or (H, W, D, C) of a file as (C, H, W[, D])."""
    values = np.asarray(image.dataobj)
    if channels == 1:
        return values[None]
    values = np.moveaxis(values, -1, 0)
    return values[..., 0] if values.shape[-1] == 1 else values


def test_both_runs_end_well(runs: Runs):
    assert runs.plain.returncode == 0, runs.plain.stdout
    assert runs.overlaid.returncode == 0, runs.overlaid.stdout


def test_the_bundle_gives_what_it_gave(runs: Runs):
    own, now = (
        {str(f.relative_to(d)): f.read_bytes() for f in d.rglob("*") if f.is_file()}
        for d in (runs.plain_output, runs.output)
    )
    assert list(own) == ["predictions.csv"]
    assert now["predictions.csv"] == own["predictions.csv"]
    rows = own["predictions.csv"].decode().splitlines()
    assert [len(row.split(",")) for row in rows] == [1 + runs.shape.outcomes] * 3
    assert len({row.partition(",")[2] for row in rows}) == 3  # it did look at the images


def test_only_the_promised_files_are_new(runs: Runs, by_hand: ByHand):
    found = [f.relative_to(runs.output) for f in runs.output.rglob("*") if f.is_file()]
    names = {str(name) for name in found if name.parts[0] != ".ifim"}
    volumes = {f"{k}_ifim_{c}.nii.gz" for k in by_hand.items for c in ("high", "orth")}
    assert names == {"predictions.csv", "ifim.csv", "run.json"} | volumes


def test_the_bundle_is_untouched(runs: Runs):
    assert digests(runs.bundle) == runs.before


def test_one_row_an_image(runs: Runs, by_hand: ByHand):
    assert [stem(row["file"]) for row in runs.rows] == sorted(by_hand.items)
    assert {row["status"] for row in runs.rows} == {"ok"}
    assert all(Path(row["file"]).is_file() for row in runs.rows)


def test_the_numbers_are_those_of_the_plain_call(runs: Runs, by_hand: ByHand):
    for row in runs.rows:
        space = by_hand.spaces[stem(row["file"])]
        columns = [key for key in row if key.startswith("eigenvalue_")]
        assert len(columns) == runs.shape.eigenvalues
        found = torch.tensor([float(row[key]) for key in columns], dtype=torch.float64)
        expected = space.eigenvalues[0]
        assert expected[-1] > 1e-4 * expected[0] > 0  # no eigenvalue is a matter of rounding
        assert (found - expected).abs().max() <= 1e-5 * expected[0]
        assert float(row["trace"]) == pytest.approx(float(space.trace), rel=1e-5)
        assert int(row["rank"]) == runs.shape.eigenvalues
        outcome, probability = space.likelihood.most_probable(space.logits)
        assert row["predicted_class"] == outcome[0]
        assert float(row["probability"]) == pytest.approx(float(probability), rel=1e-5)


def test_the_predictions_are_those_of_the_plain_call(runs: Runs, by_hand: ByHand):
    for line in (runs.output / "predictions.csv").read_text().splitlines():
        file, *values = line.split(",")
        logits = by_hand.spaces[stem(file)].logits[0]
        softmax = runs.shape.likelihood == "categorical"
        expected = logits.softmax(0) if softmax else logits.sigmoid()
        assert [float(v) for v in values] == pytest.approx(expected.tolist(), rel=1e-5)


def test_volumes_lie_on_the_grid_of_the_file(runs: Runs, by_hand: ByHand):
    for name in by_hand.items:
        (source,) = {f for f in runs.images.rglob(f"{name}.*") if f.parent.name != "Labels"}
        for component in ("high", "orth"):
            found = volume(runs, name, component)
            assert found.get_data_dtype() == np.float32
            assert np.isfinite(found.get_fdata()).all()
            if source.suffix == ".gz":
                assert found.shape == nib.load(source).shape
                assert np.allclose(found.affine, nib.load(source).affine, rtol=0, atol=1e-5)
            else:  # 2D with one channel, else NIfTI's fourth axis; columns first, as MONAI reads
                plane = by_hand.inverted[name].shape[1:]
                colours = (1, runs.shape.channels) if runs.shape.channels > 1 else ()
                assert found.shape == (*plane, *colours)


def test_high_and_orth_add_up_to_the_inverted_input(runs: Runs, by_hand: ByHand):
    for name, expected in by_hand.inverted.items():
        high, orth = (
            channel_first(volume(runs, name, c), runs.shape.channels) for c in ("high", "orth")
        )
        assert high.shape == expected.shape
        assert np.abs(high + orth - expected).max() <= 1e-5 * np.abs(expected).max()
        assert np.abs(high).max() > 1e-4 * np.abs(expected).max()


def test_each_component_is_the_inverted_one_of_the_plain_call(runs: Runs, by_hand: ByHand):
    invert = Invertd("high", by_hand.preprocessing, orig_keys="image", nearest_interp=False)
    for name, item in by_hand.items.items():
        high = by_hand.spaces[name].split(item["image"].as_tensor()[None])[0][0]
        wanted = item["image"].clone()
        wanted[:] = high
        expected = invert({**item, "high": wanted})["high"].numpy()
        found = channel_first(volume(runs, name, "high"), runs.shape.channels)
        assert np.abs(found - expected).max() <= 1e-5 * np.abs(expected).max()


def test_the_energy_share_is_that_of_the_network_input(runs: Runs, by_hand: ByHand):
    for row in runs.rows:
        image = by_hand.items[stem(row["file"])]["image"].as_tensor()[None]
        high, _ = by_hand.spaces[stem(row["file"])].split(image)
        share = float(high.double().square().sum() / image.double().square().sum())
        assert float(row["high_energy_share"]) == pytest.approx(share, rel=1e-4)
        assert math.isclose(float(row["trace_share"]), 1, rel_tol=1e-9)
