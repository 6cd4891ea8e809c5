"""ifim.yaml finds what it needs in the bundle, by whatever ids and expressions it is made."""

import csv
import json
import logging
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser
from monai.data import CacheDataset, Dataset
from monai.engines import SupervisedEvaluator
from torch.utils.data import ConcatDataset, Subset

import monai_ifim as mi
from _helpers.foreign_bundles import command, stem, write_scan
from monai_ifim.data.loaders import Failure

pytestmark = [
    pytest.mark.filterwarnings("ignore:NvImgCodecPydicomReader:UserWarning"),
    pytest.mark.filterwarnings("ignore:Can't merge entry:UserWarning"),
]
CONFIGS = Path(mi.__file__).parents[1] / "configs"
COUNT = 3


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("found") / "images"
    folder.mkdir()
    for i in range(COUNT):
        write_scan(folder / f"scan{i}.nii.gz", i)
    return folder


def bundle(images: Path, output: Path | None, /, **changes: Any) -> dict[str, Any]:
    """A bundle with as few ids as it can have; a change of None takes the id away."""
    config: dict[str, Any] = {
        "imports": ["$import glob", "$import torch", "$import monai"],
        "output_dir": None if output is None else str(output),
        "datalist": f"$[{{'image': f}} for f in sorted(glob.glob('{images}/*'))]",
        "network": {
            "_target_": "DenseNet",
            "spatial_dims": 3,
            "in_channels": 1,
            "out_channels": 3,
            "init_features": 4,
            "growth_rate": 2,
            "block_config": [1, 1],
        },
        "steps": {
            "_target_": "Compose",
            "transforms": [
                {"_target_": "LoadImaged", "keys": "image"},
                {"_target_": "EnsureChannelFirstd", "keys": "image"},
                {"_target_": "Resized", "keys": "image", "spatial_size": [12, 11, 9]},
                {"_target_": "ToTensord", "keys": "image"},
            ],
        },
        "images": {"_target_": "Dataset", "data": "@datalist", "transform": "@steps"},
        "loader": {"_target_": "DataLoader", "dataset": "@images", "batch_size": 1},
        "evaluator": {
            "_target_": "SupervisedEvaluator",
            "device": "cpu",
            "val_data_loader": "@loader",
            "network": "@network",
        },
        "run": ["$@evaluator.run()"],
    }
    evaluator = changes.pop("evaluator", {})
    config |= changes
    config["evaluator"] = config["evaluator"] | evaluator
    return {name: value for name, value in config.items() if value is not None}


def evaluator_of(config: dict[str, Any], folder: Path, overlay: str = "ifim", **options: Any):
    folder.mkdir(exist_ok=True)
    file = folder / "inference.json"
    file.write_text(json.dumps(config))
    parser = ConfigParser()
    parser.read_config([str(file), str(CONFIGS / f"{overlay}.yaml")])
    parser.update(options)
    torch.manual_seed(0)
    return parser.get_parsed_content("evaluator")


def rows_of(output: Path) -> list[dict[str, str]]:
    with (output / "ifim.csv").open(newline="") as file:
        return list(csv.DictReader(file))


