"""The folder of a pull request to the model zoo, against what its ``ci/verify_bundle.py`` checks.

Of that script's steps: necessary and preferred files, version, format of the metadata, data shape
and export. Left out is the comparison with the zoo's list of versions, which is not here; the
bundles support no apps, whose properties it would check. ``test_zoo_checks.py`` says where the
schema is from.
"""

import importlib.util
import json
import shutil
import warnings
from pathlib import Path

import pytest
from monai.bundle import ckpt_export, verify_metadata, verify_net_in_out

ROOT = Path(__file__).parents[2]
NAME = "ifim_signal_2d"
WHEEL = "https://example.org/monai_ifim-0.1.0-py3-none-any.whl"

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # of the export
    pytest.mark.filterwarnings("ignore:No hash value provided"),  # the schema is our own file
]


def script():
    spec = importlib.util.spec_from_file_location("zoo", ROOT / ".ci" / "zoo_contribution.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def folder(tmp_path):
    script().contribution(NAME, WHEEL, tmp_path / "zoo")
    return tmp_path / "zoo"


def test_what_the_zoo_gets(folder):
    bundle = folder / "models" / NAME
    needed = ["LICENSE", "configs/metadata.json", "configs/inference.json", "models/model.pt"]
    assert [name for name in needed if not (bundle / name).is_file()] == []
    assert max(p.stat().st_size for p in bundle.rglob("*")) < 25e6  # the zoo's limit for a file
    notes = (folder / "CONTRIBUTION.md").read_text()
    assert "inference_trt.json`: not supported, because" in notes
    (install,) = (folder / "ci" / "install_scripts").iterdir()
    assert f'"{NAME}"] = "{install.relative_to(folder)}"' in notes
    assert install.read_text().split()[-1] == WHEEL


def test_its_ci_can_install_the_requirements(folder):
    """From PyPI, by exact versions: the package itself comes as a wheel."""
    metadata = json.loads((folder / "models" / NAME / "configs" / "metadata.json").read_text())
    assert metadata["version"] in metadata["changelog"]
    assert metadata["required_packages_version"] == {"pytorch-ignite": "0.5.5", "nibabel": "5.4.2"}
    own = json.loads((ROOT / "bundles" / NAME / "configs" / "metadata.json").read_text())
    own["required_packages_version"].pop("monai-ifim")
    assert metadata == own


def test_the_checks_of_the_zoo(folder, monkeypatch):
    """From the zoo's folder, as its script does."""
    monkeypatch.chdir(folder)
    bundle = Path("models", NAME)
    meta, config = str(bundle / "configs/metadata.json"), str(bundle / "configs/inference.json")
    (bundle / "eval").mkdir()
    schema = Path(__file__).with_name("metadata_schema.json")
    verify_metadata(meta_file=meta, filepath=shutil.copy(schema, bundle / "eval" / "schema.json"))
    about = {"meta_file": meta, "config_file": config, "bundle_root": str(bundle)}
    verify_net_in_out(net_id="network_def", **about)
    exported = bundle / "models" / "verify_model.ts"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the tracer
        ckpt_export(
            net_id="network_def",
            filepath=str(exported),
            ckpt_file=str(bundle / "models" / "model.pt"),
            **about,
        )
    assert exported.is_file()


def test_another_bundle_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"expected one of ifim_hippocampus_3d, .*got 'spleen'"):
        script().contribution("spleen", WHEEL, tmp_path)
