"""Shares of the trace through the handler: by organ of a label map, and by channel."""

import pytest
import torch
from monai.data import DataLoader, Dataset, MetaTensor
from torch import nn

import monai_ifim as mi
from _helpers.comparisons import assert_close
from _helpers.networks import smooth_network
from _helpers.recorders import evaluate
from _helpers.tables import read_table
from monai_ifim.data.tables import read_table as read_rows

SIZES = pytest.mark.parametrize("size", [1, 2, 3])


def items(count=3, channels=2, shape=(13, 11)):
    """Images with an organ 1 in all of them, and 2 in all but the last."""
    generator = torch.Generator().manual_seed(0)
    made = []
    for i in range(count):
        organs = torch.zeros(1, *shape)
        organs[:, 2:6, 2:7] = 1
        if i < count - 1:
            organs[:, 8:11, 3 + i : 8] = 2
        image = torch.randn(channels, *shape, generator=generator)
        made.append({"image": MetaTensor(image), "organs": MetaTensor(organs)})
    return made


def run(data, folder, question, size=2, **options):
    network = smooth_network(2, channels=2)
    handler = mi.IFIMHandler(output_dir=folder, questions=[question], **options)
    evaluate(network, DataLoader(Dataset(data), batch_size=size), handler)
    return network, read_table(folder)


def numbers(row, start):
    return {n.removeprefix(start): float(v) for n, v in row.items() if n.startswith(start)}


@SIZES
def test_organs_and_channels(tmp_path, size):
    data = items()
    question = mi.ShareColumns("organs", {"liver": 1, "spleen": 2}, channels=["T1", "T2"])
    network, rows = run(data, tmp_path, question, size)
    for row, item in zip(rows, data, strict=True):
        diagonal = mi.eigenspace(network, item["image"].as_tensor()[None]).sensitivity()[0]
        organs, total = item["organs"].as_tensor()[0], diagonal.sum()
        shares = numbers(row, "share_")
        assert list(shares) == ["liver", "spleen", "other"]
        for name, label in (("liver", 1), ("spleen", 2), ("other", 0)):
            assert_close(shares[name], diagonal[:, organs == label].sum() / total)
        assert sum(shares.values()) == pytest.approx(1, abs=1e-10)
        assert_close(numbers(row, "channel_share_")["T1"], diagonal[0].sum() / total)
        assert sum(numbers(row, "channel_share_").values()) == pytest.approx(1, abs=1e-10)
    assert numbers(rows[-1], "share_")["spleen"] == 0  # absent: no failure


def test_labels_that_are_not_named(tmp_path):
    _, rows = run(items(), tmp_path, mi.ShareColumns("organs"))
    assert list(numbers(rows[0], "share_")) == ["0", "1", "2", "other"]
    assert rows[0]["share_2"] != ""
    assert rows[2]["share_2"] == ""
    for row in rows:
        shares = [float(row[f"share_{n}"] or 0) for n in ("0", "1", "2", "other")]
        assert sum(shares) == pytest.approx(1, abs=1e-10)


def test_no_columns_for_one_channel_or_without_wish(tmp_path):
    network = smooth_network(2)
    handler = mi.IFIMHandler(output_dir=tmp_path, questions=[mi.ShareColumns()])
    evaluate(network, DataLoader(Dataset(items(channels=1)), batch_size=2), handler)
    assert not [name for name in read_table(tmp_path)[0] if name.startswith("channel_share")]
    _, rows = run(items(), tmp_path / "two", mi.ShareColumns("organs", [1], channels=False))
    assert not [name for name in rows[0] if name.startswith("channel_share")]


def test_a_prediction_that_does_not_react_has_no_shares(tmp_path):
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(2 * 13 * 11, 3))
    torch.nn.init.zeros_(network[1].weight)
    question = mi.ShareColumns("organs", [1])
    handler = mi.IFIMHandler(output_dir=tmp_path, questions=[question])
    evaluate(network, DataLoader(Dataset(items()), batch_size=3), handler)
    for row in read_table(tmp_path):
        assert row["status"].startswith("ok, but")
        assert row["share_1"] == row["share_other"] == row["channel_share_0"] == ""


@SIZES
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda o: o + 0.5, "expected label maps of whole numbers under 'organs', got fractions"),
        (lambda o: o[:, :-1], r"expected label maps (1, 1, 13, 11) under 'organs'"),
        (lambda o: torch.cat([o, o]), "numbers in one channel"),
    ],
)
def test_a_label_map_that_does_not_fit(tmp_path, size, change, message):
    """One image's fault where images come alone; of a batch it is that of all."""
    data = items()
    wrong = [1] if size == 1 or "fractions" in message else range(3)
    for i in wrong:
        data[i]["organs"] = MetaTensor(change(data[i]["organs"].as_tensor()))
    _, rows = run(data, tmp_path, mi.ShareColumns("organs", [1]), size)
    for i, row in enumerate(rows):
        if i in wrong:
            assert row["status"].startswith("failed: no shares: ValueError: expected label maps")
            assert message.split(") ")[0] in row["status"] or message in row["status"]
        else:
            assert row["status"] == "ok"
            assert row["share_1"] != ""


