"""The benchmarks still run, at a tiny size, and the page shows the committed numbers."""

import json
from pathlib import Path

import pytest
import torch

from benchmarks import (
    drift,
    engines,
    epoch,
    harness,
    ideas,
    inference_run,
    large_k,
    lower_bound,
    memory,
    page,
    peer_methods,
    peers,
    pictures,
    pooling,
    profile,
    same_numbers,
    segmentation,
    throughput,
    volume,
    volumes,
)
from benchmarks.cases import densenet, reference, relative_error, resnet_2d
from benchmarks.cases import lower_bound as least

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "docs" / "performance"

# What the peers warn about when they are imported.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")


def measured(module, tmp_path: Path, *further: str) -> dict:
    """The file of a smoke test, every row as wide as its heading."""
    file = tmp_path / "numbers.json"
    module.main(["--quick", *further, "--output", str(file)])
    record = json.loads(file.read_text(encoding="utf-8"))
    assert record["quick"]
    for part in (record, *record.get("tables", ())):
        assert part["rows"]
        assert {len(row) for row in part["rows"]} == {len(part["columns"])}
        assert "failed" not in json.dumps(part["rows"])
    return record


def test_lower_bound(tmp_path):
    rows = measured(lower_bound, tmp_path)["rows"]
    assert all(row[4] < 1e-4 for row in rows)  # the error
    assert all(row[5] > 0 and row[6] > 0 for row in rows)  # both peaks


def test_pooling(tmp_path):
    assert all(row[3][0] > 0 and row[4][0] > 0 for row in measured(pooling, tmp_path)["rows"])


def test_peers(tmp_path):
    record = measured(peers, tmp_path)
    assert (tmp_path / record["figure"]).stat().st_size > 10_000
    errors = {row[0]: row[1] for row in record["tables"][1]["rows"]}
    for name, _, _, costly in peer_methods.METHODS:
        # Those that iterate, or regularise a sure prediction, are some percent off.
        assert errors[name] is None or errors[name] < (0.5 if costly else 1e-3), name


def test_drift(tmp_path):
    """Two halves of the images are nearer than random weights, even after four steps."""
    file = tmp_path / "drift.json"
    drift.main(["--quick", "--only", "ifim_signal_2d", "--output", str(file)])
    found = json.loads(file.read_text(encoding="utf-8"))["networks"]["ifim_signal_2d"]
    assert len(found["accuracy"]) == drift.CHECKPOINTS
    for ranks in found["angles"].values():
        angles = {name: angle["value"] for name, angle in ranks["1"].items()}
        assert all(0 <= angle <= 90 for angle in angles.values())
        assert angles["random weights"] > angles["other half of the images"]
        assert angles["checkpoint 1 to 2"] > 0.05  # each is a network of its own


def test_profile(tmp_path):
    for row in measured(profile, tmp_path)["rows"]:
        assert row[1] == pytest.approx(sum(row[2:-1]), rel=1e-3)
        assert all(row[2:-1])  # every step takes some time


@pytest.mark.slow
def test_pictures(tmp_path):
    assert len(measured(pictures, tmp_path)["rows"]) == len(pictures.COMMANDS)


def test_absent_peers_are_no_error(monkeypatch):
    monkeypatch.setattr(peers, "METHODS", [("other", print, "no-such-distribution", False)])
    monkeypatch.setattr(peers, "peak_memory", lambda *_: memory.Peak(1.0))
    options = harness.read_options(None, ["--quick"])
    assert peers.measure(resnet_2d(32, 2, 1), True, options).ratio == {"other": "not installed"}


def test_epoch(tmp_path):
    plain, shared, alone = measured(epoch, tmp_path)["rows"]
    assert plain[3] is None
    assert alone[3] == pytest.approx(shared[3] + 1, rel=1e-3)  # four digits are kept


