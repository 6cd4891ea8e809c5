"""Which part of a run a text, a task of an array or a process names; the lock of a part."""

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from monai_ifim.data.run_folder.lock import FolderLock, parts_at_work
from monai_ifim.data.run_folder.part import Block, Shard, shard_of

ARRAY = {"SLURM_ARRAY_TASK_ID": "7", "SLURM_ARRAY_TASK_COUNT": "10", "SLURM_ARRAY_TASK_MIN": "0"}
TORCHRUN = {"TORCHELASTIC_RUN_ID": "none", "RANK": "1", "WORLD_SIZE": "2"}
POD = {"JOB_COMPLETION_INDEX": "3"}


@given(st.integers(0, 500), st.integers(1, 60))
def test_shards_have_every_batch_once(total, of):
    got = sorted(k for i in range(of) for k in Shard(i, of).batches(total))
    assert got == list(range(total))


@given(st.integers(0, 500), st.integers(1, 60))
def test_blocks_have_every_batch_once(total, size):
    blocks = [Block("w", start, start + size) for start in range(0, total, size)]
    assert [k for block in blocks for k in block.batches(total)] == list(range(total))


@pytest.mark.parametrize(
    ("text", "environment", "expected"),
    [
        (None, {}, None),
        ("", ARRAY, None),
        ("0/1", {}, Shard(0, 1)),
        ("3/100", ARRAY, Shard(3, 100)),  # what is named wins
        (Shard(1, 2), {}, Shard(1, 2)),
        ("auto", ARRAY, Shard(7, 10)),
        ("auto", ARRAY | {"SLURM_ARRAY_TASK_MIN": "1"}, Shard(6, 10)),
        (
            "auto",
            ARRAY | {"SLURM_ARRAY_TASK_ID": "12", "SLURM_ARRAY_TASK_STEP": "4"},
            Shard(3, 10),
        ),
        # One task of the array submitted again: by its own number, of as many as there were.
        (
            "auto/10",
            ARRAY | {"SLURM_ARRAY_TASK_COUNT": "1", "SLURM_ARRAY_TASK_MIN": "7"},
            Shard(7, 10),
        ),
        ("auto/4", POD, Shard(3, 4)),
        ("auto", TORCHRUN, Shard(1, 2)),
        ("auto/2", TORCHRUN, Shard(1, 2)),
    ],
)
def test_a_shard_is_named(text, environment, expected):
    assert shard_of(text, environment) == expected


@pytest.mark.parametrize(
    ("text", "environment", "message"),
    [
        ("4/4", {}, "a shard from 0/4 to 3/4, got 4/4; shards count from 0"),
        ("0/0", {}, "expected 1 or more shards, got 0"),
        ("-1/4", {}, "expected a shard as 3/100"),
        ("3", {}, "expected a shard as 3/100"),
        ("3 of 4", {}, "expected a shard as 3/100"),
        ("auto", {}, "got none of them; name it"),
        ("auto", POD, "expected the number of shards, got JOB_COMPLETION_INDEX=3 alone"),
        ("auto/3", POD, "got 3/3"),
        ("auto", ARRAY | TORCHRUN, "got SLURM_ARRAY_TASK_ID and RANK"),
        ("auto/3", TORCHRUN, "expected 3 shards, got 2 processes"),
        ("auto", {"RANK": "1", "WORLD_SIZE": "2"}, "got none of them"),  # not torchrun's
    ],
)
def test_what_names_no_shard_is_refused(text, environment, message):
    with pytest.raises(ValueError, match=message):
        shard_of(text, environment)


def test_parts_at_work_are_those_whose_lock_is_held(tmp_path):
    locks = [FolderLock(tmp_path, name) for name in ("shard 0/2", "shard 1/2")]
    for lock in locks:
        lock.acquire()
    assert parts_at_work(tmp_path) == ["shard-0-2", "shard-1-2"]
    locks[0].release()
    assert parts_at_work(tmp_path) == ["shard-1-2"]
    with pytest.raises(RuntimeError, match=r"expected shard 1/2 in .* for this process alone"):
        FolderLock(tmp_path, "shard 1/2", patience=0.1).acquire()
    locks[1].release()
    assert parts_at_work(tmp_path) == []
    assert sorted(os.listdir(tmp_path / ".ifim")) == ["lock-shard-0-2", "lock-shard-1-2"]