HANDLER = {"_target_": "StatsHandler", "output_transform": "$lambda x: None"}
# A handler that looks at its data set when it is attached, as ProbMapProducer does.
LOOKS = "$type('H', (), {'attach': lambda self, e: e.data_loader.dataset.image_data.pop()})()"
WITH_DATA = "$type('W', (monai.data.Dataset,), {'image_data': [1]})(@datalist, @steps)"
THREADS = {"_target_": "ThreadDataLoader", "dataset": "@images", "batch_size": 1}
SIGMOID = {"_target_": "Activationsd", "keys": "pred", "sigmoid": True}
SOFTMAX = {"_target_": "Activationsd", "keys": "pred", "softmax": True}
EXPRESSION = "$monai.data.DataLoader(@images, batch_size=1)"
SHAPES: dict[str, dict[str, Any]] = {
    "nothing more": {},
    "inferer": {"evaluator": {"inferer": {"_target_": "SimpleInferer"}}},
    "val_handlers": {"val_handlers": [HANDLER], "evaluator": {"val_handlers": "@val_handlers"}},
    "handlers within": {"evaluator": {"val_handlers": [HANDLER]}},
    "no handlers": {"handlers": [], "evaluator": {"val_handlers": "@handlers"}},
    "loader expression": {"loader": EXPRESSION},
    "loader within": {"loader": None, "evaluator": {"val_data_loader": EXPRESSION}},
    "threads": {"loader": {**THREADS, "num_workers": 0}},
    "threads, arguments": {"loader": {**THREADS, "buffer_size": 2, "buffer_timeout": 0.1}},
    "thread workers": {"loader": {**THREADS, "use_thread_workers": True, "num_workers": 2}},
    "torch's loader": {"loader": {"_target_": "torch.utils.data.DataLoader", "dataset": "@images"}},
    "dataset expression": {"images": "$monai.data.Dataset(@datalist, transform=@steps)"},
    "dataset's own attribute": {"images": WITH_DATA, "evaluator": {"val_handlers": [LOOKS]}},
    "subset": {"loader": "$monai.data.DataLoader(torch.utils.data.Subset(@images, [0, 1, 2]))"},
    "joined": {
        "loader": "$monai.data.DataLoader(torch.utils.data.ConcatDataset([@images, @more]))",
        "images": "$monai.data.Dataset(@datalist[:1], transform=@steps)",
        "more": "$monai.data.Dataset(@datalist[1:], transform=@steps)",
    },
    "cached": {"images": {"_target_": "CacheDataset", "data": "@datalist", "transform": "@steps"}},
    "run by another name": {"run": None, "evaluating": ["$@evaluator.run()"]},
}


@pytest.mark.parametrize("changes", SHAPES.values(), ids=SHAPES)
def test_every_shape_of_bundle_runs(changes, images: Path, tmp_path: Path):
    output = tmp_path / "out"
    evaluator = evaluator_of(bundle(images, output, **changes), tmp_path)
    assert type(evaluator) is SupervisedEvaluator
    evaluator.run()
    rows = rows_of(output)
    assert [stem(row["file"]) for row in rows] == [f"scan{i}" for i in range(COUNT)]
    assert {row["status"] for row in rows} == {"ok"}
    assert len(list(output.glob("*_ifim_*.nii.gz"))) == 2 * COUNT


LOADERS = [
    name for name in SHAPES if "load" in name or "thread" in name or name in ("subset", "joined")
]


@pytest.mark.parametrize("name", LOADERS)
def test_an_unreadable_file_costs_no_other_image(name: str, images: Path, tmp_path: Path):
    own, output = tmp_path / "images", tmp_path / "out"
    own.mkdir()
    for file in images.iterdir():
        (own / file.name).write_bytes(file.read_bytes())
    (own / "scan1.nii.gz").write_bytes(b"not an image")
    evaluator = evaluator_of(bundle(own, output, **SHAPES[name]), tmp_path)
    with pytest.raises(RuntimeError, match="1 of 3 images"):
        evaluator.run()
    rows = {stem(row["file"]): row["status"] for row in rows_of(output)}
    assert rows.pop("scan1").startswith("failed: ")
    assert rows == {"scan0": "ok", "scan2": "ok"}


@pytest.mark.parametrize(
    ("postprocessing", "options", "eigenvalues"),
    [
        (SIGMOID, {}, 3),
        (SOFTMAX, {}, 2),
        ([{"_target_": "EnsureTyped", "keys": "pred"}, SIGMOID], {}, 3),
        ({"_target_": "Lambdad", "keys": "pred", "func": "$lambda x: torch.sigmoid(x)"}, {}, 3),
        ({"_target_": "AsDiscreted", "keys": "pred", "argmax": True}, {}, 2),
        (SIGMOID, {"ifim_likelihood": "categorical"}, 2),
        (SOFTMAX, {"ifim_likelihood": "bernoulli"}, 3),
    ],
)
def test_the_likelihood_is_seen_in_the_postprocessing(
    postprocessing, options, eigenvalues, images: Path, tmp_path: Path
):
    parts = postprocessing if isinstance(postprocessing, list) else [postprocessing]
    changes = {"evaluator": {"postprocessing": {"_target_": "Compose", "transforms": parts}}}
    output = tmp_path / "out"
    evaluator = evaluator_of(bundle(images, output, **changes), tmp_path, **options)
    evaluator.run()
    network = evaluator.network.eval()
    for row, item in zip(rows_of(output), evaluator.data_loader.dataset, strict=True):
        family = "bernoulli" if eigenvalues == 3 else "categorical"
        space = mi.eigenspace(network, item["image"].as_tensor()[None], likelihood=family)
        assert len([key for key in row if key.startswith("eigenvalue_")]) == eigenvalues
        assert float(row["trace"]) == pytest.approx(float(space.trace), rel=1e-4)


