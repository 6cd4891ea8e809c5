"""F of changes inside an organ of each image's own label map, and of smooth changes in mm."""

import pytest
import torch
from monai.bundle import ConfigParser
from monai.data import DataLoader, Dataset, MetaTensor

import monai_ifim as mi
from _helpers.comparisons import assert_close
from _helpers.networks import smooth_network
from _helpers.recorders import INFERERS, evaluate
from _helpers.tables import read_table

SIZES = pytest.mark.parametrize("size", [1, 2, 5])


def items(without=(), spacings=(1.0,) * 5):
    """Images whose organ 3 is at another place in each; some have none."""
    generator = torch.Generator().manual_seed(1)
    made = []
    for i, spacing in enumerate(spacings):
        organs = torch.zeros(1, 13, 11)
        if i not in without:
            organs[:, i : i + 5, 2:7] = 3
        affine = torch.diag(torch.tensor([spacing, 2 * spacing, 1, 1]))
        image = MetaTensor(torch.randn(1, 13, 11, generator=generator), affine=affine)
        made.append({"image": image, "organs": MetaTensor(organs, affine=affine), "label": i % 3})
    return made


def run(data, folder, changes, size, **options):
    network = smooth_network(2)
    loader = DataLoader(Dataset(data), batch_size=size)
    handler = mi.IFIMHandler(output_dir=folder, perturbation=changes)
    _, found = evaluate(network, loader, handler, **options)
    return network, read_table(folder), found


@SIZES
@INFERERS
def test_each_image_has_its_own_organ(tmp_path, size, inferer):
    data = items()
    network, rows, found = run(data, tmp_path, mi.MaskOf("organs", [3]), size, inferer=inferer)
    for row, item, given in zip(rows, found, data, strict=True):
        image, organ = (given[key].as_tensor()[None] for key in ("image", "organs"))
        space = mi.eigenspace(network, image, perturbation=mi.Mask(organ == 3))
        assert_close(float(row["trace"]), space.trace[0])
        assert_close(item["ifim_high"], space.split(image)[0][0])
        assert not item["ifim_high"][organ[0] == 0].any()


@SIZES
def test_an_image_without_the_organ_fails_alone(tmp_path, size):
    _, rows, found = run(items(without=(0, 3)), tmp_path, mi.MaskOf("organs", {"gall": 3}), size)
    for i, (row, item) in enumerate(zip(rows, found, strict=True)):
        if i in (0, 3):
            assert row["status"] == (
                "failed: ValueError: expected [3] in the label map 'organs', got [0]: without that "
                "region there are no changes to consider"
            )
            assert item["ifim_high"].isnan().all()
        else:
            assert row["status"] == "ok"
            assert torch.isfinite(item["ifim_high"]).all()


def test_all_labels_and_some_channels(tmp_path):
    images = torch.randn(2, 2, 13, 11)
    organs = torch.zeros(2, 1, 13, 11)
    organs[:, :, 3:8, 3:8] = torch.tensor([1.0, 2.0]).reshape(2, 1, 1, 1)
    data = [{"image": image, "organs": o} for image, o in zip(images, organs, strict=True)]
    network = smooth_network(2, channels=2)
    for changes, mask in (
        (mi.MaskOf("organs"), (organs > 0).expand(2, 2, 13, 11)),
        (mi.MaskOf(channels=[1]), torch.tensor([False, True]).reshape(1, 2, 1, 1)),
        (mi.MaskOf("organs", channels=[1]), (organs > 0) & (torch.arange(2) > 0).reshape(2, 1, 1)),
    ):
        handler = mi.IFIMHandler(perturbation=changes)
        _, found = evaluate(network, DataLoader(Dataset(data), batch_size=2), handler)
        expected = mi.eigenspace(network, images, perturbation=mi.Mask(mask)).trace
        assert_close(torch.tensor([float(item["ifim_trace"]) for item in found]).double(), expected)


def test_no_label_maps_end_the_run(tmp_path):
    with pytest.raises(KeyError, match="expected label maps under 'organ' in the batch"):
        run(items(), tmp_path, mi.MaskOf("organ", [3]), 2)


