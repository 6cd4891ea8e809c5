"""How much of each nuisance a prediction tolerates, as columns of the handler's table."""

import math
from dataclasses import dataclass

import pytest
import torch
from monai.data import DataLoader, Dataset, MetaTensor
from monai.engines import PrepareBatchExtraInput
from torch import nn

import monai_ifim as mi
from _helpers.networks import smooth_network
from _helpers.recorders import INFERERS, count_forwards, evaluate
from _helpers.scans import dataset
from _helpers.tables import read_table
from monai_ifim.nuisances import BiasField, Blur, Gain, Offset, Rotation, Shift
from monai_ifim.questions import Answer

SIZES = pytest.mark.parametrize("size", [1, 2, 5])
CHOSEN = [Gain(400.0), Offset(5.0), Blur(3.0), BiasField(3.0, axis=1)]
NAMES = ["gain", "offset", "blur", "bias_field_along_axis_1"]


def run(data, folder, chosen=CHOSEN, size=2, network=None, level=1e-4, **options):
    network = smooth_network(3) if network is None else network
    keywords = options.pop("keywords", {})
    question = mi.NuisanceColumns(chosen, level)
    handler = mi.IFIMHandler(output_dir=folder, questions=[question], **keywords)
    evaluate(network, DataLoader(data, batch_size=size), handler, **options)
    return network, read_table(folder)


def value(text):
    return math.inf if text == "" else float(text)


def agrees(row, found, i, names=NAMES):
    for p, name in enumerate(names):
        for end, amounts in (("", found.measured), ("_law", found.local), ("_flip", found.flips)):
            assert value(row[f"nuisance_{name}{end}"]) == pytest.approx(
                amounts[i, p].item(), rel=1e-3
            )
    assert float(row["nuisance_worst"]) == pytest.approx(found.worst_divergence[i].item(), rel=1e-3)


@SIZES
@INFERERS
def test_the_columns_are_those_of_a_plain_call(files, tmp_path, size, inferer):
    network, rows = run(dataset(files), tmp_path, size=size, inferer=inferer)
    images = torch.stack([item["image"].as_tensor() for item in dataset(files)])
    found = mi.nuisance_sensitivity(network, images, CHOSEN, level=1e-4)
    assert torch.isfinite(found.measured).any()
    assert torch.isinf(found.measured).any()
    for i, row in enumerate(rows):
        assert row["status"] == "ok"
        agrees(row, found, i)


def test_passes(files, tmp_path, monkeypatch):
    """None backwards beside those of the eigenspace, at most 12 forwards for each nuisance."""
    grad, backward = torch.autograd.grad, []

    def counted(*arguments, **keywords):
        backward.append(1)
        return grad(*arguments, **keywords)

    monkeypatch.setattr(torch.autograd, "grad", counted)
    counts = {}
    for asked in (False, True):
        backward.clear()
        network = smooth_network(3)
        forwards = count_forwards(network)
        questions = [mi.NuisanceColumns(CHOSEN, 1e-4)] if asked else []
        handler = mi.IFIMHandler(output_dir=tmp_path / str(asked), questions=questions)
        loader = DataLoader(dataset(files), batch_size=5)
        evaluate(network, loader, handler, inferer=mi.IFIMInferer())
        counts[asked] = len(backward), len(forwards)
    assert counts[True][0] == counts[False][0]
    more = counts[True][1] - counts[False][1]
    assert 4 * 4 <= more <= 12 * len(CHOSEN)


class Dosed(nn.Module):
    """Needs each image's own dose, and raises for one image in its second pass."""

    def __init__(self, refused=math.nan):
        super().__init__()
        self.body, self.refused = smooth_network(2), refused

    def forward(self, image, dose):
        assert len(image) == len(dose)
        first = image.detach().as_subclass(torch.Tensor)[:, 0, 0, 0]
        if (first == self.refused).any():
            raise ArithmeticError("on purpose")
        return self.body(image) * dose[:, None]


def dosed_items():
    generator = torch.Generator().manual_seed(2)
    images = torch.randn(5, 1, 13, 11, generator=generator)
    return [
        {"image": MetaTensor(image), "dose": 0.5 + i, "label": 0} for i, image in enumerate(images)
    ]


@SIZES
@pytest.mark.parametrize("failing", [None, 2])
def test_further_inputs_and_an_image_that_fails(tmp_path, size, failing):
    data = dosed_items()
    refused = math.nan if failing is None else data[failing]["image"][0, 0, 0].item()
    network = Dosed(refused)
    prepare = PrepareBatchExtraInput({"dose": "dose"})
    chosen = [Gain(400.0), Offset(5.0)]
    _, rows = run(
        Dataset(data),
        tmp_path,
        chosen,
        size,
        network,
        prepare_batch=prepare,
        inferer=mi.IFIMInferer(on_error="row"),
    )
    for i, (row, item) in enumerate(zip(rows, data, strict=True)):
        if i == failing:
            assert row["status"] == "failed: ArithmeticError: on purpose"
            assert row["nuisance_gain"] == ""
            continue
        dose = torch.tensor([item["dose"]])
        network.refused = math.nan

        class Alone(nn.Module):
            def forward(self, image, dose=dose):
                return network.body(image) * dose.expand(len(image))[:, None]

        image = item["image"].as_tensor()[None]
        found = mi.nuisance_sensitivity(Alone(), image, chosen, level=1e-4)
        assert row["status"] == "ok"
        agrees(row, found, 0, NAMES[:2])