def test_without_any_sign_a_softmax_is_assumed_with_a_sentence(
    images: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    with caplog.at_level(logging.WARNING):
        evaluator_of(bundle(images, tmp_path / "out"), tmp_path)
    assert "a softmax is assumed; for sigmoids pass --ifim_likelihood bernoulli" in caplog.text


@pytest.mark.parametrize(
    "parts",
    [
        [{"_target_": "AsDiscreted", "keys": "pred", "threshold": 0.5}],
        [{**SIGMOID, "softmax": False}, SOFTMAX],
    ],
)
def test_a_postprocessing_that_fits_both_stops_the_run(parts, images: Path, tmp_path: Path):
    changes = {"evaluator": {"postprocessing": {"_target_": "Compose", "transforms": parts}}}
    with pytest.raises(RuntimeError) as raised:
        evaluator_of(bundle(images, tmp_path / "out", **changes), tmp_path)
    assert "pass --ifim_likelihood categorical" in str(raised.value.__cause__)


def test_a_configuration_without_an_evaluator_is_refused_with_a_sentence():
    with pytest.raises(ValueError, match=r"expected the id evaluator with an evaluator of MONAI's"):
        mi.evaluator_with_ifim(ifim_handler=mi.IFIMHandler(), network=torch.nn.Identity())


def test_the_preprocessing_of_data_sets_in_one_another():
    def one(x: Any) -> Any:
        return x

    def two(x: Any) -> Any:
        return x

    inner = Dataset([1, 2], one)
    outer = CacheDataset(inner, [two], progress=False)

    class Loader:
        def __init__(self, dataset: Any) -> None:
            self.dataset = dataset

    own = inner.transform
    assert mi.preprocessing_of(Loader(inner)) is own
    assert mi.preprocessing_of(Loader(Subset(inner, [0]))) is own
    assert mi.preprocessing_of(Loader(ConcatDataset([inner, inner]))) is own
    assert mi.preprocessing_of(Loader([1])) is None
    assert mi.preprocessing_of([1]) is None
    flat = mi.preprocessing_of(Loader(outer)).flatten().transforms
    assert list(flat) == [one, two]
    with pytest.raises(ValueError, match="one preprocessing for all joined data sets"):
        mi.preprocessing_of(Loader(ConcatDataset([inner, Dataset([1], two)])))


# --- the README's command -------------------------------------------------------------------------


def run(folder: Path, config: dict[str, Any], *options: str, suffix: str = "json"):
    file = folder / "configs" / f"inference.{suffix}"
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps(config))  # JSON is YAML, too
    files = f"['{file}','{CONFIGS / 'ifim.yaml'}']"
    start = ["monai.bundle", "run", "--workflow_type", "infer", "--config_file", files]
    return command(*start, *options, cwd=folder)


# As in the zoo's classification_template: val_handlers, no output_dir, threads, YAML.
TEMPLATE = {
    "loader": {**THREADS, "buffer_size": 1, "num_workers": 0},
    "val_handlers": [HANDLER],
    "evaluator": {"val_handlers": "@val_handlers"},
}


def test_the_template_of_the_zoo(images: Path, tmp_path: Path):
    config = bundle(images, None, **TEMPLATE)
    done = run(tmp_path, config, "--output_dir", str(tmp_path / "out"), suffix="yaml")
    assert done.returncode == 0, done.stdout
    # Random weights of a process of its own may leave all ReLUs at 0, which is ok.
    assert all(row["status"].startswith("ok") for row in rows_of(tmp_path / "out"))
    done = run(tmp_path, config, suffix="yaml")
    assert done.returncode != 0
    assert "expected the id output_dir in the bundle, got none; pass --output_dir" in done.stdout


def test_a_bundle_without_the_id_run_is_run(images: Path, tmp_path: Path):
    """As breast_density_classification, whose own id is ``evaluating``."""
    changes = SHAPES["run by another name"] | {
        "evaluator": {"postprocessing": {"_target_": "Compose", "transforms": [SIGMOID]}}
    }
    for name, options in (("out", []), ("again", ["--run_id", "evaluating"])):
        config = bundle(images, tmp_path / name, **changes)
        done = run(tmp_path, config, *options)
        assert done.returncode == 0, done.stdout
        rows = rows_of(tmp_path / name)
        assert len(rows) == COUNT
        assert all(row["eigenvalue_3"] for row in rows)


