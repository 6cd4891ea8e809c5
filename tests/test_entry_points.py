"""One number for every entry point."""

from pathlib import Path

import nibabel as nib
import pytest
import torch
from monai.data import DataLoader

import monai_ifim as mi
from _helpers.comparisons import assert_close
from _helpers.networks import smooth_network
from _helpers.recorders import evaluate
from _helpers.scans import dataset, write_scans

# MONAI 1.6.1 says so whenever LoadImage registers its readers without nvImageCodec.
pytestmark = pytest.mark.filterwarnings("ignore:NvImgCodecPydicomReader:UserWarning")

KEYS = ("ifim_eigenvalues", "ifim_trace", "ifim_high", "ifim_orth", "ifim_sensitivity")
VOLUMES = ("high", "orth", "sensitivity")


@pytest.mark.parametrize(
    ("likelihood", "options"),
    [("categorical", {}), ("categorical", {"rank": 2}), ("bernoulli", {"energy": 0.9})],
)
@pytest.mark.parametrize("dims", [2, 3])
def test_four_entry_points_give_the_same_numbers(tmp_path, dims, likelihood, options):
    files = write_scans(tmp_path, dims, count=5)
    data, network = dataset(files), smooth_network(dims)
    loader = DataLoader(data, batch_size=3)
    options = {"likelihood": likelihood, **options}

    core = {key: [] for key in (*KEYS, "ifim_rank")}
    for batch in loader:
        images = batch["image"].as_tensor()
        space = mi.eigenspace(network, images, **options)
        high, orth = space.split(images)
        values = (space.eigenvalues, space.trace, high, orth, space.sensitivity(), space.rank)
        for key, value in zip(core, values, strict=True):
            core[key].extend(value)

    handler = mi.IFIMHandler(volumes=VOLUMES, **options)
    _, alone = evaluate(network, loader, handler)
    handler = mi.IFIMHandler(volumes=VOLUMES, **options)
    _, with_inferer = evaluate(network, loader, handler, inferer=mi.IFIMInferer())
    array = mi.IFIMComponents(network, volumes=VOLUMES, **options)
    from_array = [array(item["image"]) for item in data]
    dictionary = mi.IFIMComponentsd("image", network, volumes=VOLUMES, **options)
    from_dictionary = [dictionary(item) for item in data]

    assert min(core["ifim_rank"]) >= 1
    for items in (alone, with_inferer, from_array, from_dictionary):
        assert len(items) == len(files)
        for i, item in enumerate(items):
            assert item["ifim_rank"] == core["ifim_rank"][i]
            for key in KEYS:
                assert_close(item[key], core[key][i])
            # Every eigenvalue, not only the largest, to the same relative tolerance.
            torch.testing.assert_close(
                torch.as_tensor(item["ifim_eigenvalues"]).as_subclass(torch.Tensor),
                core["ifim_eigenvalues"][i],
                rtol=1e-5,
                atol=0,
            )


def test_two_images_do_not_share_their_numbers(tmp_path):
    """Guards the test above: all entry points agreeing on one constant would pass it."""
    files = write_scans(tmp_path, 3, count=2)
    images = torch.stack([item["image"].as_tensor() for item in dataset(files)])
    space = mi.eigenspace(smooth_network(3), images)
    assert abs(space.trace[0] / space.trace[1] - 1) > 1e-2
    assert (space.eigenvalues > 0).all()


@pytest.mark.parametrize("options", [{}, {"rank": 3}, {"energy": 0.5}])
@pytest.mark.parametrize("dims", [2, 3])
def test_a_pooled_eigenspace_gives_the_same_components_everywhere(  # noqa: PLR0914 - all hosts
    tmp_path, dims, options
):
    (tmp_path / "scans").mkdir()
    files = write_scans(tmp_path / "scans", dims, count=6)
    data, network = dataset(files), smooth_network(dims)
    images = torch.stack([item["image"].as_tensor() for item in data])
    pooled = mi.pooled_eigenspace(network, images, rank=4)
    file = tmp_path / "pooled.safetensors"
    pooled.save(file)
    high, orth = pooled.split(images, options.get("rank", pooled.stable_rank))
    own = {name: value for name, value in options.items() if name != "rank"}
    space = mi.eigenspace(network, images, **own)
    expected = (space.eigenvalues, space.trace, high, orth, space.sensitivity())

    loader = DataLoader(data, batch_size=4)
    choices = {"space": file, "volumes": VOLUMES, **options}
    _, alone = evaluate(network, loader, mi.IFIMHandler(**choices))
    handler = mi.IFIMHandler(**choices)
    _, with_inferer = evaluate(network, loader, handler, inferer=mi.IFIMInferer())
    array = mi.IFIMComponents(network, **choices)
    dictionary = mi.IFIMComponentsd("image", network, **choices)
    hosts = [alone, with_inferer, [array(each["image"]) for each in data]]
    hosts.append([dictionary(each) for each in data])
    for items in hosts:
        for i, item in enumerate(items):
            for key, values in zip(KEYS, expected, strict=True):
                assert_close(item[key], values[i])

    for component, values in (("high", high), ("orth", orth)):
        inferer = mi.IFIMInferer()
        instead = mi.ComponentOfPredictiond("pred", inferer, component=component, space=file, **own)
        for i, item in enumerate(data):
            with torch.no_grad():
                item["pred"] = inferer(item["image"][None], network)[0]
            result = instead({**item, **options})
            assert_close(result["pred"], values[i].float())
            assert "in a pooled eigenspace of 6 images" in result["result"]["components"]

    steps = mi.image_preprocessing()
    made = {"preprocessing": steps, "progress": False, "space": pooled}
    summary = mi.run(network, files, tmp_path / "out", **made, **options)
    assert summary.complete
    assert "components: in a pooled eigenspace of 6 images" in str(summary)
    for path in files:
        written = nib.load(tmp_path / "out" / f"{Path(path).stem[:5]}_ifim_high.nii.gz")
        image = steps({"image": path})["image"].as_tensor()
        values = torch.as_tensor(written.get_fdata()).reshape(image.shape)
        wanted = pooled.split(image[None], options.get("rank", pooled.stable_rank))[0][0]
        assert_close(values, wanted.double())
        assert b", pooled 6 images; research" in bytes(written.header["descrip"])