@SIZES
def test_a_constant_image_has_its_answer(tmp_path, size):
    """A bias field, a blur, or a rotation changes nothing there: not within the reach."""
    data = dosed_items()
    data[1]["image"] = MetaTensor(torch.zeros(1, 13, 11))
    chosen = [Gain(400.0), Blur(3.0), BiasField(3.0), Rotation()]
    names = ["gain", "blur", "bias_field_along_axis_0", "rotation"]
    _, rows = run(Dataset(data), tmp_path, chosen, size, smooth_network(2))
    assert [row["status"] for row in rows] == ["ok"] * 5
    for name in names:
        assert rows[1][f"nuisance_{name}"] == rows[1][f"nuisance_{name}_flip"] == ""
        assert rows[0][f"nuisance_{name}_law"] != ""
    assert float(rows[1]["nuisance_worst"]) == pytest.approx(0, abs=1e-9)


@SIZES
def test_a_prediction_that_becomes_nan_fails_alone(tmp_path, size):
    class Broken(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = smooth_network(2)

        def forward(self, x):
            top = x.detach().flatten(1).amax(1, keepdim=True)
            return torch.where(top < 11, self.body(x), torch.nan)

    data = dosed_items()
    data[3]["image"][0, 0, 0] = 10.0
    _, rows = run(Dataset(data), tmp_path, [Gain(20.0)], size, Broken())
    assert [row["status"] == "ok" for row in rows] == [True, True, True, False, True]
    assert "no nuisances: ValueError: expected a prediction of image 0 at" in rows[3]["status"]
    assert "% of gain, got NaN" in rows[3]["status"]


@SIZES
def test_millimetres_are_those_of_each_image(tmp_path, size):
    data = dosed_items()
    for i, item in enumerate(data):
        affine = torch.diag(torch.tensor([1 + 0.5 * i, 3.0, 1, 1]))
        item["image"] = MetaTensor(item["image"].as_tensor(), affine=affine)
    network = smooth_network(2)
    _, rows = run(Dataset(data), tmp_path, ["shift", "rotation"], size, network)
    for i, (row, item) in enumerate(zip(rows, data, strict=True)):
        sizes = (1 + 0.5 * i, 3.0)
        chosen = [Shift(spacing=sizes[0]), Rotation(spacing=(sizes,))]
        image = item["image"].as_tensor()[None]
        found = mi.nuisance_sensitivity(network, image, chosen, level=1e-4)
        agrees(row, found, 0, ["shift_along_axis_0", "rotation"])
    own = {row["nuisance_shift_along_axis_0_law"] for row in rows}
    plain = mi.nuisance_sensitivity(
        network, data[4]["image"].as_tensor()[None], [Shift()], measure=False
    )
    assert str(plain.local.item()) not in own


def test_a_rotation_keeps_lengths_in_mm():
    """A square in mm on voxels of 1 × 2 mm, turned by 90 degrees."""
    rows, columns = torch.arange(41).double() - 20, 2 * (torch.arange(21).double() - 10)
    bar = torch.exp(-0.5 * (rows[:, None] ** 2 / 60 + columns**2 / 9))[None, None]
    turned = torch.exp(-0.5 * (rows[:, None] ** 2 / 9 + columns**2 / 60))[None, None]
    found = Rotation(spacing=((1.0, 2.0),))(bar, torch.tensor([90.0]))
    torch.testing.assert_close(found, turned, rtol=0, atol=5e-3)


@pytest.mark.parametrize(
    ("network", "options"),
    [
        (nn.Conv2d(1, 3, 3, padding=1), {"rank": 2, "method": "krylov"}),
        (nn.Sequential(nn.Flatten(), nn.Linear(143, 2)), {"likelihood": mi.Gaussian(1.0)}),
        (nn.Sequential(nn.Flatten(), nn.Linear(143, 1)), {"likelihood": "bernoulli"}),
    ],
    ids=["segmentation", "regression", "sigmoid"],
)
def test_families(tmp_path, network, options):
    _, rows = run(Dataset(dosed_items()), tmp_path, ["gain", "noise"], 2, network, keywords=options)
    for row in rows:
        assert row["status"] == "ok"
        assert float(row["nuisance_gain_law"]) > 0
        assert float(row["nuisance_noise_law"]) > 0
        assert ("nuisance_gain_flip" in row) == (options.get("likelihood") == "bernoulli")


def test_outputs_in_a_tuple_and_reduced_precision(tmp_path):
    class Packed(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = smooth_network(2)

        def forward(self, x):
            return self.body(x), "further"

    keywords = {"output_transform": lambda y: y[0]}
    with torch.autocast("cpu", torch.bfloat16):  # as the host's own predictions are made
        _, rows = run(
            Dataset(dosed_items()),
            tmp_path,
            ["gain"],
            2,
            Packed(),
            keywords=keywords,
            inferer=mi.IFIMInferer(),
        )
    image = torch.stack([item["image"].as_tensor() for item in dosed_items()])
    found = mi.nuisance_sensitivity(smooth_network(2), image, [Gain()], level=1e-4)
    for i, row in enumerate(rows):
        assert value(row["nuisance_gain_law"]) == pytest.approx(found.local[i, 0].item(), rel=1e-3)
        assert value(row["nuisance_gain"]) == pytest.approx(found.measured[i, 0].item(), rel=1e-3)


@dataclass
class Own:
    """Somebody's nuisance."""

    name: str = "my nuisance, (dose)"
    unit: str = "mGy"
    reach: float = 5.0
    one_sided: bool = True
    step: float = 0.1

    def __call__(self, images, amounts):
        return images * (1 + amounts.to(images).view(-1, *[1] * (images.ndim - 1)))


def test_a_nuisance_of_ones_own_and_what_run_json_says(tmp_path):
    import json

    run(Dataset(dosed_items()), tmp_path, [Own()], 2, smooth_network(2))
    assert "nuisance_my_nuisance_dose" in read_table(tmp_path)[0]
    settings = json.loads((tmp_path / "run.json").read_text())["identity"]["settings"]
    assert settings["questions"][0]["ranges"] == {
        "my_nuisance_dose": {"reach": 5.0, "unit": "mGy", "one_sided": True}
    }


def test_another_reach_is_another_run(tmp_path):
    network = smooth_network(2)
    run(Dataset(dosed_items()), tmp_path, ["gain"], 2, network)
    question = mi.NuisanceColumns([{"gain": {"reach": 10}}], 1e-4)
    handler = mi.IFIMHandler(output_dir=tmp_path, questions=[question], resume=True)
    with pytest.raises(ValueError, match="questions"):
        evaluate(network, DataLoader(Dataset(dosed_items()), batch_size=2), handler)


@dataclass
class Dosage(Own):
    """With an option of its own."""

    k: int = 1


class Plain:
    """The same without a dataclass."""

    name, unit, reach, one_sided, step = "plain", "mGy", 5.0, True, 0.1

    def __init__(self, k=1):
        self.k = k

    def __call__(self, images, amounts):
        return Own()(images, self.k * amounts)


class Asks:
    """A question of somebody's own."""

    name, volumes = "asks", ()

    def __init__(self, k=1):
        self.k = k

    def answer(self, asked):
        return Answer([{"mine": float(self.k)} for _ in asked.images])


@pytest.mark.parametrize(
    "made",
    [
        lambda k: mi.NuisanceColumns(Dosage(k=k), 1e-4),
        lambda k: mi.NuisanceColumns(Plain(k=k), 1e-4),
        Asks,
    ],
    ids=["dataclass", "class", "question"],
)
def test_options_of_what_others_wrote_are_compared_at_a_resume(tmp_path, made):
    network = smooth_network(2)
    for k in (1, 1, 50):
        handler = mi.IFIMHandler(output_dir=tmp_path, questions=[made(k)], resume=True)
        loader = DataLoader(Dataset(dosed_items()), batch_size=2)
        if k == 1:
            evaluate(network, loader, handler)
            continue
        with pytest.raises(ValueError, match="questions"):
            evaluate(network, loader, handler)


def test_beside_a_perturbation_the_run_ends(tmp_path):
    with pytest.raises(KeyError, match="expected all changes of the images beside nuisances"):
        run(
            Dataset(dosed_items()),
            tmp_path,
            ["gain"],
            2,
            smooth_network(2),
            keywords={"perturbation": mi.Smooth(1.0)},
        )


@pytest.mark.parametrize("affine", [False, True])
@pytest.mark.parametrize(
    ("chosen", "known"),
    [
        ({"shift": {"axis": 2}}, "0 to 1"),
        ({"shift": {"axis": -1}}, "0 to 1"),
        ({"bias_field": {"axis": 2}}, "0 to 1"),
        ({"rotation": {"axis": 0}}, "2 alone"),
        ({"rotation": {"axis": 3}}, "2 alone"),
    ],
)
def test_an_axis_that_is_not_there_ends_the_run(tmp_path, chosen, known, affine):
    data = dosed_items()
    if not affine:
        data = [{**item, "image": item["image"].as_tensor()} for item in data]
    inferer = mi.IFIMInferer(on_error="row")
    with pytest.raises(KeyError, match=f"expected an axis from {known} of images"):
        run(Dataset(data), tmp_path, [chosen], 2, smooth_network(2), inferer=inferer)
