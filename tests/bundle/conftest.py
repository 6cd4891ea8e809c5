"""Images for our bundle, and bundles of other authors with theirs."""

import pytest

from _helpers import foreign_bundles as foreign
from monai_ifim.experiments import signal_task, write_signal_images


@pytest.fixture(scope="module")
def signals(tmp_path_factory):
    folder = tmp_path_factory.mktemp("signals")
    write_signal_images(signal_task("2d"), folder, 7, 3)
    return folder


@pytest.fixture(scope="module")
def foreigners(tmp_path_factory):
    """Bundle and images by the name of the shape."""
    places = {}
    for shape in foreign.SHAPES:
        folder = tmp_path_factory.mktemp(shape.name)
        (folder / "images").mkdir()
        shape.write_images(folder / "images")
        places[shape.name] = foreign.install(shape.name, folder), folder / "images"
    return places
