"""The handler in its hosts: MONAI's evaluator and trainer, plain Ignite, DDP."""

import copy
import csv
import logging

import nibabel as nib
import numpy as np
import pytest
import torch
import torch.distributed as dist
from ignite import distributed as idist
from ignite.engine import Engine
from monai.data import DataLoader, MetaTensor
from monai.engines import SupervisedEvaluator, SupervisedTrainer
from monai.engines.utils import IterationEvents
from monai.handlers import ValidationHandler
from monai.transforms import (
    Compose,
    EnsureChannelFirstd,
    Invertd,
    LoadImaged,
    Orientationd,
    Resized,
    SaveImaged,
    ScaleIntensityd,
    Spacingd,
)
from torch import nn

import monai_ifim as mi
from _helpers.comparisons import assert_close
from _helpers.networks import smooth_network
from _helpers.recorders import Recorder, evaluate
from _helpers.scans import dataset, oblique, preprocessing, write_scan, write_scans

pytestmark = [
    # MONAI 1.6.1 says so whenever LoadImage registers its readers without nvImageCodec.
    pytest.mark.filterwarnings("ignore:NvImgCodecPydicomReader:UserWarning"),
]

WRITER = "monai_ifim.AtomicNibabelWriter"


def read_table(folder, name="ifim.csv"):
    """The table's rows; no partial file may lie beside it."""
    assert not list(folder.glob(".partial*"))
    with (folder / name).open(newline="") as file:
        return list(csv.DictReader(file))


def batch_of(loader):
    return next(iter(loader))["image"].as_tensor()


@pytest.fixture
def files(tmp_path):
    return write_scans(tmp_path / "scans", 3, count=5)


# --- geometry and files -------------------------------------------------------------------------


def geometric_preprocessing():
    """Reoriented, resampled and resized: nothing is where the file has it."""
    return Compose(
        [
            LoadImaged("image", image_only=True),
            EnsureChannelFirstd("image"),
            Orientationd("image", axcodes="PIR", labels=None),
            Spacingd("image", pixdim=(1.1, 0.9, 1.7), mode="bilinear"),
            Resized("image", spatial_size=(9, 10, 12), mode="trilinear"),
            ScaleIntensityd("image", minv=-1.0, maxv=1.0),
        ]
    )


def inverted_and_saved(transform, folder, volumes=("high", "orth")):
    """What a bundle's postprocessing does with the components, and with the network's input."""
    names = {f"ifim_{v}": f"ifim_{v}" for v in volumes} | {"image": "input"}
    return Compose(
        [
            Invertd(
                list(names),
                transform=transform,
                orig_keys="image",
                nearest_interp=False,
                to_tensor=True,
            ),
            *(
                SaveImaged(
                    key,
                    output_dir=str(folder),
                    output_postfix=postfix,
                    separate_folder=False,
                    resample=False,
                    print_log=False,
                    writer=WRITER,
                )
                for key, postfix in names.items()
            ),
        ]
    )


@pytest.fixture
def scans_of_two_shapes(tmp_path):
    """Files that differ in shape and affine, so that one's geometry cannot serve another."""
    folder = tmp_path / "scans"
    folder.mkdir()
    shapes = [(13, 11, 9), (12, 14, 10), (15, 8, 11)]
    return [write_scan(folder / f"s{i}.nii.gz", shape, i) for i, shape in enumerate(shapes)]


def assert_files_on_scan_grid(files, folder, volumes=("high", "orth")):
    for file in files:
        scan = nib.load(file)
        stem = file.rsplit("/", 1)[1].removesuffix(".nii.gz")
        read = {}
        for name in [*(f"ifim_{v}" for v in volumes), "input"]:
            volume = nib.load(folder / f"{stem}_{name}.nii.gz")
            assert volume.shape == scan.shape
            np.testing.assert_allclose(volume.affine, scan.affine, rtol=0, atol=1e-5)
            read[name] = volume.get_fdata()
        total = read["ifim_high"] + read["ifim_orth"]
        assert np.abs(total - read["input"]).max() <= 1e-5 * np.abs(read["input"]).max()
        # Neither component is the whole of it.
        assert np.abs(read["ifim_high"]).max() > 1e-3 * np.abs(read["input"]).max()
        assert np.abs(read["ifim_orth"]).max() > 1e-3 * np.abs(read["input"]).max()


