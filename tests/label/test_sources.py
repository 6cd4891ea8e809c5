"""The matrix of sources and preprocessings through the inference task of MONAI Label."""

import json
import shutil
from pathlib import Path

import nibabel as nib
import pytest

pytest.importorskip(
    "monailabel", reason="MONAI Label has an environment of its own: make label-test"
)

import torch

from _helpers.networks import smooth_network
from _helpers.servers import BUNDLES
from _helpers.source_matrix import PREPROCESSINGS, SOURCES, check, inverted, made, steps
from monai_ifim.label.bundle import ClassificationBundle
from monai_ifim.label.infer import ComponentTask
from monai_ifim.label.options import Options

pytestmark = [
    pytest.mark.filterwarnings("ignore:inverse has been called but no invertible"),
    pytest.mark.filterwarnings("ignore:axcodes .*length is smaller:UserWarning"),
]
# MONAI Label turns DICOM into NIfTI before a task sees it.
KINDS = [kind for kind in SOURCES if "DICOM" not in kind]


def bundle_of(folder, source, config, channels):
    """A bundle with the network and the preprocessing of a cell."""
    root = Path(shutil.copytree(BUNDLES / "ifim_signal_2d" / "configs", folder / "b" / "configs"))
    network = {"_target_": "_helpers.networks.smooth_network"}
    network |= {"dims": source.dims, "channels": channels}
    preprocessing = {"_target_": "Compose", "transforms": config}
    (root / "inference.json").write_text(
        json.dumps({"network_def": network, "preprocessing": preprocessing})
    )
    (folder / "b" / "models").mkdir()
    weights = smooth_network(source.dims, channels=channels).state_dict()
    torch.save(weights, folder / "b" / "models" / "model.pt")
    return ClassificationBundle(folder / "b", device="cpu")


@pytest.mark.parametrize("name", PREPROCESSINGS)
@pytest.mark.parametrize("kind", KINDS)
def test_volumes_are_on_the_files_grid(tmp_path, kind, name):
    source, both = SOURCES[kind], name == "concatenation"
    config = steps(name, source)
    bundle = bundle_of(tmp_path, source, config, source.channels * (1 + both))
    for number in range(2):
        entry = source.write(tmp_path / f"s{number}", number)
        out = tmp_path / str(number)
        out.mkdir()
        further = {"a": entry, "b": entry} if both else {}
        result = bundle.run(Path(entry), Options(), further)
        files = ComponentTask(bundle).write(result, Options(), out)
        wanted = None if both else inverted(made(config), {"image": entry})
        high, orth = nib.load(files["high"]), nib.load(files["orth"])
        check(entry, high, orth, source.channels, wanted)
        assert high.header["descrip"].tobytes().startswith(b"iFIM high; b 0.1.1-")
        if "micrometres" in kind:
            assert high.header.get_xyzt_units()[0] == "micron"
