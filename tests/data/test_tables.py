"""The table as Parquet: the rows of the CSV with types, refused early, there only when complete."""

import csv
import math
import re
import sys
from pathlib import Path

import pytest
from monai.data import DataLoader

import monai_ifim as mi
from _helpers.networks import smooth_network
from _helpers.recorders import evaluate
from _helpers.scans import dataset, unreadable, write_scans
from monai_ifim.data import tables

pytestmark = pytest.mark.filterwarnings("ignore:NvImgCodecPydicomReader:UserWarning")

FLOATS = ("probability", "trace", "eigenvalue_1", "eigenvalue_3", "trace_share")


def run(files, folder, filename, likelihood="categorical"):
    loader = mi.FaultTolerantDataLoader(dataset(files), batch_size=2)
    handler = mi.IFIMHandler(output_dir=folder, filename=filename, likelihood=likelihood)
    evaluate(smooth_network(3), loader, handler, inferer=mi.IFIMInferer())


def read_csv(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture
def parquet():
    return pytest.importorskip("pyarrow.parquet")


@pytest.mark.parametrize("likelihood", ["categorical", "bernoulli"])
def test_parquet_holds_the_rows_of_the_csv(tmp_path, parquet, likelihood):
    files = write_scans(tmp_path / "scans", 3, count=5)
    unreadable(files[2])
    run(files, tmp_path, "ifim.csv", likelihood)
    run(files, tmp_path, "ifim.parquet", likelihood)
    table = parquet.read_table(tmp_path / "ifim.parquet")
    rows, expected = table.to_pylist(), read_csv(tmp_path / "ifim.csv")
    assert table.column_names == list(expected[0])
    assert [row["file"] for row in rows] == files
    assert [row["status"] == "ok" for row in rows] == [True, True, False, True, True]
    for row, other in zip(rows, expected, strict=True):
        for name, text in other.items():
            # repr of a float64 is exact, so that nothing may differ.
            assert ("" if row[name] is None else str(row[name])) == text
    assert isinstance(rows[0]["rank"], int)
    assert all(isinstance(rows[0][name], float) for name in FLOATS)
    assert isinstance(rows[0]["predicted_class"], str)
    names = [".ifim", "ifim.csv", "ifim.parquet", "run.json", "scans"]
    assert sorted(path.name for path in tmp_path.iterdir()) == names


def test_a_shard_of_failures_has_the_types_of_the_others(tmp_path, parquet):
    """Else pyarrow could not read the shards of a data set as one table."""
    good, bad = {"file": "a", "status": "ok", "rank": 2, "trace": math.pi}, {"file": "b"}
    tables.write_table([good], tmp_path / "0.parquet")
    tables.write_table([{**bad, "status": "failed: no"}], tmp_path / "1.parquet")
    tables.write_table([], tmp_path / "2.parquet")
    schemas = [parquet.read_schema(tmp_path / f"{i}.parquet") for i in range(3)]
    assert schemas[0] == schemas[1] == schemas[2]
    rows = parquet.read_table(tmp_path).to_pylist()
    assert [row["trace"] for row in rows] == [math.pi, None]


def test_without_pyarrow_it_is_refused_before_the_work(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)  # importing it raises ImportError
    monkeypatch.delitem(sys.modules, "pyarrow.parquet", raising=False)
    with pytest.raises(
        ModuleNotFoundError, match=r"expected pyarrow.*monai_ifim\[parquet\]"
    ) as got:
        mi.IFIMHandler(output_dir=tmp_path, filename="ifim.parquet")
    assert got.value.name == "pyarrow"
    assert "ends in .csv" in str(got.value)
    assert list(tmp_path.iterdir()) == []
    # CSV, and a handler without a table, do not care.
    mi.IFIMHandler(filename="ifim.parquet")
    files = write_scans(tmp_path / "scans", 3, count=1)
    run(files, tmp_path, "ifim.csv")
    assert len(read_csv(tmp_path / "ifim.csv")) == 1


@pytest.mark.parametrize("name", ["ifim.csv", "ifim.parquet"])
def test_a_table_appears_only_when_complete(tmp_path, monkeypatch, name):
    """Killed or out of space in the middle of it, there is the old table, or none."""
    path = tmp_path / name
    tables.write_table([{"file": "old", "status": "ok"}], path)
    before = path.read_bytes()
    seen = []

    def half(rows, columns, partial):
        partial.write_bytes(b"half a table")
        seen.append(path.read_bytes())
        raise OSError("no space left on device")

    for writer in ("_write_csv", "_write_parquet"):
        monkeypatch.setattr(tables, writer, half)
    with pytest.raises(OSError, match="no space left"):
        tables.write_table([{"file": "new", "status": "ok"}], path)
    assert seen == [before]
    assert path.read_bytes() == before
    assert [other.name for other in tmp_path.iterdir()] == [name]


def test_an_error_that_ends_the_run_leaves_a_parquet_table(tmp_path, parquet):
    files = write_scans(tmp_path / "scans", 3, count=3)
    unreadable(files[2])
    handler = mi.IFIMHandler(output_dir=tmp_path, filename="IFIM.PARQUET")
    with pytest.raises(RuntimeError):
        evaluate(smooth_network(3), DataLoader(dataset(files), batch_size=1), handler)
    status = [row["status"] for row in parquet.read_table(tmp_path / "IFIM.PARQUET").to_pylist()]
    assert status[:2] == ["ok", "ok"]
    # Nobody takes it for a complete one.
    assert any(text.startswith("failed: the run ended here, ImageFileError") for text in status[2:])
    assert all(text.startswith("failed: ") for text in status[2:])


def test_the_extra_is_what_the_error_names():
    """The message says pip install 'monai_ifim[parquet]'."""
    extras = (Path(__file__).parents[2] / "pyproject.toml").read_text()
    assert re.search(r"^parquet = \[\"pyarrow", extras, flags=re.MULTILINE)


def test_further_columns_have_their_types(tmp_path, parquet):
    """Numbers of a class called "x_class" are numbers; a class in another column is text."""
    rows = [
        {"file": "a", "probability_x_class": 0.25, "nearest_class": "1", "nuisance_gain": None},
        {"file": "b", "probability_x_class": 0.75, "nearest_class": None, "nuisance_gain": 3.5},
    ]
    rows = [row | {"status": "ok", "share_liver": 0.5} for row in rows]
    tables.write_table(rows, tmp_path / "t.parquet")
    schema = parquet.read_schema(tmp_path / "t.parquet")
    types = {name: str(schema.field(name).type) for name in schema.names}
    assert types["probability_x_class"] == types["nuisance_gain"] == "double"
    assert types["share_liver"] == "double"
    assert types["nearest_class"] == "string"
    for read, row in zip(tables.read_table(tmp_path / "t.parquet"), rows, strict=True):
        assert {name: read[name] for name in row} == row
