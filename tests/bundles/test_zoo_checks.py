"""What the model zoo checks of a bundle before it accepts it, offline.

``metadata_schema.json`` is a transcription of MONAI's meta_schema_20240725.json, without that
file's descriptions. The original is a release asset of Project-MONAI/MONAI-extra-test-data; it was
transcribed from its source, ``monai/bundle/meta_schema.json`` in pull request 7409 of
Project-MONAI/MONAI, and the one change that the review made afterwards (``supported_apps`` is an
object).
"""

import json
import re
import shutil
import warnings
from pathlib import Path

import pytest
import torch
from monai.bundle import (
    ConfigParser,
    ConfigWorkflow,
    ckpt_export,
    verify_metadata,
    verify_net_in_out,
)
from monai.bundle.properties import TrainProperties

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


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda m: m.pop("authors"), "authors"),
        (lambda m: m.update(supported_apps=["monai-label"]), "is not of type 'object'"),
        (lambda m: m.update(references="a paper"), "is not of type 'array'"),
        (lambda m: m["network_data_format"].pop("outputs"), "outputs"),
        (
            lambda m: m["network_data_format"]["inputs"]["image"].pop("dtype"),
            "'dtype' is a required",
        ),
        (
            lambda m: m["network_data_format"]["outputs"]["pred"].update(num_channels="2"),
            "is not of type 'integer'",
        ),
        (lambda m: m.update(second_data_format={"inputs": {}}), "outputs"),
    ],
    ids=["authors", "apps", "references", "outputs", "dtype", "channels", "second network"],
)
def test_schema_can_fail(damage, message, bundle: Path, tmp_path: Path):
    schema = shutil.copy(SCHEMA, tmp_path / "schema.json")
    metadata = json.loads((bundle / "configs" / "metadata.json").read_text())
    damage(metadata)
    (tmp_path / "metadata.json").write_text(json.dumps(metadata))
    with pytest.raises(ValueError, match=message):
        verify_metadata(meta_file=str(tmp_path / "metadata.json"), filepath=schema)


def test_metadata_say_more_than_the_schema_asks(bundle: Path):
    """What MONAI's bundle specification says in words."""
    metadata = json.loads((bundle / "configs" / "metadata.json").read_text())
    assert re.fullmatch(r"https://.*meta_schema_[0-9]{8}\.json", metadata["schema"])
    assert re.fullmatch(r"[0-9]+\.[0-9]+\.[0-9]+", metadata["version"])
    assert all(metadata[name] for name in ("task", "description", "authors", "copyright"))
    for name in ("changelog", "required_packages_version"):
        assert all(isinstance(value, str) for value in metadata[name].values())
    parts = metadata["network_data_format"]
    assert parts["inputs"]
    assert parts["outputs"]
    for tensor in [tensor for part in parts.values() for tensor in part.values()]:
        assert tensor["type"] in ("image", "label", "vector", "series", "tuples", "probabilities")
        assert len(tensor["value_range"]) in (0, 2)
        assert all(isinstance(name, str) for name in tensor["channel_def"].values())


@pytest.mark.parametrize("files", [["train.json"], ["train.json", "evaluate.json"]], ids=len)
def test_every_training_property_is_there(bundle: Path, files: list[str]):
    """Optional ones too, which ``check_properties`` passes over where they are missing."""
    parser = ConfigParser()
    parser.read_config([config(bundle, name) for name in files])
    ids = [about["id"] for about in TrainProperties.values()]
    assert [name for name in ids if name not in parser] == []


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
    if kind == "train":
        assert len(workflow.train_dataset_data) == len(workflow.train_dataset) > 0
        assert len(workflow.val_dataset_data) == len(workflow.val_dataset) > 0


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
