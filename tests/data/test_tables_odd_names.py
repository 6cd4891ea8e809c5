"""Tables with file names that are no UTF-8, look like formulas, or hold the delimiters."""

import csv
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from ignite.engine import Engine
from monai.data import MetaTensor

import monai_ifim as mi
from _helpers.networks import smooth_network
from _helpers.recorders import evaluate
from _helpers.scans import SHAPES, dataset, unreadable, write_scan
from monai_ifim.data import tables
from monai_ifim.data.run_table.predictions import PredictionSaver

pytestmark = pytest.mark.filterwarnings("ignore:NvImgCodecPydicomReader:UserWarning")

NAMES = [
    os.fsdecode(b"Gr\xf6\xdfe.nii"),
    os.fsdecode(b"\xff\xfe"),
    "half \udcc3 and \\udcc3 spelled",
    "C:\\udir\\x",
    "C:\\udf00\\x",
    "two\nlines",
    "carriage\rreturn",
    'quo"ted, and; comma',
    "'apostrophe",
    "=cmd|' /C calc'!A0",
    "+1",
    "-1.5",
    "@SUM(A1)",
    "\ttab",
    "  =spaced",
    "'=guarded",
    "''+twice",
    "\uff1dwide",
    "\U0001f9e0 brain \U0001f469\u200d\u2695\ufe0f",
    "\u202eright to left\u202c \u05d0\u05d1\u05d2",
    "x" * 255,
    "'",
    "",
]
FIRST = "=+-@\t\r\n\uff1d\uff0b\uff0d\uff20"


@pytest.mark.parametrize("name", ["ifim.csv", "ifim.parquet"])
def test_every_name_comes_back(tmp_path, name):
    if name.endswith("parquet"):
        pytest.importorskip("pyarrow")
    rows = [
        {"file": file, "predicted_class": "-1", "trace": -1.5, "rank": 2, "status": "ok"}
        for file in NAMES
    ]
    tables.write_table(rows, tmp_path / name)
    found = tables.read_table(tmp_path / name)
    assert [row["file"] for row in found] == NAMES
    assert {str(row["trace"]) for row in found} == {"-1.5"}
    assert {row["predicted_class"] for row in found} == {"-1"}


def test_no_text_of_a_csv_begins_like_a_formula_and_numbers_are_left_alone(tmp_path):
    rows = [{"file": file, "status": "ok", "trace": -2.25} for file in NAMES]
    tables.write_table(rows, tmp_path / "ifim.csv")
    with (tmp_path / "ifim.csv").open(newline="", encoding="utf-8", errors="surrogateescape") as f:
        cells = list(csv.DictReader(f))
    assert len(cells) == len(NAMES)
    assert not [row["file"] for row in cells if row["file"].strip(" ").startswith(tuple(FIRST))]
    assert {row["trace"] for row in cells} == {"-2.25"}
    # Nothing else is touched: a plain reader has the name.
    plain = [n for n in NAMES if not n.strip(" '").startswith(tuple(FIRST))]
    assert [row["file"] for row in cells if row["file"] in NAMES] == plain


def test_the_bytes_of_a_name_are_in_the_csv_and_parquet_is_utf8(tmp_path):
    name = os.fsdecode(b"M\xfcller \xe9.png")
    tables.write_table([{"file": name, "status": "ok"}], tmp_path / "t.csv")
    assert b"\nM\xfcller \xe9.png,".replace(b"\n", b"\r\n") in (tmp_path / "t.csv").read_bytes()
    parquet = pytest.importorskip("pyarrow.parquet")
    tables.write_table([{"file": name, "status": "ok"}], tmp_path / "t.parquet")
    (row,) = parquet.read_table(tmp_path / "t.parquet").to_pylist()
    assert row["file"] == "M\\udcfcller \\udce9.png"


def test_a_surrogate_that_stands_for_no_byte_is_spelled_out(tmp_path):
    """As Windows has in names; one such name must not cost the table."""
    tables.write_table([{"file": "a\ud800b", "status": "ok"}], tmp_path / "ifim.csv")
    assert tables.read_table(tmp_path / "ifim.csv")[0]["file"] == "a\\ud800b"


def scans(folder, names):
    """Scans under odd names, written by a name that every library takes."""
    folder.mkdir()
    for number, name in enumerate(names):
        write_scan(folder / "plain.nii.gz", SHAPES[3], number)
        os.rename(folder / "plain.nii.gz", os.path.join(os.fsencode(folder), name))
    return [os.path.join(folder, os.fsdecode(name)) for name in names]


