"""A batch goes down into the core once and comes back once."""

import sys
from collections import Counter
from pathlib import Path

import pytest
from monai.data import DataLoader

import monai_ifim as mi
from _helpers.networks import smooth_network
from _helpers.recorders import INFERERS, evaluate
from _helpers.scans import dataset
from monai_ifim.outputs import VOLUMES

PACKAGE = Path(mi.__file__).parent
# Refer to the network or to the choices, not to a batch.
OTHER = {
    *("unwrap", "chosen_options", "checked", "warn_of_another", "outcome_text"),
    *("<lambda>", "<genexpr>"),
}


@pytest.fixture
def steps_down():
    """Counts the calls from the package's other rooms into the core, by caller and function."""
    counts: Counter[tuple[str, str]] = Counter()

    def watch(frame, event, argument):
        caller = frame.f_back
        if event != "call" or caller is None:
            return
        files = [Path(f.f_code.co_filename) for f in (caller, frame)]
        if all(PACKAGE in file.parents for file in files):
            rooms = [file.relative_to(PACKAGE).parts[0] for file in files]
            if rooms[0] != "core" and rooms[1] == "core" and frame.f_code.co_name not in OTHER:
                counts[rooms[0], frame.f_code.co_name] += 1

    yield watch, counts
    sys.setprofile(None)


@INFERERS
def test_the_handler_computes_each_thing_once_in_one_place(files, steps_down, inferer):
    watch, counts = steps_down
    loader = DataLoader(dataset(files), batch_size=2)
    handler = mi.IFIMHandler(volumes=VOLUMES)
    sys.setprofile(watch)
    evaluate(smooth_network(3), loader, handler, inferer=inferer)
    sys.setprofile(None)
    batches = len(loader)
    down = {name: count for (room, name), count in counts.items() if room == "outputs.py"}
    assert down.pop("not_finite") == 4 * batches  # of images, logits, factor and trace
    assert down == dict.fromkeys(
        [
            "kept_forward" if inferer else "run_forward",
            *("decompose", "coefficients", "synthesis", "sensitivity"),
            *("most_probable", "probabilities", "masked_classes", "nearest_answer"),
        ],
        batches,
    )
    # Neither the handler nor the table asks the core for anything.
    assert {room for room, _ in counts} <= {"outputs.py", "inferers.py"}