@pytest.mark.parametrize("inferer", [mi.IFIMInferer(), None])
def test_volumes_return_to_the_scans_own_grid(scans_of_two_shapes, tmp_path, inferer):
    transform = geometric_preprocessing()
    loader = DataLoader(dataset(scans_of_two_shapes, transform), batch_size=2, num_workers=2)
    out = tmp_path / "out"
    evaluate(
        smooth_network(3),
        loader,
        mi.IFIMHandler(output_dir=out),
        inferer=inferer,
        postprocessing=inverted_and_saved(transform, out),
    )
    assert_files_on_scan_grid(scans_of_two_shapes, out)
    assert len(list(out.iterdir())) == 3 * 3 + 1


@pytest.mark.parametrize("decollate", [True, False])
def test_the_handlers_own_postprocessing(scans_of_two_shapes, tmp_path, decollate):
    transform = geometric_preprocessing()
    loader = DataLoader(dataset(scans_of_two_shapes, transform), batch_size=2)
    out = tmp_path / "out"
    handler = mi.IFIMHandler(
        output_dir=out,
        volumes=("high", "orth", "sensitivity"),
        postprocessing=inverted_and_saved(transform, out, ("high", "orth", "sensitivity")),
    )
    evaluate(smooth_network(3), loader, handler, decollate=decollate)
    assert_files_on_scan_grid(scans_of_two_shapes, out, ("high", "orth", "sensitivity"))
    assert [row["status"] for row in read_table(out)] == ["ok"] * 3


def test_own_postprocessing_does_not_disturb_the_hosts(scans_of_two_shapes, tmp_path):
    transform = geometric_preprocessing()
    loader = DataLoader(dataset(scans_of_two_shapes, transform), batch_size=3)
    network = smooth_network(3)
    _, expected = evaluate(network, loader, mi.IFIMHandler())
    out = tmp_path / "out"
    handler = mi.IFIMHandler(postprocessing=inverted_and_saved(transform, out))
    _, items = evaluate(network, loader, handler)
    for item, other in zip(items, expected, strict=True):
        for key in ("image", "ifim_high", "ifim_orth", "pred"):
            assert torch.equal(item[key], other[key])
            assert torch.equal(item[key].affine, other[key].affine)
            assert len(item[key].applied_operations) == len(other[key].applied_operations)


def test_a_failing_postprocessing_costs_one_image(files, tmp_path, caplog):
    saved = []

    def postprocess(item):
        if "scan1" in item["image"].meta["filename_or_obj"]:
            raise OSError("no space left on device")
        saved.append(item["image"].meta["filename_or_obj"])

    loader = DataLoader(dataset(files), batch_size=2)
    handler = mi.IFIMHandler(output_dir=tmp_path, postprocessing=postprocess, fail_at_end=True)
    with pytest.raises(RuntimeError, match=r"1 of 5 .*scan1.*OSError"):
        evaluate(smooth_network(3), loader, handler)
    assert saved == [f for f in files if "scan1" not in f]
    rows = read_table(tmp_path)
    assert [row["status"] == "ok" for row in rows] == [True, False, True, True, True]
    assert "no space left on device" in caplog.text


@pytest.mark.parametrize("inferer", [mi.IFIMInferer(), None])
def test_keys_carry_the_images_meta_after_decollation(files, inferer):
    loader = DataLoader(dataset(files), batch_size=2)
    handler = mi.IFIMHandler(volumes=("high", "orth", "sensitivity"))
    _, items = evaluate(smooth_network(3), loader, handler, inferer=inferer)
    assert len(items) == len(files)
    for i, item in enumerate(items):
        for name in ("high", "orth", "sensitivity"):
            value = item[f"ifim_{name}"]
            assert isinstance(value, MetaTensor)
            assert value.meta["filename_or_obj"] == files[i]
            np.testing.assert_allclose(value.affine, oblique(i), atol=1e-5)
            assert value.shape == item["image"].shape
            assert not value.requires_grad
            assert value.applied_operations == item["image"].applied_operations
        assert item["ifim_eigenvalues"].shape == (3,)
        assert item["ifim_high"].dtype == item["image"].dtype
        assert_close(item["ifim_high"] + item["ifim_orth"], item["image"])
        product = (item["ifim_high"].double() * item["ifim_orth"].double()).sum()
        assert abs(product) <= 1e-5 * item["image"].double().square().sum()


