"""Blocks and numbers that are null or absent: the page and the figures do without them."""

import copy

from _helpers.results import made_result, not_numbers
from monai_ifim.report.results.figures import write_figures
from monai_ifim.report.results.sections import SECTIONS
from monai_ifim.report.results.sections.detection import DETECTION
from monai_ifim.report.results.style import settings


def paths(source, depth):
    """All keys, down to a depth, as tuples."""
    for key, value in source.items():
        yield (key,)
        if isinstance(value, dict) and depth > 1:
            yield from ((key, *rest) for rest in paths(value, depth - 1))


def without(source, path):
    changed = copy.deepcopy(source)
    inner = changed
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = None
    return changed


def test_any_missing_block_is_survived(text_only, tmp_path):
    result = made_result("signal", 1)
    blocks = list(paths(result["networks"]["cnn"], 3))
    assert len(blocks) > 60
    for count, path in enumerate(blocks):
        changed = without(result, ("networks", "cnn", *path))
        page = text_only(tmp_path / str(count), changed)
        assert not_numbers(page) == [], path
        assert "## Made task signal" in page, path


def test_missing_blocks_leave_out_their_figures(tmp_path):
    result = made_result("signal", 1)
    cnn = result["networks"]["cnn"]
    for name in ("law", "agreement", "controls", "maps", "quantus"):
        cnn[name] = None
    cnn["detection"]["error_auc"] = None
    cnn["perturbation"]["directions"] = {
        "leading": cnn["perturbation"]["directions"]["leading"] | {"auc": None}
    }
    cnn["perturbation"]["ratios"] = None
    drawn = write_figures(result, tmp_path)
    names = [path.name for path in drawn]
    assert names == ["perturbation.png", "detection.png"]
    with settings():
        drawn = DETECTION.draw(result)
    events = [label.get_text() for label in drawn.axes[0].get_yticklabels()]
    assert "noise" in events
    assert "wrong prediction" not in events


def test_wrong_predictions_come_first():
    """Also where the first network made none."""
    result = made_result("signal", 2)
    result["networks"]["cnn"]["detection"]["error_auc"] = None
    with settings():
        drawn = DETECTION.draw(result)
    assert drawn.axes[0].get_yticklabels()[0].get_text() == "wrong prediction"


def test_figures_survive_what_is_not_known(tmp_path):
    """Single numbers that are null, of every kind, in otherwise whole blocks."""

    def emptied(part):
        if isinstance(part, dict) and "low" in part:
            return {**part, "low": None, "high": float("nan")}
        if isinstance(part, dict):
            return {key: emptied(value) for key, value in part.items()}
        return [emptied(value) for value in part] if isinstance(part, list) else part

    result = made_result("signal", 2)
    result["networks"]["cnn"] = emptied(result["networks"]["cnn"])
    cnn = result["networks"]["cnn"]
    cnn["law"] |= {"radius": None, "radius_wrong": None, "radius_correct": None}
    cnn["controls"]["layers"] = cnn["controls"]["two_seeds"] = None
    cnn["controls"]["recomputed"] = cnn["agreement"]["by_training_size"] = None
    cnn["detection"]["corruption_auc"] = cnn["maps"]["methods"]["grad_cam"] = None
    assert len(write_figures(result, tmp_path)) == len(SECTIONS)
