"""``--ifim_pooled`` over bundles that other people write, and over our own."""

from pathlib import Path

import pytest
import torch

import monai_ifim as mi
from _helpers.foreign_bundles import (
    SHAPES,
    command,
    install,
    network_of,
    parse,
    run_bundle,
    scans,
    write_picture,
)

FILE = "ifim_pooled.safetensors"
ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.filterwarnings("ignore:NvImgCodecPydicomReader:UserWarning")


@pytest.fixture(scope="module")
def run(overlay, tmp_path_factory):
    """A bundle of another project with 3 images: its folder, its images, and the output."""
    shape, folder = SHAPES[0], tmp_path_factory.mktemp("pooled")
    bundle, images, output = install(shape.name, folder), folder / "images", folder / "output"
    images.mkdir()
    shape.write_images(images)
    done = run_bundle(bundle, images, output, "--ifim_pooled", FILE, overlay=overlay)
    assert done.returncode == 0, done.stdout
    return shape, bundle, images, output, done.stdout


def test_it_is_that_of_the_plain_call(run):
    shape, bundle, images, output, log = run
    parser = parse(bundle, dataset_dir=str(images))
    preprocessing = parser.get_parsed_content("preprocessing")
    loaded = [preprocessing(entry)["image"] for entry in parser.get_parsed_content("datalist")]
    expected = mi.pooled_eigenspace(
        network_of(parser),
        torch.stack([torch.as_tensor(i) for i in loaded]).float(),
        likelihood=shape.likelihood,
    )
    stored = mi.PooledEigenspace.load(output / FILE)
    torch.testing.assert_close(stored.eigenvalues, expected.eigenvalues, rtol=1e-4, atol=1e-6)
    assert float(stored.angles(expected, rank=1)) < 1e-2
    assert (stored.count, stored.about["images"]) == (3, "3")
    assert stored.about["network"] == expected.about["network"]
    assert "3 of 3 images pooled in" in log


def test_components_are_taken_in_it_by_the_handler(run):
    stored = mi.PooledEigenspace.load(run[3] / FILE)
    assert mi.IFIMHandler(space=run[3] / FILE).space.count == stored.count


def test_a_reference_and_further_choices(run, overlay, tmp_path):
    _, bundle, images, output, _ = run
    done = run_bundle(
        *(bundle, images, tmp_path / "again", "--ifim_pooled", FILE),
        *("--ifim_pooled_reference", str(output / FILE), "--ifim_pooling::rank", "2"),
        overlay=overlay,
    )
    assert done.returncode == 0, done.stdout
    assert len(mi.PooledEigenspace.load(tmp_path / "again" / FILE).eigenvalues) == 2


def test_each_validation_of_a_training(overlay, tmp_path):
    images = tmp_path / "images"
    images.mkdir()
    for i in range(16):
        write_picture(images / f"slice{i:02d}.png", 3 * i, (33, 37))
    bundle, output = install("trained_2d", tmp_path), tmp_path / "output"
    (bundle / "models" / "model.pt").unlink()
    more = overlay.with_name("ifim_validate.yaml")
    done = run_bundle(bundle, images, output, "--ifim_pooled", FILE, overlay=more, kind="train")
    assert done.returncode == 0, done.stdout
    names = {path.name for path in output.glob("*.safetensors")}
    assert names == {FILE, *(f"ifim_pooled_epoch_000{i}.safetensors" for i in (1, 2))}
    one, two = (
        mi.PooledEigenspace.load(output / f"ifim_pooled_epoch_000{i}.safetensors") for i in (1, 2)
    )
    assert one.about["network"] != two.about["network"]

    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    board = EventAccumulator(str(output)).Reload()
    found = {tag for tag in board.Tags()["scalars"] if tag.startswith("ifim_pooled_")}
    assert found == {f"ifim_pooled_{name}" for name in ("images", "stable_rank", "angle_before")}
    assert [s.step for s in board.Scalars("ifim_pooled_images")] == [1, 2]
    (angle,) = board.Scalars("ifim_pooled_angle_before")  # in the epoch in which it is computed
    assert angle.step == 2
    assert angle.value == pytest.approx(float(two.angles(one, 2.0, rank=1).rad2deg()), rel=1e-4)


def test_a_bundle_of_ours(tmp_path):
    bundle = ROOT / "bundles" / "ifim_mednist_2d"
    images = tmp_path / "images"
    images.mkdir()
    for i in range(3):
        write_picture(images / f"slice{i}.png", i, (64, 64))
    done = command(
        *("monai.bundle", "run", "--config_file", str(bundle / "configs" / "inference.json")),
        *("--bundle_root", str(bundle), "--dataset_dir", str(images)),
        *("--output_dir", str(tmp_path / "out"), "--ifim_pooled", FILE),
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stdout
    assert mi.PooledEigenspace.load(tmp_path / "out" / FILE).count == 3


def test_a_segmentation_of_images_of_several_shapes(overlay, tmp_path):
    """The run goes on to its end, and its status says that what was asked for is not there."""
    bundle, images, output = install("segment_3d", tmp_path), tmp_path / "images", tmp_path / "out"
    images.mkdir()
    scans(images)
    more = overlay.with_name("ifim_segmentation.yaml")
    done = run_bundle(bundle, images, output, "--ifim_pooled", FILE, overlay=more)
    assert done.returncode == 1, done.stdout
    assert (
        "RuntimeError: no pooled eigenspace of this epoch: ValueError: expected images of one"
        in (done.stdout)
    )
    assert not (output / FILE).exists()
    assert len(list(output.rglob("*_ifim_high.nii.gz"))) == 3
    assert (output / "ifim.csv").read_text().count(",ok\n") == 3