def test_a_batch_without_the_axis_of_channels(tmp_path):
    data = items()
    for item in data:
        item["organs"] = item["organs"].as_tensor()[0]
    _, rows = run(data, tmp_path, mi.ShareColumns("organs", [1]), size=3)
    assert all("expected label maps (1, 1, 13, 11)" in row["status"] for row in rows)


def test_no_label_maps_end_the_run(tmp_path):
    with pytest.raises(
        KeyError, match="expected label maps under 'organ' in the batch, got organs"
    ):
        run(items(), tmp_path, mi.ShareColumns("organ", [1]))
    rows = read_table(tmp_path)
    assert len(rows) < 3 + 1  # at the first batch


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((None, [1]), "expected the key of label maps with labels"),
        (("organs", {"a": 1, "b": 1}), "expected the numbers of labels, each once"),
        (("organs", [1.5]), "expected the numbers of labels"),
        ((3,), "expected the key of label maps"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        mi.ShareColumns(*arguments)


def test_what_a_configuration_says(tmp_path):
    bundle = tmp_path / "bundle"
    (bundle / "configs").mkdir(parents=True)
    (bundle / "configs" / "metadata.json").write_text(
        '{"network_data_format": {"inputs": {"image": {"channel_def": {"0": "T1", "1": "T2"}}, '
        '"organs": {"channel_def": {"0": "background", "1": "liver"}}}, "outputs": {"pred": '
        '{"format": "segmentation", "channel_def": {"0": "none", "1": "lesion"}}}}}'
    )
    (shares,) = mi.chosen_questions("organs", folder=bundle)
    assert shares.labels == {"background": 0, "liver": 1}
    assert shares.channels == ["T1", "T2"]
    (shares,) = mi.chosen_questions({"key": "lesions"}, folder=bundle)
    assert shares.labels == {"none": 0, "lesion": 1}
    (shares,) = mi.chosen_questions({"key": "x", "labels": [4]}, folder=tmp_path)
    assert shares.labels == {"4": 4}
    assert mi.chosen_questions(True, folder=tmp_path)[0].key is None
    assert mi.chosen_questions(None, []) == []
    with pytest.raises(ValueError, match=r"got 'label_s' \(did you mean labels\?\)"):
        mi.chosen_questions({"key": "x", "label_s": [4]})
    with pytest.raises(ValueError, match="got 3; write organs"):
        mi.chosen_questions(3)


@pytest.mark.parametrize("size", [1, 2])
def test_a_label_map_of_another_affine(size, tmp_path):
    """Mirrored, or moved: of the size of its image, and of other places."""
    affine = torch.diag(torch.tensor([2.0, 3.0, 1.0, 1.0], dtype=torch.float64))
    mirrored = affine.clone()
    mirrored[0, 0], mirrored[0, 3] = -2.0, 22.0
    organs = torch.zeros(1, 12, 11)
    organs[:, :4] = 1
    data = [
        {
            "image": MetaTensor(torch.randn(1, 12, 11), affine=affine),
            "organs": MetaTensor(organs, affine=mirrored if i == 1 else affine + 1e-5),
        }
        for i in range(3)
    ]
    network = nn.Sequential(nn.Flatten(), nn.Linear(132, 3))
    handler = mi.IFIMHandler(output_dir=tmp_path, questions=[mi.ShareColumns("organs")])
    evaluate(network, DataLoader(data, batch_size=size), handler)
    statuses = [row["status"] for row in read_table(tmp_path)]
    assert statuses[0] == statuses[2] == "ok"
    assert "on the grid of the preprocessed image, got another affine" in statuses[1]


def test_a_region_that_is_named_as_the_rest():
    with pytest.raises(ValueError, match="expected regions of other names than 'other'"):
        mi.ShareColumns("organs", {"liver": 1, "other": 2})
    assert mi.ShareColumns("organs", {"liver": 1, "other": 2}, other="rest").other == "rest"


def test_a_region_whose_name_ends_as_texts_do(tmp_path):
    pytest.importorskip("pyarrow")
    organs = torch.zeros(1, 12, 11)
    organs[:, :4] = 1
    data = [{"image": torch.randn(1, 12, 11), "organs": organs} for _ in range(2)]
    network = nn.Sequential(nn.Flatten(), nn.Linear(132, 3))
    question = mi.ShareColumns("organs", {"tumor_class": 1, "found_by": 2})
    handler = mi.IFIMHandler(output_dir=tmp_path, filename="ifim.parquet", questions=[question])
    evaluate(network, DataLoader(data, batch_size=2), handler)
    (row, _) = read_rows(tmp_path / "ifim.parquet")
    assert 0 < row["share_tumor_class"] < 1
    assert row["share_found_by"] == 0.0
