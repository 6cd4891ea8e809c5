"""Our bundles, each with small data in the layout that it reads."""

from pathlib import Path

import pytest

from _helpers.bundle_images import BUNDLES, make_images


@pytest.fixture(scope="session", params=BUNDLES, ids=lambda path: path.name)
def bundle(request: pytest.FixtureRequest) -> Path:
    return request.param


@pytest.fixture(scope="session")
def images(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_images(bundle.name, tmp_path_factory.mktemp("data") / bundle.name)
