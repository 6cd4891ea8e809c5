"""Axes of figures."""

import pytest
from matplotlib.figure import Figure

from monai_ifim.report.results.panels import same_range


@pytest.mark.parametrize(
    ("largest", "scale"), [(30.0, "linear"), (1e6, "symlog"), (-1e6, "symlog")]
)
def test_one_number_does_not_hide_the_others(largest, scale):
    row = Figure().subplots(1, 2)
    row[0].plot([0.0, 0.0, 0.0, 0.0, 0.1, 0.2, float("nan"), 0.4], range(8))
    row[1].plot([0.2, 0.3, largest], range(3))
    same_range(row)
    assert [axis.get_xscale() for axis in row] == [scale, scale]
    assert row[0].get_xlim() == row[1].get_xlim()
    ends = row[0].transData.transform([(0.1, 0), (0.4, 0)])[:, 0]
    left, right = row[0].bbox.x0, row[0].bbox.x1
    assert scale == "linear" or ends[1] - ends[0] > 0.05 * (right - left)
