"""One large server for most tests."""

import shutil

import pytest

from _helpers.servers import BUNDLES, OURS, start, stop, write_images


@pytest.fixture(scope="session")
def server(tmp_path_factory):
    """Our four bundles and five foreign ones; no scoring of its own accord."""
    from _helpers.foreign_bundles import SHAPES, install
    from monai_ifim.label.app_folder import write_app

    folder = tmp_path_factory.mktemp("server")
    write_app(folder / "app", [BUNDLES / name for name in OURS])
    (folder / "studies").mkdir()
    write_images(folder / "studies")
    for shape in SHAPES:
        install(shape.name, folder / "app" / "model")
        images = folder / shape.name
        images.mkdir()
        shape.write_images(images)
        pictures = images / "Images" if shape.name == "mask_channel" else images
        for file in pictures.iterdir():
            shutil.copy(file, folder / "studies" / f"{shape.name}_{file.name}")
    (folder / "studies" / "broken.nii.gz").write_text("not an image")
    (folder / "studies" / "broken.png").write_text("not an image")
    (folder / "studies" / "plain.nii").write_bytes(b"\0" * 400)
    command = ["monai_ifim", "label-server", "app", "studies"]
    running = start(folder, command, MONAI_LABEL_AUTO_UPDATE_SCORING="false")
    yield running
    stop(running)
