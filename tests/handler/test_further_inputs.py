"""Evaluators whose prepare_batch gives the network further inputs: an image and clinical data."""

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import DataLoader as MonaiLoader
from monai.data import Dataset
from monai.engines import PrepareBatchExtraInput
from monai.transforms import Compose, EnsureChannelFirstd, LoadImaged
from torch import nn
from torch.utils.data import DataLoader

import monai_ifim as mi
from _helpers import oracle
from _helpers.recorders import INFERERS, evaluate
from _helpers.tables import read_table

COUNT, SHAPE = 5, (1, 4, 6)


class Patient(nn.Module):
    """An image times what the clinical data say, plus a stage; it can raise for one image."""

    def __init__(self, voxel=None, when=(True, False), edits=False):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.image, self.data = nn.Linear(24, 3), nn.Linear(2, 3)
            self.stage = nn.Embedding(4, 3)
        self.double()
        self.voxel, self.when, self.edits, self.seen = voxel, when, edits, []

    def forward(self, image, clinical, *, stage, note=None):
        assert len(image) == len(clinical) == len(stage) == len(note)
        voxels = image.detach().as_subclass(torch.Tensor).flatten(1)[:, 0]
        self.seen.append((voxels.tolist(), clinical.detach()[:, 0].tolist(), list(note)))
        if torch.is_grad_enabled() in self.when and self.voxel in voxels.tolist():
            raise ArithmeticError("on purpose")
        logits = torch.tanh(self.image(image.flatten(1))) * torch.sigmoid(self.data(clinical))
        if self.edits:
            clinical.mul_(0)
        return logits + 0.1 * self.stage(stage)


def items():
    generator = torch.Generator().manual_seed(3)
    return [
        {
            "image": torch.randn(SHAPE, generator=generator, dtype=torch.float64),
            "clinical": torch.randn(2, generator=generator, dtype=torch.float64),
            "stage": i % 4,
            "note": f"patient {i}",
            "label": i % 3,
        }
        for i in range(COUNT)
    ]


def prepare(batch, device, non_blocking, **kwargs):
    """As users write it: (inputs, targets, args, kwargs) for the network."""
    image = batch["image"].to(device)
    return (
        image,
        batch["label"],
        (batch["clinical"].to(device),),
        {"stage": batch["stage"], "note": batch["note"]},
    )


def expected(index):
    """Dense F of one image, its own clinical data held fixed."""
    own, network = items()[index], Patient()

    def logits(image):
        stage = torch.tensor([own["stage"]])
        return network(image, own["clinical"][None], stage=stage, note=["x"])

    return oracle.fisher(logits, own["image"][None], "categorical")[0]


def run(network, handler, size, **options):
    loader = DataLoader(items(), batch_size=size)
    return evaluate(network, loader, handler, prepare_batch=prepare, **options)


def check(item, index):
    matrix = expected(index)
    assert float(item["ifim_trace"]) == pytest.approx(float(matrix.trace()), rel=1e-9)
    vectors = torch.linalg.eigh(matrix).eigenvectors[:, -2:]
    own = items()[index]["image"].flatten()
    high = (vectors @ (vectors.T @ own)).view(SHAPE)
    torch.testing.assert_close(torch.as_tensor(item["ifim_high"]), high, rtol=1e-6, atol=1e-8)


@INFERERS
@pytest.mark.parametrize("size", [1, 2, 5])
@pytest.mark.parametrize("method", ["exact", "krylov"])
def test_the_other_inputs_are_held_fixed(inferer, size, method):
    rank = 2 if method == "krylov" else None
    _, found = run(Patient(), mi.IFIMHandler(method=method, rank=rank), size, inferer=inferer)
    assert len(found) == COUNT
    for index, item in enumerate(found):
        check(item, index)


class Plain(nn.Module):
    """``Patient`` as MONAI's own prepare_batch calls it."""

    def __init__(self):
        super().__init__()
        self.body = Patient()

    def forward(self, image, clinical, stage):
        return self.body(image, clinical, stage=stage, note=["x"] * len(image))


@INFERERS
@pytest.mark.parametrize(
    "keys", [("clinical", "stage"), {"stage": "stage", "clinical": "clinical"}]
)
def test_the_keys_of_monais_own_prepare_batch(inferer, keys):
    loader = DataLoader(items(), batch_size=2)
    extra = PrepareBatchExtraInput(extra_keys=keys)
    _, found = evaluate(Plain(), loader, mi.IFIMHandler(), prepare_batch=extra, inferer=inferer)
    for index, item in enumerate(found):
        check(item, index)


@INFERERS
def test_patients_whose_clinical_data_influence_each_other(inferer):
    class Centred(Plain):
        def forward(self, image, clinical, stage):
            return super().forward(image, clinical - clinical.mean(dim=0), stage)

    extra = PrepareBatchExtraInput(extra_keys=("clinical", "stage"))
    loader, handler = DataLoader(items(), batch_size=5), mi.IFIMHandler(on_error="raise")
    with pytest.raises(ValueError, match=r"one by one.*held fixed, such as clinical data"):
        evaluate(Centred(), loader, handler, prepare_batch=extra, inferer=inferer)