def test_a_run_over_odd_names_has_volumes_and_rows_for_all(tmp_path, caplog):
    names = [b"M\xfcller.nii.gz", b'a, "b".nii.gz', b"two\nlines.nii.gz", "\u05d0.nii.gz".encode()]
    files = [*scans(tmp_path / "in", names), unreadable(tmp_path / "in" / "bad\udcff\n.nii.gz")]
    data = dataset(files)
    save = mi.SaveComponentsd(["ifim_high"], tmp_path / "out", data.transform)
    loader = mi.FaultTolerantDataLoader(data, batch_size=1)
    handler = mi.IFIMHandler(output_dir=tmp_path / "out", postprocessing=save, volumes="high")
    with caplog.at_level(logging.INFO):
        evaluate(smooth_network(3), loader, handler, inferer=mi.IFIMInferer())
    rows = {row["file"]: row["status"] for row in tables.read_table(tmp_path / "out" / "ifim.csv")}
    assert set(rows) == set(files)
    assert [file for file in files if rows[file] != "ok"] == files[-1:]
    written = {f for f in os.listdir(os.fsencode(tmp_path / "out")) if f.endswith(b".nii.gz")}
    assert written == {name.replace(b".nii.gz", b"_ifim_high.nii.gz") for name in names}
    for record in caplog.records:
        if record.name.startswith("monai_ifim"):
            message = record.getMessage()
            message.encode("utf-8")
            assert "\n" not in message
    assert "bad\\udcff\\n.nii.gz" in caplog.text


@pytest.mark.parametrize("locale", [{"LC_ALL": "C", "PYTHONUTF8": "0"}, {"LC_ALL": "C.UTF-8"}])
def test_in_any_locale_the_table_has_the_same_bytes(tmp_path, locale):
    name = "J\u00f6rg \u60a3\u8005".encode() + b" \xf6"
    script = (
        "import os; from pathlib import Path; from monai_ifim.data.tables import *\n"
        "(name,) = os.listdir('in')\n"
        "write_table([{'file': name, 'status': 'ok'}], Path('out.csv'))\n"
        "assert read_table('out.csv')[0]['file'].encode('utf-8', 'surrogateescape') == "
        "os.fsencode(name)\n"
    )
    (tmp_path / "in").mkdir()
    Path(os.fsdecode(os.path.join(os.fsencode(tmp_path), b"in", name))).touch()
    subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path,
        env={**os.environ, "PYTHONCOERCECLOCALE": "0", **locale},
        check=True,
    )
    assert b"\r\n" + name + b"," in (tmp_path / "out.csv").read_bytes()


def predict(folder, files, outputs, class_names=(), epochs=1):
    """``predictions.csv`` of an engine that puts out these probabilities, two images a batch."""
    images = [MetaTensor(torch.zeros(1, 2, 2), meta={"filename_or_obj": f}) for f in files]
    items = [{"image": i, "pred": o} for i, o in zip(images, outputs, strict=True)]
    batches = [items[i : i + 2] for i in range(0, len(items), 2)]
    engine = Engine(lambda _, batch: batch)
    PredictionSaver(folder, class_names=class_names).attach(engine)
    engine.run(batches, max_epochs=epochs)
    with (folder / "predictions.csv").open(newline="", encoding="utf-8", errors="strict") as file:
        return list(csv.reader(file))


def test_predictions_have_a_header_class_names_and_one_row_each(tmp_path):
    outputs = [torch.tensor([0.1, 0.9]), torch.tensor([0.7, 0.3]), torch.tensor([0.5, 0.5])]
    head, *rows = predict(tmp_path, ["c, d", "b", 'a"'], outputs, ["no, none", "=yes"], epochs=2)
    assert head == ["file", "no, none", "'=yes", "predicted_class"]
    assert rows == [
        ['a"', "0.5", "0.5", "no, none"],
        ["b", "0.7", "0.3", "no, none"],
        ["c, d", "0.1", "0.9", "'=yes"],
    ]


def test_columns_of_predictions_are_distinct_and_numbered_where_names_are_missing(tmp_path):
    outputs = [torch.tensor([0.25, 0.5, 0.25], dtype=torch.float64)]
    head, row = predict(tmp_path, ["a"], outputs, ["file", "b", "b"])
    assert head == ["file", "file (0)", "b (1)", "b (2)", "predicted_class"]
    assert row == ["a", "0.25", "0.5", "0.25", "b"]
    head, row = predict(tmp_path, ["a"], outputs, ["b"])
    assert head == ["file", "0", "1", "2", "predicted_class"]
    assert row[-1] == "1"


def test_predictions_of_another_kind_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"expected 2 probabilities .* got 1; use MONAI's"):
        predict(tmp_path, ["a"], [torch.tensor([0.3])])
    assert not list(tmp_path.iterdir())