# --- the table ----------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"rank": 1}, {"energy": 0.6}])
def test_table(files, tmp_path, options):
    options = {**options, "vjp_chunk": None}  # the same passes whatever the size of the batch
    data = dataset(files)
    network = smooth_network(3)
    handler = mi.IFIMHandler(output_dir=tmp_path, filename="t.csv", **options)
    evaluate(network, DataLoader(data, batch_size=2), handler, inferer=mi.IFIMInferer())

    images = torch.stack([item["image"].as_tensor() for item in data])
    space = mi.eigenspace(network, images, **options)
    high, _ = space.split(images)
    share = high.double().flatten(1).square().sum(1) / images.double().flatten(1).square().sum(1)
    probabilities = torch.softmax(network(images).detach().double(), dim=1)

    rows = read_table(tmp_path, "t.csv")
    eigenvalues = [f"eigenvalue_{i + 1}" for i in range(space.eigenvalues.shape[1])]
    assert list(rows[0]) == [
        *("file", "predicted_class", "probability", "trace"),
        *eigenvalues,
        *("rank", "trace_share", "high_energy_share", "status"),
    ]
    assert [row["file"] for row in rows] == files
    for i, row in enumerate(rows):
        assert row["status"] == "ok"
        assert int(row["predicted_class"]) == probabilities[i].argmax()
        assert int(row["rank"]) == space.rank[i]
        numbers = {
            "probability": probabilities[i].max(),
            "trace": space.trace[i],
            "trace_share": space.eigenvalues[i].sum() / space.trace[i],
            "high_energy_share": share[i],
            **dict(zip(eigenvalues, space.eigenvalues[i], strict=True)),
        }
        for name, value in numbers.items():
            assert float(row[name]) == pytest.approx(value.item(), rel=1e-5)
    if options.get("rank"):
        assert {row["rank"] for row in rows} == {"1"}
    if options.get("energy"):
        assert all(0.6 <= float(row["trace_share"]) < 1 for row in rows)


def test_a_second_run_replaces_the_table(files, tmp_path):
    network, handler = smooth_network(3), mi.IFIMHandler(output_dir=tmp_path)
    evaluator, _ = evaluate(network, DataLoader(dataset(files), batch_size=2), handler)
    first = read_table(tmp_path)
    evaluator.run()
    assert read_table(tmp_path) == first
    assert len(first) == 5


def test_only_the_chosen_volumes_are_formed(files):
    loader = DataLoader(dataset(files[:2]), batch_size=2)
    _, items = evaluate(smooth_network(3), loader, mi.IFIMHandler(volumes=("sensitivity",)))
    numbers = {"ifim_eigenvalues", "ifim_trace", "ifim_rank"}
    assert {key for key in items[0] if key.startswith("ifim")} == numbers | {"ifim_sensitivity"}
    for item in items:
        # The diagonal of F sums to its trace.
        assert_close(item["ifim_sensitivity"].sum(), item["ifim_trace"])


def test_impossible_options_are_refused(files):
    with pytest.raises(ValueError, match="expected volumes from"):
        mi.IFIMHandler(volumes=("low",))
    with pytest.raises(ValueError, match="expected likelihood in"):
        mi.IFIMHandler(likelihood="gaussian")
    loader = DataLoader(dataset(files[:2]), batch_size=2)
    with pytest.raises(ValueError, match="expected 1 <= rank <= 3"):
        evaluate(smooth_network(3), loader, mi.IFIMHandler(rank=4))
    with pytest.raises(ValueError, match="expected rank or energy"):
        evaluate(smooth_network(3), loader, mi.IFIMHandler(rank=1, energy=0.5))


# --- kinds of network and host ------------------------------------------------------------------


class Returning(nn.Module):
    """A classifier whose forward gives the logits in some packing."""

    def __init__(self, pack, **options):
        super().__init__()
        self.body, self.pack = smooth_network(3, **options), pack

    def forward(self, x, *args, **kwargs):
        return self.pack(self.body(x), *args, **kwargs)


INFERERS = pytest.mark.parametrize("inferer", [mi.IFIMInferer(), None], ids=["shared", "own"])


@INFERERS
def test_a_tuple_with_output_transform(files, inferer):
    loader = DataLoader(dataset(files), batch_size=2)
    network = Returning(lambda z: (z, z.detach().sum(dim=1, keepdim=True)))
    handler = mi.IFIMHandler(output_transform=lambda y: y[0])
    _, items = evaluate(network, loader, handler, inferer=inferer, decollate=False)
    first = torch.stack([d["image"].as_tensor() for d in dataset(files[:2])])
    assert_close(items[0]["ifim_trace"], mi.eigenspace(network.body, first).trace)


