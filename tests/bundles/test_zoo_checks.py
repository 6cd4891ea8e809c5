"""What the model zoo checks of a bundle before it accepts it, offline."""

import json
import shutil
import warnings
from pathlib import Path

import pytest
import torch
from monai.bundle import ConfigWorkflow, ckpt_export, verify_metadata, verify_net_in_out

from monai_ifim.bundle import load_bundle_classifier

ROOT = Path(__file__).parents[2]
SCHEMA = Path(__file__).with_name("metadata_schema.json")
BUNDLES = sorted(p.parent.parent for p in (ROOT / "bundles").glob("*/configs/metadata.json"))
REQUIRED = ["LICENSE", "configs/metadata.json", "configs/inference.json", "models/model.pt"]
OURS = [
    "docs/README.md",
    "configs/train.json",
    "configs/evaluate.json",
    "configs/multi_gpu_train.json",
    "configs/multi_gpu_evaluate.json",
    "configs/logging.conf",
]

# MONAI's checks script and export networks through APIs that torch 2.13 calls deprecated.
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    # The schema is our own file, so there is no published hash of it to check.
    pytest.mark.filterwarnings("ignore:No hash value provided"),
]


def config(bundle: Path, name: str) -> str:
    return str(bundle / "configs" / name)


def test_all_four_are_checked():
    names = {path.name for path in BUNDLES}
    assert names == {
        "ifim_signal_2d",
        "ifim_signal_3d",
        "ifim_mednist_2d",
        "ifim_hippocampus_3d",
    }


def test_files(bundle: Path):
    missing = [name for name in REQUIRED + OURS if not (bundle / name).is_file()]
    assert not missing
    assert (bundle / "models" / "model.pt").stat().st_size <= 5 * 1024**2
    assert not (bundle / "scripts").exists()


def test_version_is_in_the_changelog(bundle: Path):
    metadata = json.loads((bundle / "configs" / "metadata.json").read_text())
    assert metadata["version"] in metadata["changelog"]


def test_metadata_fits_the_schema(bundle: Path, tmp_path: Path):
    schema = shutil.copy(SCHEMA, tmp_path / "schema.json")  # present, so nothing is downloaded
    verify_metadata(meta_file=config(bundle, "metadata.json"), filepath=schema)


def test_schema_can_fail(bundle: Path, tmp_path: Path):
    schema = shutil.copy(SCHEMA, tmp_path / "schema.json")
    metadata = json.loads((bundle / "configs" / "metadata.json").read_text())
    del metadata["authors"]
    (tmp_path / "metadata.json").write_text(json.dumps(metadata))
    with pytest.raises(ValueError, match="authors"):
        verify_metadata(meta_file=str(tmp_path / "metadata.json"), filepath=schema)


@pytest.mark.parametrize(
    ("files", "kind"),
    [
        (["inference.json"], "infer"),
        (["train.json"], "train"),
        (["train.json", "evaluate.json"], "train"),
    ],
    ids=["inference", "train", "evaluate"],
)
def test_properties(bundle: Path, images: Path, files: list[str], kind: str, tmp_path: Path):
    workflow = ConfigWorkflow(
        config_file=[config(bundle, name) for name in files],
        meta_file=config(bundle, "metadata.json"),
        workflow_type=kind,
        bundle_root=str(bundle),
        dataset_dir=str(images),
        output_dir=str(tmp_path),
        ckpt_dir=str(tmp_path),
    )
    workflow.initialize()
    assert workflow.check_properties() == []


def test_network_takes_and_gives_what_the_metadata_say(bundle: Path):
    verify_net_in_out(
        net_id="network_def",
        meta_file=config(bundle, "metadata.json"),
        config_file=config(bundle, "inference.json"),
    )


def test_export_and_reload(bundle: Path, tmp_path: Path):
    exported = tmp_path / "model.ts"
    metadata = json.loads((bundle / "configs" / "metadata.json").read_text())
    image = metadata["network_data_format"]["inputs"]["image"]
    shape = (1, image["num_channels"], *image["spatial_shape"])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the tracer
        ckpt_export(
            net_id="network_def",
            filepath=str(exported),
            ckpt_file=str(bundle / "models" / "model.pt"),
            meta_file=config(bundle, "metadata.json"),
            config_file=config(bundle, "inference.json"),
            key_in_ckpt="",
        )
    network = torch.jit.load(exported).eval()
    images = torch.rand(shape)
    outputs = metadata["network_data_format"]["outputs"]["pred"]
    loaded = load_bundle_classifier(bundle).network
    with torch.no_grad():
        assert network(images).shape == (1, outputs["num_channels"])
        assert torch.allclose(network(images), loaded(images), atol=1e-5)


def test_weights_are_a_plain_state_dict(bundle: Path):
    weights = torch.load(bundle / "models" / "model.pt", weights_only=True)
    assert all(isinstance(value, torch.Tensor) for value in weights.values())
    assert all(torch.isfinite(v).all() for v in weights.values() if v.is_floating_point())
