"""The bundles' READMEs: the sections of the model zoo's template, and commands that run."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from monai.bundle import ConfigParser

SECTIONS = [
    "Authors",
    "Tags",
    "Model Description",
    "Data",
    "Preprocessing",
    "Training configuration",
    "Performance",
    "System Configuration",
    "MONAI Bundle Commands",
    "TorchScript and TensorRT",
    "Limitations",
    "References",
    "License",
]
# What MONAI's command line itself takes; every other option overrides an id.
ARGUMENTS = {"config_file", "workflow_type", "net_id", "filepath", "ckpt_file", "meta_file"}
# Few and short steps: what is tested is that the commands run, not what they learn.
SHORT = {
    "signal": "--train#dataset#data#length 128 --train#trainer#epoch_length 1 "
    "--validate#dataset#data#length 7",
    "mednist": "",
    "hippocampus": "",
}


def readme(bundle: Path) -> str:
    return (bundle / "docs" / "README.md").read_text()


def blocks(bundle: Path) -> dict[str, str]:
    """Commands by the heading that stands above them."""
    found = re.findall(r"^#### ([^\n]+)\n\n```bash\n(.*?)^```", readme(bundle), re.M | re.S)
    return dict(found)


def run_block(bundle: Path, block: str, images: Path, folder: Path) -> Path:
    """Run commands in a copy of the bundle, with its data where the README has them."""
    root = Path(shutil.copytree(bundle, folder / bundle.name))
    for place in ("images", "data/MedNIST", "data/hippocampus_patches"):
        if place in block and "signal-images" not in block:
            (root / place).parent.mkdir(exist_ok=True)
            (root / place).symlink_to(images)
    # As a module, torchrun is that of this very interpreter.
    block = block.replace("torchrun ", "python -m torch.distributed.run ")
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PATH": path}
    done = subprocess.run(
        ["bash", "-euc", block], cwd=root, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return root


def test_sections_are_those_of_the_template(bundle: Path):
    sections = re.findall(r"^#+ \*\*(.+)\*\*$", readme(bundle), re.M)
    assert sections == SECTIONS


def test_links_lead_to_files(bundle: Path):
    targets = [t for t in re.findall(r"\]\(([^)#]+)\)", readme(bundle)) if "://" not in t]
    assert targets
    assert not [t for t in targets if not (bundle / "docs" / t).exists()]


def test_commands_name_files_and_ids_that_are_there(bundle: Path):
    commands = [shlex.split(block.replace("\\\n", " ")) for block in blocks(bundle).values()]
    assert len(commands) == 7
    for words in commands:
        files = re.findall(r"configs/\w+\.json", words[words.index("--config_file") + 1])
        assert files
        parser = ConfigParser()
        parser.read_config([str(bundle / file) for file in files])
        options = {word[2:] for word in words if word.startswith("--")}
        # Before MONAI's own options there are torchrun's, and those of our command.
        options -= ARGUMENTS | {"standalone", "nproc_per_node=2", "count"}
        assert not [name for name in options if name not in parser]


def test_inference(bundle: Path, images: Path, tmp_path: Path):
    root = run_block(bundle, blocks(bundle)["Infer"], images, tmp_path)
    assert (root / "results" / "ifim.csv").is_file()
    assert (root / "results" / "predictions.csv").is_file()
    assert list((root / "results").rglob("*_ifim_high.nii.gz"))


def test_export(bundle: Path, images: Path, tmp_path: Path):
    root = run_block(bundle, blocks(bundle)["Export to TorchScript"], images, tmp_path)
    assert (root / "models" / "model.ts").is_file()


@pytest.mark.slow
@pytest.mark.parametrize("what", ["Train", "Override", "Train on", "Evaluate", "Evaluate on"])
def test_training_and_evaluation(what: str, bundle: Path, images: Path, tmp_path: Path):
    (heading,) = (
        name
        for name in blocks(bundle)
        if name == what or (name.startswith(f"{what} ") and what not in ("Train", "Evaluate"))
    )
    short = SHORT[bundle.name.split("_")[1]]
    epochs = "" if what == "Override" else "--train#trainer#max_epochs 1"
    block = f"{blocks(bundle)[heading].rstrip()} {short} {epochs}"
    root = run_block(bundle, block, images, tmp_path)
    if "Evaluate" in what:
        assert (root / "eval" / "metrics.csv").is_file()
        assert (root / "eval" / "ifim.csv").is_file()
    else:
        weights = root / ("other_models" if what == "Override" else "models") / "model.pt"
        before = (bundle / "models" / "model.pt").read_bytes()
        assert weights.read_bytes() != before