def test_a_tuple_without_output_transform_says_what_to_do(files):
    loader = DataLoader(dataset(files), batch_size=2)
    with pytest.raises(TypeError, match="output_transform=lambda y: y"):
        evaluate(Returning(lambda z: (z, z)), loader, mi.IFIMHandler(), decollate=False)


@INFERERS
@pytest.mark.parametrize("decollate", [True, False])
def test_one_logit_of_a_convolutional_head(files, tmp_path, inferer, decollate):
    loader = DataLoader(dataset(files), batch_size=2)
    network = Returning(lambda z: z[:, :, None, None], classes=1)
    handler = mi.IFIMHandler(likelihood="bernoulli", output_dir=tmp_path)
    _, items = evaluate(network, loader, handler, inferer=inferer, decollate=decollate)
    images = torch.stack([d["image"].as_tensor() for d in dataset(files)])
    logits = network.body(images).detach().double()[:, 0]
    space = mi.eigenspace(network.body, images, likelihood="bernoulli")
    assert items[0]["pred"].shape == ((1, 1, 1) if decollate else (2, 1, 1, 1))
    rows = read_table(tmp_path)
    for i, row in enumerate(rows):
        assert float(row["trace"]) == pytest.approx(space.trace[i].item(), rel=1e-5)
        assert int(row["predicted_class"]) == int(logits[i] > 0)
        assert float(row["probability"]) == pytest.approx(
            torch.sigmoid(logits[i].abs()).item(), rel=1e-5
        )


def test_one_logit_with_the_categorical_family_says_what_to_do(files):
    loader = DataLoader(dataset(files), batch_size=2)
    with pytest.raises(ValueError, match="likelihood='bernoulli'"):
        evaluate(smooth_network(3, classes=1), loader, mi.IFIMHandler())


@INFERERS
def test_independent_labels(files, tmp_path, inferer):
    loader = DataLoader(dataset(files), batch_size=2)
    network = smooth_network(3, classes=4)
    handler = mi.IFIMHandler(likelihood="bernoulli", output_dir=tmp_path)
    _, items = evaluate(network, loader, handler, inferer=inferer)
    images = torch.stack([d["image"].as_tensor() for d in dataset(files)])
    p = torch.sigmoid(network(images).detach().double())
    for i, (item, row) in enumerate(zip(items, read_table(tmp_path), strict=True)):
        # trace F = sum over the labels of p (1 - p) |grad z|², from a loop of its own
        leaf = images[i : i + 1].clone().requires_grad_()
        trace = 0.0
        for label, logit in enumerate(network(leaf)[0]):
            (grad,) = torch.autograd.grad(logit, leaf, retain_graph=True)
            trace += p[i, label] * (1 - p[i, label]) * grad.double().square().sum()
        assert_close(item["ifim_trace"], trace)
        assert item["ifim_eigenvalues"].shape == (4,)
        present = "+".join(str(k) for k in range(4) if p[i, k] > 0.5)
        assert row["predicted_class"] == (present or "none")


@INFERERS
def test_further_arguments_of_the_network(files, inferer):
    """``prepare_batch`` gives image, label, args and kwargs, as for conditioned networks."""

    def prepare_batch(batch, device=None, non_blocking=False, **kwargs):
        image, label = batch["image"].to(device), batch["label"].to(device)
        return image, label, (label[:, None],), {"scale": 3.0}

    network = Returning(lambda z, shift, scale: scale * z + shift * torch.arange(4.0))
    loader = DataLoader(dataset(files), batch_size=2)
    _, items = evaluate(
        network, loader, mi.IFIMHandler(), inferer=inferer, prepare_batch=prepare_batch
    )
    for i, item in enumerate(items):
        image = dataset(files)[i]["image"].as_tensor()[None]
        plain = Returning(lambda z, label=i % 3: 3.0 * z + label * torch.arange(4.0))
        assert_close(item["ifim_eigenvalues"], mi.eigenspace(plain, image).eigenvalues[0])


