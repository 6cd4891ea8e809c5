"""F of an image and further inputs of the evaluator's network together."""

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

import monai_ifim as mi
from _helpers import oracle
from _helpers.recorders import INFERERS, evaluate
from _helpers.tables import read_table

COUNT, SHAPE = 5, (1, 4, 6)
SCALES = {"image": 2.0, "clinical": [12.0, 0.3]}


class Patient(nn.Module):
    """An image times clinical data, plus a stage and what all patients share; can raise."""

    def __init__(self, voxel=None):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.image, self.data = nn.Linear(24, 3), nn.Linear(2, 3)
            self.stage = nn.Embedding(4, 3)
        self.double()
        self.voxel = voxel

    def forward(self, image, table, *, clinical, stage, note):
        assert len(image) == len(clinical) == len(stage) == len(note)
        if self.voxel in image.detach().flatten(1)[:, 0].tolist():
            raise ArithmeticError("on purpose")
        logits = torch.tanh(self.image(image.flatten(1))) * torch.sigmoid(self.data(clinical))
        return logits + 0.1 * self.stage(stage) + table.sum()


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
    table = torch.ones(7, dtype=torch.float64)  # for all patients
    further = {name: batch[name] for name in ("clinical", "stage", "note")}
    return batch["image"].to(device), batch["label"], (table,), further


def run(handler, size, network=None, **options):
    loader = DataLoader(items(), batch_size=size)
    return evaluate(network or Patient(), loader, handler, prepare_batch=prepare, **options)


def dense(index):
    """F of image and clinical data of one patient, in units of the scales."""
    own, network = items()[index], Patient()
    scale = torch.cat([torch.full((24,), 2.0), torch.tensor([12.0, 0.3])]).double()

    def logits(joint):
        image, clinical = (joint * scale).split([24, 2], dim=1)
        stage = torch.tensor([own["stage"]])
        given = {"clinical": clinical, "stage": stage, "note": ["x"]}
        return network(image.view(1, *SHAPE), torch.ones(7).double(), **given)

    joint = torch.cat([own["image"].flatten(), own["clinical"]])[None] / scale
    return oracle.fisher(logits, joint, "categorical")[0], joint[0], scale


@INFERERS
@pytest.mark.parametrize("size", [1, 2, 5])
def test_one_spectrum_and_components_of_each(inferer, size, tmp_path):
    volumes = ("high", "orth", "sensitivity")
    handler = mi.IFIMHandler(inputs=SCALES, volumes=volumes, output_dir=tmp_path)
    _, found = run(handler, size, inferer=inferer)
    rows = read_table(tmp_path)
    assert len(found) == len(rows) == COUNT
    for index, (item, row) in enumerate(zip(found, rows, strict=True)):
        matrix, joint, scale = dense(index)
        eigenvalues, vectors = torch.linalg.eigh(matrix)
        assert float(row["trace"]) == pytest.approx(float(matrix.trace()), rel=1e-9)
        got = torch.as_tensor(item["ifim_eigenvalues"])
        torch.testing.assert_close(got, eigenvalues[-2:].flip(0), rtol=1e-8, atol=0)
        high = vectors[:, -2:] @ (vectors[:, -2:].T @ joint) * scale
        diagonal = matrix.diagonal()
        wanted = {
            "ifim_high": high[:24].view(SHAPE),
            "ifim_high_clinical": high[24:],
            "ifim_orth_clinical": (joint * scale - high)[24:],
            "ifim_sensitivity": diagonal[:24].view(SHAPE),
            "ifim_sensitivity_clinical": diagonal[24:],
        }
        for name, values in wanted.items():
            torch.testing.assert_close(torch.as_tensor(item[name]), values, rtol=1e-6, atol=1e-8)
        share = float(diagonal[:24].sum() / diagonal.sum())
        assert float(row["input_share_image"]) == pytest.approx(share, rel=1e-8)
        assert float(row["input_share_clinical"]) == pytest.approx(1 - share, rel=1e-6)


@pytest.mark.parametrize("size", [2, 5])
def test_a_patient_for_whom_the_network_raises_alone_fails(size, tmp_path):
    voxel = items()[3]["image"].flatten()[0].item()
    handler = mi.IFIMHandler(inputs=SCALES, output_dir=tmp_path)
    inferer = mi.IFIMInferer(on_error="row")
    _, found = run(handler, size, Patient(voxel), inferer=inferer)
    rows = read_table(tmp_path)
    assert [row["status"] == "ok" for row in rows] == [True, True, True, False, True]
    assert "on purpose" in rows[3]["status"]
    for index in (0, 1, 2, 4):
        trace = float(dense(index)[0].trace())
        assert float(rows[index]["trace"]) == pytest.approx(trace, rel=1e-9)
        assert torch.isfinite(found[index]["ifim_high_clinical"]).all()
    assert torch.isnan(found[3]["ifim_high_clinical"]).all()


def test_the_scales_make_the_run(tmp_path):
    run(mi.IFIMHandler(inputs=SCALES, output_dir=tmp_path), 2)
    other = {**SCALES, "clinical": [12.0, 0.6]}
    with pytest.raises(ValueError, match=r"settings.inputs.clinical was"):
        run(mi.IFIMHandler(inputs=other, output_dir=tmp_path, resume=True), 2)


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({"image": 1.0}, "at least one more input"),
        ({"clinical": 1.0, "stage": 1.0}, "a scale for 'image'"),
        (["image", "clinical"], "a scale for 'image'"),
        ({"image": 1.0, "clinical": 0.0}, "expected a scale > 0 for 'clinical'"),
        ({"image": 1.0, "clinical": [1.0, float("nan")]}, "expected a scale > 0"),
    ],
)
def test_impossible_inputs(inputs, message):
    with pytest.raises(ValueError, match=message):
        mi.IFIMHandler(inputs=inputs)


@pytest.mark.parametrize(
    ("inputs", "error", "message"),
    [
        ({"image": 1.0, "clincal": 1.0}, KeyError, r"without \['clincal'\]"),
        ({"image": 1.0, 1: 1.0}, KeyError, r"without \[1\]"),  # no row for each image
        ({"image": 1.0, "stage": 1.0}, TypeError, "floating-point tensors in wrt"),
        ({"image": 1.0, "clinical": [1.0, 1.0, 1.0]}, ValueError, "a scale for 'clinical' that"),
    ],
)
def test_inputs_that_the_network_does_not_get_end_the_run(inputs, error, message):
    with pytest.raises(error, match=message):
        run(mi.IFIMHandler(inputs=inputs), 2)


@pytest.mark.parametrize("other", [{"questions": [mi.ShareColumns()]}, {"pooled": "p.safetensors"}])
def test_questions_and_pooling_are_about_the_image_alone(other):
    with pytest.raises(ValueError, match="about the image alone"):
        mi.IFIMHandler(inputs=SCALES, **other)