def test_pictures_of_an_epoch(tmp_path):
    numbers, _, one, two = measured(epoch, tmp_path, "--pictures")["rows"]
    assert numbers[2] == [0, 0, 0]
    assert [one[0], two[0]] == ["and 1 drawn", "and 2 drawn"]
    assert one[2][0] > 0


def test_ideas(tmp_path):
    rows = measured(ideas, tmp_path)["rows"]
    assert all(row[3] < (0.3 if "bfloat16" in row[1] else 1e-4) for row in rows)


def test_throughput(tmp_path):
    record = measured(throughput, tmp_path)
    assert sum(row[3] for row in record["tables"][0]["rows"]) <= 100.1


def test_large_k(tmp_path):
    for part in measured(large_k, tmp_path)["tables"]:
        for name, *_, error, angle, _ in part["rows"]:
            if error is None:  # the reference itself
                continue
            assert error < 2e-3, name
            assert angle < 2e-2, name


def test_segmentation(tmp_path):
    assert all(row[9] < 1e-3 for row in measured(segmentation, tmp_path)["rows"])


def test_volume(tmp_path):
    plain, ours, saving = measured(volume, tmp_path)["rows"]
    assert saving[3] < ours[3] / 2  # what the graph keeps
    assert plain[2] > 0


def test_volumes(tmp_path):
    record = measured(volumes, tmp_path)
    numbers, ours, waiting, stock = record["rows"]
    assert numbers[2] == [1, 1, 1]
    assert min(ours[2] + waiting[2] + stock[2]) > 0
    assert len(record["tables"][0]["rows"]) == 5  # with isal


@pytest.mark.slow
def test_inference_run(tmp_path):
    assert len(measured(inference_run, tmp_path)["rows"]) == 2


@pytest.mark.slow
def test_engines(tmp_path):
    pytest.importorskip("ray", reason="needs Ray: pip install 'monai_ifim[cluster]'")
    record = measured(engines, tmp_path)
    assert len(record["rows"]) == len(engines.KINDS)
    assert all(row[2][0] > 0 and row[4][0] > 0 for row in record["rows"])


def test_journals_of_long_runs(tmp_path):
    engines.write_journals(tmp_path, 200)
    found = engines.look_back(tmp_path)
    assert found["read"] > 0
    assert found["peak"] >= found["before"]
    assert len((tmp_path / "ifim.csv").read_text().splitlines()) == 201


def test_costs_of_blocks():
    seconds = {engines.BASE: 1.0, engines.ONE_RAY: 1.3, engines.SMALL: 3.1}
    rounds = {kind: [engines.Run(0, each, 0)] for kind, each in seconds.items()}
    (image,), (block,) = engines.costs(rounds, 100)
    assert (image, block) == pytest.approx((1.0, 20.0))


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="needs the history")
def test_same_numbers(capsys):
    assert (
        same_numbers.main(["--against", "HEAD", "--only", "2D, one image", "nearly certain labels"])
        == 0
    )
    assert "2 cases: the same" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("case", "change", "found"),
    [
        ("2D, float32", 0.0, True),
        ("2D, float32", 1e-7, False),
        ("2D, truncated", 1e-7, True),
        ("2D, truncated", 1e-4, False),
    ],
)
def test_other_numbers_are_found(case, change, found):
    numbers = torch.tensor([1.0, 2.0], dtype=torch.float64)
    before = {case: {"entry point": {"trace": numbers, "ifim.csv": "file,trace\na,1\n"}}}
    now = {case: {"entry point": {"trace": numbers + change, "ifim.csv": "file,trace\na,1\n"}}}
    assert same_numbers.compare(before, now) is found


def test_a_value_that_is_gone_is_found():
    before = {"2D, truncated": {"entry point": {"trace": torch.ones(2), "rank": torch.ones(2)}}}
    now = {"2D, truncated": {"entry point": {"trace": torch.ones(2)}}}
    assert not same_numbers.compare(before, now)
    assert not same_numbers.compare(before, {})