@INFERERS
def test_distributed_data_parallel_of_one_process(files, tmp_path, inferer, monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "0")  # as torchrun does; Ignite warns without
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        plain = smooth_network(3)
        network = nn.parallel.DistributedDataParallel(copy.deepcopy(plain))
        loader = DataLoader(dataset(files), batch_size=2)
        handler = mi.IFIMHandler(output_dir=tmp_path)
        _, items = evaluate(network, loader, handler, inferer=inferer)
        _, expected = evaluate(plain, loader, mi.IFIMHandler())
    finally:
        idist.finalize()  # Ignite forgets the group, and destroys it where it had noticed it
        if dist.is_initialized():
            dist.destroy_process_group()
    for item, other in zip(items, expected, strict=True):
        assert torch.equal(item["pred"], other["pred"])
        assert_close(item["ifim_eigenvalues"], other["ifim_eigenvalues"])
    assert [row["file"] for row in read_table(tmp_path)] == files


# --- engines that never fire FORWARD_COMPLETED --------------------------------------------------


def plain_engine(network, output=None):
    def step(engine, batch):
        images = batch["image"] if isinstance(batch, dict) else batch[0]
        with torch.no_grad():
            prediction = network(images)
        return prediction if output is None else {output: prediction}

    return Engine(step)


@pytest.mark.parametrize("output", [None, "pred"])
def test_plain_ignite_with_pairs(tmp_path, output):
    network = smooth_network(3)
    images = torch.randn(2, 1, 13, 11, 9)
    engine = plain_engine(network, output)
    seen = []
    mi.IFIMHandler(network, output_dir=tmp_path).attach(engine)
    recorder = Recorder()
    recorder.attach(engine)
    engine.add_event_handler("ITERATION_COMPLETED", lambda e: seen.append(e.state.ifim))
    engine.run([(images, torch.zeros(2)), [images + 1, torch.zeros(2)]])

    expected = [mi.eigenspace(network, x) for x in (images, images + 1)]
    for report, space in zip(seen, expected, strict=True):
        assert_close(report["ifim_eigenvalues"], space.eigenvalues)
    if output is None:
        assert torch.equal(recorder.items[1], network(images + 1))
    else:
        assert_close(recorder.items[1]["ifim_trace"], expected[1].trace)
        assert torch.equal(recorder.items[1]["pred"], network(images + 1))
    rows = read_table(tmp_path)
    traces = torch.cat([space.trace for space in expected])
    assert [row["file"] for row in rows] == [f"image {i}" for i in range(4)]
    assert [float(row["trace"]) for row in rows] == pytest.approx(traces.tolist(), rel=1e-6)


def test_plain_ignite_with_dictionaries(files, tmp_path):
    network = smooth_network(3).eval()
    engine = plain_engine(network, "pred")
    mi.IFIMHandler(network, output_dir=tmp_path).attach(engine)
    recorder = Recorder()
    recorder.attach(engine)
    engine.run(DataLoader(dataset(files), batch_size=2))
    assert [row["file"] for row in read_table(tmp_path)] == files
    high = recorder.items[0]["ifim_high"]
    assert high.meta["filename_or_obj"] == files[:2]
    assert torch.equal(high.affine[1], recorder.items[0]["ifim_orth"].affine[1])
    np.testing.assert_allclose(high.affine[1], oblique(1), atol=1e-5)


def test_plain_ignite_with_a_batch_transform(tmp_path):
    network, images = smooth_network(3), torch.randn(2, 1, 13, 11, 9)
    engine = Engine(lambda e, batch: None)
    handler = mi.IFIMHandler(
        network, batch_transform=lambda batch: batch["study"]["scan"], output_dir=tmp_path
    )
    handler.attach(engine)
    engine.run([{"study": {"scan": images}}])
    assert_close(engine.state.ifim["ifim_trace"], mi.eigenspace(network, images).trace)

    engine = Engine(lambda e, batch: None)
    mi.IFIMHandler(network).attach(engine)
    with pytest.raises(TypeError, match="batch_transform"):
        engine.run([{"study": {"scan": images}}])


def test_an_engine_without_network_is_refused():
    """When it runs: MONAI's engines attach their handlers before they have their network."""
    engine = Engine(lambda e, batch: None)
    mi.IFIMHandler().attach(engine)
    with pytest.raises(ValueError, match=r"got Engine without.*pass IFIMHandler\(network=...\)"):
        engine.run([(torch.randn(2, 1, 13, 11, 9), torch.zeros(2))])


def silent_update(engine, batch):
    """A custom iteration that fires no event of MONAI's."""
    images = batch["image"].to(engine.state.device)
    with engine.mode(engine.network):
        return {"image": images, "pred": engine.network(images)}