@INFERERS
def test_under_inference_mode_and_with_edits_in_place(inferer):
    network = Patient()
    with torch.inference_mode():
        _, found = run(network, mi.IFIMHandler(), 2, inferer=inferer)
    for index, item in enumerate(found):
        check(item, index)
    _, found = run(Patient(edits=True), mi.IFIMHandler(), 2, inferer=mi.IFIMInferer())
    for index, item in enumerate(found):
        check(item, index)


@pytest.mark.parametrize("size", [2, 5])
@pytest.mark.parametrize("index", [0, 3])
@INFERERS
def test_each_image_alone_has_its_own_clinical_data(inferer, size, index, tmp_path):
    """The iFIM raises for one image: the others of its batch are done one by one."""
    network = Patient(voxel=items()[index]["image"].flatten()[0].item(), when=(True,))
    if inferer is not None:
        inferer = mi.IFIMInferer(on_error="row")
    handler = mi.IFIMHandler(output_dir=tmp_path)
    _, found = run(network, handler, size, inferer=inferer)
    rows = read_table(tmp_path)
    statuses = [row["status"] for row in rows]
    assert statuses[index] == "failed: ArithmeticError: on purpose"
    assert statuses.count("ok") == COUNT - 1
    for i, item in enumerate(found):
        if i != index:
            check(item, i)
    patients = {i["image"].flatten()[0].item(): i for i in items()}
    alone = [seen for seen in network.seen if len(seen[0]) == 1]
    assert len(alone) > 1
    for (voxel,), (number,), (note,) in alone:
        own = patients[voxel]
        assert (number, note) == (own["clinical"][0].item(), own["note"])


def test_predictions_one_by_one():
    voxel = items()[1]["image"].flatten()[0].item()
    network, inferer = Patient(voxel=voxel), mi.IFIMInferer(on_error="row")
    batch = next(iter(DataLoader(items(), batch_size=COUNT)))
    image, _, args, kwargs = prepare(batch, "cpu", False)
    with torch.no_grad():
        found = inferer(image, network, *args, **kwargs)
        good = Patient()(image, *args, **kwargs)
    assert found.shape == good.shape
    assert found[1].isnan().all()
    rest = [0, 2, 3, 4]
    torch.testing.assert_close(found[rest], good[rest])


def test_bad_clinical_data_are_not_the_networks_fault(tmp_path):
    """Alone in its batch: zeros in the place of its other inputs, too, tell whose fault it is."""

    class Strict(Patient):
        def forward(self, image, clinical, **others):
            if clinical.isnan().any():
                raise ArithmeticError("no clinical data")
            return super().forward(image, clinical, **others)

    data = items()
    data[0]["clinical"] = data[0]["clinical"] * torch.nan
    inferer, handler = mi.IFIMInferer(on_error="row"), mi.IFIMHandler(output_dir=tmp_path)
    loader = DataLoader(data, batch_size=1)
    _, found = evaluate(Strict(), loader, handler, prepare_batch=prepare, inferer=inferer)
    statuses = [row["status"] for row in read_table(tmp_path)]
    assert statuses == ["failed: ArithmeticError: no clinical data", *["ok"] * (COUNT - 1)]
    for index in range(1, COUNT):
        check(found[index], index)


def test_the_overlays_evaluator_with_an_unreadable_scan(tmp_path):
    """What a bundle's evaluator is given stays: the keys of its prepare_batch, too."""
    data = items()
    for i, item in enumerate(data):
        path = tmp_path / f"scan_{i}.nii.gz"
        nib.save(nib.Nifti1Image(item["image"][0, ..., None].numpy(), np.eye(4)), path)
        item["image"] = str(path)
    Path(data[1]["image"]).write_bytes(b"no longer a scan")
    load = Compose([LoadImaged("image", dtype=None), EnsureChannelFirstd("image")])
    network = Plain()
    evaluator = mi.evaluator_with_ifim(
        ifim_handler=mi.IFIMHandler(output_dir=tmp_path / "out"),
        ifim_likelihood="categorical",
        ifim_preprocessing=load,
        device=torch.device("cpu"),
        val_data_loader=MonaiLoader(Dataset(data, load), batch_size=2),
        network=network,
        prepare_batch=PrepareBatchExtraInput({"clinical": "clinical", "stage": "stage"}),
    )
    evaluator.run()
    rows = read_table(tmp_path / "out")
    assert [row["status"] == "ok" for row in rows] == [i != 1 for i in range(COUNT)]
    for i in (0, 2, 3, 4):
        inputs = {
            "image": torch.as_tensor(load(data[i])["image"])[None],
            "clinical": data[i]["clinical"][None],
            "stage": torch.tensor([data[i]["stage"]]),
        }
        alone = mi.SeveralInputs(network, inputs, wrt="image")
        expected = mi.eigenspace(alone.network, alone.images).trace
        assert float(rows[i]["trace"]) == pytest.approx(float(expected), rel=1e-9)
