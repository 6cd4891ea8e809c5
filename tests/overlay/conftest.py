"""The overlay's place, and one pair of runs (without and with it) for each foreign bundle."""

from pathlib import Path

import pytest

from _helpers.foreign_bundles import SHAPES, Runs, command, digests, install, run_bundle


@pytest.fixture(scope="session")
def overlay(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the command prints, from a folder that has nothing to do with the package."""
    answer = command("monai_ifim", "config", "ifim", cwd=tmp_path_factory.mktemp("elsewhere"))
    assert answer.returncode == 0, answer.stdout
    return Path(answer.stdout.strip())


@pytest.fixture(scope="session", params=SHAPES, ids=lambda shape: shape.name)
def runs(
    request: pytest.FixtureRequest, overlay: Path, tmp_path_factory: pytest.TempPathFactory
) -> Runs:
    shape, folder = request.param, tmp_path_factory.mktemp(request.param.name)
    bundle, images = install(shape.name, folder), folder / "images"
    images.mkdir()
    shape.write_images(images)
    before = digests(bundle)
    outputs = folder / "plain", folder / "overlaid"
    plain = run_bundle(bundle, images, outputs[0], run_id=shape.run_id)
    # Neither the likelihood nor the id that starts the bundle: both are found.
    overlaid = run_bundle(bundle, images, outputs[1], overlay=overlay)
    return Runs(shape, bundle, images, plain, overlaid, *outputs, before)