def update_that_decollates(engine, batch):
    """A custom iteration that lets MONAI decollate and postprocess."""
    engine.state.output = silent_update(engine, batch)
    engine.fire_event(IterationEvents.MODEL_COMPLETED)
    return engine.state.output


@pytest.mark.parametrize("update", [silent_update, update_that_decollates])
def test_evaluator_with_its_own_iteration(files, tmp_path, update):
    network = smooth_network(3)
    loader = DataLoader(dataset(files), batch_size=2)
    seen = []

    class Look:
        def attach(self, engine):
            engine.add_event_handler("ITERATION_COMPLETED", lambda e: seen.append(e.state.ifim))

    evaluator = SupervisedEvaluator(
        device=torch.device("cpu"),
        val_data_loader=loader,
        network=network,
        iteration_update=update,
        val_handlers=[mi.IFIMHandler(output_dir=tmp_path), Look(), recorder := Recorder()],
    )
    evaluator.run()
    images = torch.stack([d["image"].as_tensor() for d in dataset(files)])
    space = mi.eigenspace(network, images)
    assert_close(torch.cat([s["ifim_trace"] for s in seen]), space.trace)
    rows = read_table(tmp_path)
    assert [float(row["trace"]) for row in rows] == pytest.approx(space.trace.tolist(), rel=1e-5)
    assert [row["file"] for row in rows] == files
    for i, item in enumerate(recorder.items if update is update_that_decollates else []):
        assert_close(item["ifim_high"], space.split(images)[0][i])
        assert item["ifim_high"].meta["filename_or_obj"] == files[i]
        np.testing.assert_allclose(item["ifim_high"].affine, oblique(i), atol=1e-5)


# --- images without a result --------------------------------------------------------------------


class Overflowing(nn.Module):
    """NaN logits for the image whose mean is beyond 10, as float16 overflow leaves them."""

    def __init__(self):
        super().__init__()
        self.body = smooth_network(3)

    def forward(self, x):
        far = x.detach().mean(dim=(1, 2, 3, 4)) > 10
        return torch.where(far[:, None], torch.nan, 1.0) * self.body(x)


@INFERERS
def test_nan_logits_cost_one_image_its_result(files, tmp_path, inferer, caplog):
    scan = nib.load(files[1])
    nib.save(nib.Nifti1Image((scan.get_fdata() + 50).astype(np.float32), scan.affine), files[1])
    transform = Compose(geometric_preprocessing().transforms[:-1])  # intensities as in the file
    out = tmp_path / "out"
    network = Overflowing()
    with pytest.raises(RuntimeError, match=r"1 of 5 images have no result; .*scan1") as raised:
        evaluate(
            network,
            DataLoader(dataset(files, transform), batch_size=3),
            mi.IFIMHandler(output_dir=out, fail_at_end=True),
            inferer=inferer,
            postprocessing=inverted_and_saved(transform, out),
        )
    assert "ifim.csv" in str(raised.value)
    good = [0, 2, 3, 4]
    rows = read_table(out)
    assert [row["file"] for row in rows] == files
    assert rows[1]["status"] == "failed: the logits hold NaN or infinity"
    assert rows[1]["trace"] == rows[1]["predicted_class"] == rows[1]["rank"] == ""
    assert files[1] in caplog.text
    assert {p.name for p in out.glob("*_ifim_*")} == {
        f"scan{i}_ifim_{name}.nii.gz" for i in good for name in ("high", "orth")
    }
    images = torch.stack([item["image"].as_tensor() for item in dataset(files, transform)])
    space = mi.eigenspace(network, images[good])
    for trace, i in zip(space.trace, good, strict=True):
        assert rows[i]["status"] == "ok"
        assert float(rows[i]["trace"]) == pytest.approx(trace.item(), rel=1e-5)
    assert_files_on_scan_grid([files[i] for i in good], out)