def test_the_class_of_the_evaluator_is_kept(images: Path, tmp_path: Path):
    (tmp_path / "scripts").mkdir()
    (tmp_path / "scripts" / "__init__.py").write_text("")
    (tmp_path / "scripts" / "own.py").write_text(
        "from monai.engines import SupervisedEvaluator\n"
        "class Own(SupervisedEvaluator):\n"
        "    def run(self):\n"
        "        print('the own class runs')\n"
        "        super().run()\n"
    )
    changes = {"evaluator": {"_target_": "scripts.own.Own"}}
    done = run(tmp_path, bundle(images, tmp_path / "out", **changes))
    assert done.returncode == 0, done.stdout
    assert done.stdout.count("the own class runs") == 1


# --- the loader -----------------------------------------------------------------------------------


def test_a_loader_that_cannot_be_guarded_stays_as_it_is(caplog: pytest.LogCaptureFixture):
    class Moving(torch.utils.data.DataLoader):
        def __iter__(self) -> Any:
            yield from super().__iter__()

    class Stream(torch.utils.data.IterableDataset):
        def __iter__(self) -> Any:
            return iter([1, 2])

    data = list(range(4))
    for loader in (
        [1, 2],
        Moving(data),
        torch.utils.data.DataLoader(Stream()),
        torch.utils.data.DataLoader(data, batch_size=None),
    ):
        caplog.clear()
        assert mi.FaultTolerantDataLoader.around(loader) is loader
        assert "the run ends at the first image that cannot be loaded" in caplog.text


def test_a_guarded_loader_gives_the_batches_of_its_own_one():
    from monai.data import DataLoader, ThreadDataLoader

    data = Dataset([{"image": np.full(3, i)} for i in range(7)])
    for kind, options in (
        (DataLoader, {"batch_size": 3, "drop_last": True}),
        (DataLoader, {"batch_size": 2, "sampler": [4, 1, 1, 0]}),
        (ThreadDataLoader, {"batch_size": 2, "repeats": 2, "buffer_size": 3}),
    ):
        own = kind(data, **options)
        ours = mi.FaultTolerantDataLoader.around(own)
        assert (len(ours), ours.dataset, ours.sampler) == (len(own), data, own.sampler)
        for _ in range(2):
            pairs = zip(own, ours, strict=True)
            assert all(torch.equal(one["image"], other["image"]) for one, other in pairs)
        assert mi.FaultTolerantDataLoader.around(ours) is ours


def test_a_repeated_batch_has_its_failures_once():
    from monai.data import ThreadDataLoader

    class Broken(Dataset):
        def __getitem__(self, index: int) -> Any:
            if index == 1:
                raise OSError("no such disk")
            return super().__getitem__(index)

    data = Broken([{"image": np.ones(2), "i": i} for i in range(4)])
    ours = mi.FaultTolerantDataLoader.around(ThreadDataLoader(data, batch_size=2, repeats=3))
    assert [len(batch["i"]) for batch in ours] == [1, 1, 1, 2, 2, 2]
    (failure,) = ours.failures
    assert isinstance(failure, Failure)
    assert "no such disk" in failure.reason


def test_arguments_of_threads_are_left_out_with_a_sentence(caplog: pytest.LogCaptureFixture):
    data = Dataset([{"image": np.ones(2)}] * 2)
    data.image_data = "its own"
    loader = mi.FaultTolerantDataLoader(data, buffer_size=2, repeats=1, use_thread_workers=True)
    assert "buffer_size=2, repeats=1, use_thread_workers=True" in caplog.text
    assert len(list(loader)) == 2
    assert loader.dataset.image_data == "its own"
    assert not hasattr(loader.dataset, "nothing")
    assert not hasattr(loader.dataset, "__getitems__")


def test_the_files_of_an_args_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "a.json").write_text(json.dumps({"evaluator": {"_target_": "x.Y"}}))
    (tmp_path / "args.json").write_text(json.dumps({"config_file": [str(tmp_path / "a.json")]}))
    assert mi.bundle_root(["--args_file", str(tmp_path / "args.json")]) == str(tmp_path)
    monkeypatch.setattr(sys, "argv", ["run", "--args_file", str(tmp_path / "args.json")])
    mi.check_arguments()
