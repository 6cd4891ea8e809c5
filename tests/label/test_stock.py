"""Our bundles, unchanged, in MONAI Label's own ``monaibundle`` app."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip(
    "monailabel", reason="MONAI Label has an environment of its own: make label-test"
)

import nibabel as nib
import numpy as np

from _helpers.foreign_bundles import command
from _helpers.servers import BUNDLES, parts, start, stop, volume, write_images

IMAGES = {"ifim_mednist_2d": "mednist_0", "ifim_hippocampus_3d": "hippocampus_0"}
APP = Path(sys.prefix) / "monailabel" / "sample-apps" / "monaibundle"
TORCHVISION = subprocess.run(
    [sys.executable, "-c", "import torchvision"], capture_output=True, check=False
)
pytestmark = pytest.mark.skipif(
    TORCHVISION.returncode != 0, reason="the stock app needs a torchvision that imports"
)


@pytest.fixture(scope="module")
def stock(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stock")
    shutil.copytree(APP, folder / "app")
    for name in IMAGES:
        shutil.copytree(BUNDLES / name, folder / "app" / "model" / name)
    (folder / "studies").mkdir()
    write_images(folder / "studies")
    settings = {"zoo_source": "local", "models": ",".join(IMAGES), "skip_trainers": "true"}
    conf = [word for item in settings.items() for word in ("--conf", *item)]
    places = ["--app", "app", "--studies", "studies", "--host", "127.0.0.1"]
    server = start(folder, ["monailabel.main", "start_server", *places, *conf])
    yield server
    stop(server)


@pytest.mark.parametrize("name", IMAGES)
def test_the_volume_of_a_bundle_run(stock, name, tmp_path):
    image = next(stock.studies.glob(IMAGES[name] + ".*"))
    data, output = tmp_path / "data", tmp_path / "output"
    data.mkdir()
    shutil.copy(image, data)
    config = BUNDLES / name / "configs" / "inference.json"
    run = ["monai.bundle", "run", "--workflow_type", "infer", "--config_file", str(config)]
    places = ["--dataset_dir", str(data), "--output_dir", str(output)]
    every = ["--ifim_volumes", "['high','orth','sensitivity']"]
    result = command(*run, *places, *every, cwd=tmp_path)
    assert result.returncode == 0, result.stdout[-3000:]
    for component in ("high", "orth", "sensitivity"):
        params = {"component": component, "result_extension": ".nii.gz"}
        answer = stock.post(f"/infer/{name}?image={IMAGES[name]}", json.dumps(params))
        assert answer.status_code == 200, stock.log()[-3000:]
        found = parts(answer)
        got, numbers = volume(found["image"]), json.loads(found["params"])
        (file,) = output.rglob(f"*_ifim_{component}.nii.gz")
        expected = nib.load(file)
        values = expected.get_fdata()
        assert got.shape == expected.shape
        # The stock writer knows no affine for pictures.
        if name == "ifim_hippocampus_3d":
            np.testing.assert_allclose(got.affine, expected.affine, atol=1e-4)
        np.testing.assert_allclose(
            got.get_fdata(), values, atol=1e-5 * np.abs(values).max(), rtol=0
        )
        assert numbers["component"] == component
        assert list(numbers["probabilities"]) == numbers["class_names"]


def test_options_are_not_evaluated(stock):
    url = "/infer/ifim_hippocampus_3d?image=hippocampus_0"
    bad = stock.post(url, json.dumps({"component": "$__import__('os').getcwd()"}))
    assert bad.status_code == 500  # the stock app knows no other answer to an error
    assert stock.post(url, json.dumps({"rank": 1})).status_code == 200