@INFERERS
def test_a_nan_image_costs_one_image_its_result(files, tmp_path, inferer):
    scan = nib.load(files[3])
    values = scan.get_fdata().astype(np.float32)
    values[2, 3, 4] = np.nan
    nib.save(nib.Nifti1Image(values, scan.affine), files[3])
    transform = Compose(preprocessing().transforms[:2])
    loader = DataLoader(dataset(files, transform), batch_size=5)
    saved = []
    handler = mi.IFIMHandler(output_dir=tmp_path, postprocessing=saved.append)
    network = smooth_network(3)
    _, items = evaluate(network, loader, handler, inferer=inferer)
    rows = read_table(tmp_path)
    assert rows[3]["status"] == "failed: the preprocessed image holds NaN or infinity"
    assert [row["status"] for row in rows].count("ok") == 4
    assert len(saved) == 4
    for i in (0, 1, 2, 4):
        image = dataset(files, transform)[i]["image"].as_tensor()[None]
        assert_close(items[i]["ifim_trace"], mi.eigenspace(network, image).trace[0])


def test_without_fail_at_end_the_run_ends_in_peace(files, tmp_path, caplog):
    loader = DataLoader(dataset(files), batch_size=3)
    network = Returning(lambda z: z * torch.nan)
    evaluate(network, loader, mi.IFIMHandler(output_dir=tmp_path))
    assert all(row["status"].startswith("failed:") for row in read_table(tmp_path))
    assert "5 of 5 images have no result" in caplog.text


@INFERERS
def test_a_dead_network_gives_zeros_and_a_sentence(files, tmp_path, inferer):
    network = smooth_network(3)
    nn.init.zeros_(network[-1].weight)
    loader = DataLoader(dataset(files), batch_size=2)
    handler = mi.IFIMHandler(output_dir=tmp_path, fail_at_end=True)
    _, items = evaluate(network, loader, handler, inferer=inferer)
    for item in items:
        assert torch.equal(item["ifim_orth"], item["image"])
        assert not item["ifim_high"].any()
        assert not item["ifim_eigenvalues"].any()
    for row in read_table(tmp_path):
        assert row["status"] == "ok, but the prediction does not react to the image at all"
        assert (float(row["trace"]), int(row["rank"]), float(row["trace_share"])) == (0, 0, 0)


def test_the_table_is_whole_or_not_there(files, tmp_path, monkeypatch):
    """A crash while writing leaves the older table."""
    loader = DataLoader(dataset(files[:2]), batch_size=2)
    evaluate(smooth_network(3), loader, mi.IFIMHandler(output_dir=tmp_path))
    before = read_table(tmp_path)

    def fail(*args):
        raise OSError("disk full")

    monkeypatch.setattr(csv.DictWriter, "writerows", fail)
    with pytest.raises(OSError, match="disk full"):
        evaluate(smooth_network(3, seed=1), loader, mi.IFIMHandler(output_dir=tmp_path))
    assert read_table(tmp_path) == before


# --- validation during training -----------------------------------------------------------------


def trainable_network():
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv3d(1, 4, 3),
            nn.BatchNorm3d(4),
            nn.ReLU(inplace=True),
            nn.Dropout(0.4),
            nn.AdaptiveAvgPool3d(2),
            nn.Flatten(),
            nn.Linear(32, 3),
        )


def train(files, evaluator_handlers=None, train_handlers=(), evaluator_options=None):
    """Three epochs; everything that training leaves behind.

    ``evaluator_handlers`` None means: no validation at all.
    """
    torch.manual_seed(11)
    network = trainable_network()
    optimizer = torch.optim.Adam(network.parameters(), 1e-2)
    losses = []

    class Losses:
        def attach(self, engine):
            engine.add_event_handler(
                "ITERATION_COMPLETED",
                lambda e: losses.append([float(item["loss"]) for item in e.state.output]),
            )

    evaluator = SupervisedEvaluator(
        device=torch.device("cpu"),
        val_data_loader=DataLoader(dataset(files[:3]), batch_size=2),
        network=network,
        val_handlers=list(evaluator_handlers or ()) or None,
        **(evaluator_options or {}),
    )
    trainer = SupervisedTrainer(
        device=torch.device("cpu"),
        max_epochs=3,
        train_data_loader=DataLoader(dataset(files), batch_size=2, shuffle=True),
        network=network,
        optimizer=optimizer,
        loss_function=nn.CrossEntropyLoss(),
        train_handlers=[ValidationHandler(1, evaluator), *train_handlers, Losses()],
    )
    trainer.run()
    moments = [
        {k: v.clone() if torch.is_tensor(v) else v for k, v in state.items()}
        for state in optimizer.state_dict()["state"].values()
    ]
    return {
        "state": {k: v.clone() for k, v in network.state_dict().items()},
        "moments": moments,
        "losses": losses,
        "random": torch.get_rng_state(),
        "flags": [p.requires_grad for p in network.parameters()],
        "grads": [p.grad.clone() for p in network.parameters()],
        "modes": [m.training for m in network.modules()],
    }