def test_reference_agrees_with_the_definition():
    network, images = densenet(32, 3, 2, confidence=0.9).build(torch.device("cpu"))
    double, x = network.double(), images[:1].double().requires_grad_()
    logs = double(x)[0].log_softmax(dim=0)
    scores = torch.stack([torch.autograd.grad(z, x, retain_graph=True)[0].flatten() for z in logs])
    p = logs.detach().exp()
    assert float(p.max()) == pytest.approx(0.9)
    fisher = scores.T @ (p[:, None] * scores)
    exact = reference(network, images)
    torch.testing.assert_close(torch.linalg.eigvalsh(fisher).flip(0)[:2], exact[0])
    assert relative_error(exact.tolist(), exact, -1) == 0


def ones(device: torch.device) -> tuple[torch.Tensor]:
    return (torch.ones(1000, device=device),)


def doubled(values: torch.Tensor) -> torch.Tensor:
    return torch.ones(50_000_000) * 2 + values[0]


def failing(values: torch.Tensor) -> None:
    raise ValueError(f"no use for {len(values)}")


def test_peak_memory():
    peak = memory.peak_memory(ones, doubled, torch.device("cpu"))
    assert 350 < peak.megabytes < 700
    failed = memory.peak_memory(ones, failing, torch.device("cpu"))
    assert failed.cell == "failed: ValueError: no use for 1000"


def test_interleaved_rounds():
    calls = []
    options = harness.read_options(None, ["--repeats", "3"])

    def broken():
        raise RuntimeError("not today")

    functions = {"a": lambda: calls.append("a"), "b": lambda: calls.append("b"), "c": broken}
    times = harness.interleave(functions, options)
    assert "".join(calls) == "ab" + "ab" + "ba" + "ab"
    assert times.ratio("a", "a") == [1, 1, 1]
    assert times.ratio("c", "a") == times.spread("c") == "failed: RuntimeError: not today"


def test_rounds_stop_in_time():
    options = harness.read_options(None, ["--repeats", "9", "--seconds", "0"])
    assert len(harness.interleave({"a": list}, options).rounds["a"]) == 2


def test_the_lower_bound_leaves_the_network():
    network, images = resnet_2d(32, 2, 1).build(torch.device("cpu"))
    least(network, images)
    assert all(p.requires_grad and p.grad is None for p in network.parameters())


def test_the_page_shows_the_committed_numbers(monkeypatch):
    monkeypatch.chdir(ROOT)  # the page names the paths that it was given
    text = page.generate(Path("docs/performance"), Path("docs/performance.md"))
    assert text == (ROOT / "docs" / "performance.md").read_text(encoding="utf-8")


def test_pictures_are_there():
    for file in RESULTS.glob("*.json"):
        figure = json.loads(file.read_text(encoding="utf-8")).get("figure")
        assert figure is None or (RESULTS / figure).is_file()


def test_page(tmp_path):
    record = {
        "title": "Speed",
        "claim": "It is fast.",
        "command": "python -m benchmarks.speed",
        "environment": {"processor": "one", "device": "cpu"},
        "columns": ["what", "s"],
        "rows": [["a", [0.5, 0.25, 1.0]], ["b", None]],
    }
    (tmp_path / "speed.json").write_text(json.dumps(record))
    text = page.generate(tmp_path, tmp_path / "page.md")
    assert (
        "## Speed\n\nIt is fast.\n\n| what | s |\n| --- | --- |\n| a | 0.500 (0.250–1.00) |" in text
    )
    assert "`python -m benchmarks.speed`; processor one, device cpu." in text
    (tmp_path / "speed.json").write_text(json.dumps(record | {"quick": True}))
    with pytest.raises(ValueError, match="smoke test"):
        page.generate(tmp_path, tmp_path / "page.md")
    (tmp_path / "speed.json").write_text(json.dumps({"title": "x"}))
    with pytest.raises(ValueError, match=r"lacks .*claim"):
        page.generate(tmp_path, tmp_path / "page.md")
