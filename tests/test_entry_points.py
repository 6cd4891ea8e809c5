"""One number for every entry point."""

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