def assert_identical(run, reference):
    assert run["losses"] == reference["losses"]
    for key, value in reference["state"].items():
        assert torch.equal(run["state"][key], value), key
    for one, other in zip(run["moments"], reference["moments"], strict=True):
        assert all(torch.equal(torch.as_tensor(one[k]), torch.as_tensor(other[k])) for k in other)
    for one, other in zip(run["grads"], reference["grads"], strict=True):
        assert torch.equal(one, other)
    assert run["flags"] == reference["flags"]
    assert run["modes"] == reference["modes"]
    assert torch.equal(run["random"], reference["random"])


@INFERERS
def test_training_with_validation_is_bit_identical(files, tmp_path, inferer):
    reference = train(files)
    assert len(reference["losses"]) == 9
    assert reference["losses"][0] != reference["losses"][-1]
    options = {"inferer": inferer, "decollate": False}
    run = train(files, [mi.IFIMHandler(output_dir=tmp_path)], evaluator_options=options)
    assert_identical(run, reference)
    assert len(read_table(tmp_path)) == 3


def test_training_with_the_handler_on_the_trainer_is_bit_identical(files, tmp_path):
    reference = train(files)
    run = train(files, train_handlers=[mi.IFIMHandler(output_dir=tmp_path)])
    assert_identical(run, reference)
    assert [row["file"] for row in read_table(tmp_path)] == files


def test_training_in_every_iteration_serves_the_trainers_batches(files, tmp_path):
    """On the trainer the components are those of the weights before the step, at rest."""
    network = trainable_network()
    seen = []

    def expected(engine):
        image = engine.state.batch["image"].as_tensor()
        seen.append((mi.eigenspace(network, image).trace, engine.state.output["ifim_trace"]))

    class Compare:
        def attach(self, engine):
            engine.add_event_handler(IterationEvents.FORWARD_COMPLETED, expected)

    SupervisedTrainer(
        device=torch.device("cpu"),
        max_epochs=2,
        train_data_loader=DataLoader(dataset(files), batch_size=2),
        network=network,
        optimizer=torch.optim.SGD(network.parameters(), 0.1),
        loss_function=nn.CrossEntropyLoss(),
        train_handlers=[mi.IFIMHandler(), Compare()],
    ).run()
    assert len(seen) == 6
    for one, other in seen:
        assert_close(other, one)


def test_messages_reach_the_log_once(files, tmp_path, caplog):
    """Nothing is logged as an error when nothing is wrong."""
    with caplog.at_level(logging.WARNING, logger="monai_ifim"):
        loader = DataLoader(dataset(files), batch_size=2)
        evaluate(smooth_network(3), loader, mi.IFIMHandler(output_dir=tmp_path))
    assert [r for r in caplog.records if r.name.startswith("monai_ifim")] == []


def test_network_of_the_handler_not_of_the_engine():
    """A graph that the inferer kept of the engine's network says nothing of another one."""
    engine_network, other = smooth_network(2, seed=1), smooth_network(2, seed=2)
    images = torch.randn(2, 1, 13, 11, generator=torch.Generator().manual_seed(0))
    batches = [{"image": images, "label": torch.zeros(2)}]
    handler = mi.IFIMHandler(other)
    evaluator = SupervisedEvaluator(
        "cpu",
        batches,
        network=engine_network,
        inferer=mi.IFIMInferer(),
        val_handlers=[handler],
        decollate=False,
    )
    evaluator.run()
    expected = mi.eigenspace(other, images).trace
    torch.testing.assert_close(evaluator.state.output["ifim_trace"], expected)


def test_error_that_ends_the_run_keeps_the_rows_and_names_the_batch(tmp_path):
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    batches = [{"image": torch.randn(1, 1, n, n), "label": torch.zeros(1)} for n in (8, 8, 9, 8)]
    handler = mi.IFIMHandler(output_dir=tmp_path, fail_at_end=True)
    evaluator = SupervisedEvaluator("cpu", batches, network=network, val_handlers=[handler])
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        evaluator.run()
    with (tmp_path / "ifim.csv").open(newline="") as file:
        statuses = [row["status"] for row in csv.DictReader(file)]
    assert statuses[:2] == ["ok", "ok"]
    assert statuses[2].startswith("failed: the run ended here, RuntimeError: mat1")