@pytest.mark.parametrize("spacings", [(1.5,) * 5, (1.0, 2.0, 1.5, 1.0, 0.5)])
@SIZES
def test_smooth_in_mm_with_each_images_spacing(tmp_path, size, spacings):
    data = items(spacings=spacings)
    network, rows, _ = run(data, tmp_path, mi.SmoothOf(2.0), size)
    for row, given, spacing in zip(rows, data, spacings, strict=True):
        smooth = mi.Smooth(2.0, spacing=(spacing, 2 * spacing))
        image = given["image"].as_tensor()[None]
        assert_close(
            float(row["trace"]), mi.eigenspace(network, image, perturbation=smooth).trace[0]
        )


def test_images_without_an_affine_have_no_mm(tmp_path):
    data = [{"image": item["image"].as_tensor()} for item in items()]
    with pytest.raises(KeyError, match="expected images with an affine"):
        run(data, tmp_path, mi.SmoothOf(2.0), 2)


def test_another_organ_is_another_run(tmp_path):
    run(items(), tmp_path, mi.MaskOf("organs", [3]), 2)
    loader = DataLoader(Dataset(items()), batch_size=2)
    handler = mi.IFIMHandler(output_dir=tmp_path, perturbation=mi.MaskOf("organs"), resume=True)
    with pytest.raises(ValueError, match="perturbation"):
        evaluate(smooth_network(2), loader, handler)


def test_in_a_pipeline_without_an_engine():
    item, network = items()[1], smooth_network(2)
    mask = mi.Mask(item["organs"].as_tensor() == 3)
    image = item["image"].as_tensor()[None]
    for changes, fixed in (
        (mi.MaskOf("organs", [3]), mask),
        (mi.SmoothOf(2.0), mi.Smooth(2.0, (1.0, 2.0))),
    ):
        result = mi.IFIMComponentsd("image", network, perturbation=changes)(item)
        expected = mi.eigenspace(network, image, perturbation=fixed)
        assert_close(result["ifim_trace"], expected.trace[0])
        assert_close(result["ifim_high"], expected.split(image)[0][0])


def test_a_plain_call_has_no_batch():
    with pytest.raises(ValueError, match="expected a batch with entries beside its images"):
        mi.eigenspace(smooth_network(2), torch.randn(1, 1, 13, 11), perturbation=mi.MaskOf("a"))


@pytest.mark.parametrize("arguments", [(), (None, [1])])
def test_a_mask_of_nothing(arguments):
    with pytest.raises(ValueError, match="expected the key of label maps, or channels"):
        mi.MaskOf(*arguments)


def test_by_what_a_configuration_says(tmp_path):
    config = {
        "handler": {
            "_target_": "monai_ifim.IFIMHandler",
            "output_dir": str(tmp_path),
            "perturbation": {"_target_": "monai_ifim.MaskOf", "key": "organs", "labels": [3]},
            "questions": {"_target_": "monai_ifim.chosen_questions", "shares": "organs"},
        }
    }
    handler = ConfigParser(config).get_parsed_content("handler")
    assert handler.options.perturbation == mi.MaskOf("organs", [3])
    loader = DataLoader(Dataset(items()), batch_size=2)
    evaluate(smooth_network(2), loader, handler)
    for row in read_table(tmp_path):  # of the trace of AᵀFA, all of which is in the organ
        assert float(row["share_3"]) == pytest.approx(1, abs=1e-10)
        assert float(row["share_0"]) == 0


def test_the_transform_takes_arrays_and_refuses_another_affine(tmp_path):
    (item, *_) = items()
    network, mask = smooth_network(2), mi.MaskOf("organs", [3])
    transform = mi.IFIMComponentsd("image", network, perturbation=mask)
    expected = transform(item)["ifim_high"]
    as_array = {**item, "organs": item["organs"].as_tensor().numpy()}
    assert_close(transform(as_array)["ifim_high"], expected)
    moved = torch.eye(4, dtype=torch.float64)
    moved[0, 3] = 5
    with pytest.raises(ValueError, match="got another affine for image 0"):
        transform({**item, "organs": MetaTensor(item["organs"].as_tensor(), affine=moved)})


def test_a_transform_says_once_that_the_space_is_another_networks(caplog):
    images = torch.stack([item["image"].as_tensor() for item in items()])
    first, second = smooth_network(2, seed=1), smooth_network(2, seed=2)
    pooled = mi.pooled_eigenspace(first, images, rank=2)
    for network, told in ((first, 0), (second, 1)):
        caplog.clear()
        transform = mi.IFIMComponents(network, space=pooled, rank=1)
        for image in images[:2]:
            transform(image)
        assert len([r for r in caplog.records if "another network" in r.message]) == told
