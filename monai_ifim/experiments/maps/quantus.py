"""Quantus' metrics of attribution maps, for the sensitivity map and the established methods.

Source: A. Hedström et al., "Quantus: An Explainable AI Toolkit for Responsible Evaluation of
Neural Network Explanations and Beyond", JMLR 24 (2023). Metrics: U. Bhatt et al., IJCAI 2020
(faithfulness correlation, complexity); S. Bach et al., PLOS ONE 2015 (pixel flipping); C.-K. Yeh et
al., NeurIPS 2019 (max-sensitivity); A. Hedström et al., 2023 (efficient MPRT); L. Sixt et al.,
ICML 2020 (random logit); P. Chalasani et al., ICML 2020 (sparseness).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from logging import getLogger
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from monai_ifim.experiments.maps.explainers import Explain, predicted_classes
from monai_ifim.experiments.statistics import average, interval

_LOG = getLogger(__name__)
_SHARE = 10  # a tenth of the entries is replaced at a time


@dataclass(frozen=True)
class QuantusMetric:
    """One of Quantus' metrics.

    Attributes:
        group: what it is about.
        better: ``"higher"`` or ``"lower"``; empty where neither is.
        make: entries of an image and number of classes to the metric.
    """

    group: str
    better: str
    make: Callable[[int, int], Any]


def _quantus(name: str, **fixed: Any) -> Any:
    return getattr(import_module("quantus"), name)(
        **fixed, disable_warnings=True, display_progressbar=False
    )


METRICS: dict[str, QuantusMetric] = {
    "faithfulness_correlation": QuantusMetric(
        "faithfulness",
        "higher",
        lambda entries, classes: _quantus(
            "FaithfulnessCorrelation",
            nr_runs=50,
            subset_size=max(1, entries // _SHARE),
            perturb_baseline="mean",
            return_aggregate=False,
        ),
    ),
    "pixel_flipping": QuantusMetric(
        "faithfulness",
        "lower",
        lambda entries, classes: _quantus(
            "PixelFlipping",
            features_in_step=max(n for n in range(1, entries // _SHARE + 1) if entries % n == 0),
            perturb_baseline="mean",
        ),
    ),
    "max_sensitivity": QuantusMetric(
        "robustness",
        "lower",
        lambda entries, classes: _quantus("MaxSensitivity", nr_samples=5, lower_bound=0.05),
    ),
    "efficient_mprt": QuantusMetric(
        "randomisation", "higher", lambda entries, classes: _quantus("EfficientMPRT")
    ),
    "random_logit": QuantusMetric(
        "randomisation",
        "lower",
        lambda entries, classes: _quantus("RandomLogit", num_classes=classes),
    ),
    "sparseness": QuantusMetric("complexity", "", lambda entries, classes: _quantus("Sparseness")),
    "complexity": QuantusMetric("complexity", "", lambda entries, classes: _quantus("Complexity")),
}


def random_map(
    model: nn.Module, inputs: Any, targets: Any, *, seed: int = 0, **ignored: Any
) -> np.ndarray:
    """A map of random numbers: what a metric must tell from an explanation.

    Args:
        model: ignored.
        inputs: images (B, C, *S).
        targets: ignored.
        seed: of the numbers.
        ignored: what else Quantus hands on.

    Returns:
        (B, C, *S), in [0, 1).
    """
    return np.random.default_rng(seed).random(np.shape(inputs))


def edge_map(model: nn.Module, inputs: Any, targets: Any, **ignored: Any) -> np.ndarray:
    """The size of the image's own gradient, which no network takes part in.

    Args:
        model: ignored.
        inputs: images (B, C, *S).
        targets: ignored.
        ignored: what else Quantus hands on.

    Returns:
        (B, C, *S).
    """
    image = np.asarray(inputs, dtype=np.float64)
    slopes = np.gradient(image, axis=tuple(range(2, image.ndim)))
    parts = slopes if isinstance(slopes, list | tuple) else [slopes]
    size: np.ndarray = np.sqrt(sum(np.square(part) for part in parts))
    return size


def measure_quantus(
    network: nn.Module, images: Tensor, explained_by: Mapping[str, Explain], seed: int
) -> dict[str, dict[str, Tensor]]:
    """Every metric of every map.

    Args:
        network: categorical classifier, in eval mode; left as it was.
        images: (N, C, H, W).
        explained_by: functions in Quantus' form, by name.
        seed: of NumPy's global random state, from which Quantus draws; it is restored.

    Returns:
        By map and metric (N,) in float64; NaN where Quantus refuses the maps because those of all
        images have one value, or are negative everywhere. The log says which and why.

    Raises:
        AssertionError: of Quantus, because maps are no array, or of another shape than the images.
    """
    targets = predicted_classes(network, images)
    entries, classes = images[0].numel(), int(network(images[:1]).shape[1])
    inputs, state = images.numpy(), np.random.get_state()
    found: dict[str, dict[str, Tensor]] = {}
    try:
        for name, explain in explained_by.items():
            for key, metric in METRICS.items():
                np.random.seed(seed)
                with torch.random.fork_rng([]):
                    torch.default_generator.manual_seed(seed)
                    scores = _scores(
                        f"{key} of {name}",
                        metric.make(entries, classes),
                        model=network,
                        x_batch=inputs,
                        y_batch=targets,
                        explain_func=explain,
                    )
                found.setdefault(name, {})[key] = _one_number(scores, len(images))
    finally:
        np.random.set_state(state)
    return found


def _scores(words: str, metric: Any, *, explain_func: Explain, x_batch: Any, **given: Any) -> Any:
    """A metric's numbers, NaN where it refuses the maps: other maps and metrics are unaffected."""
    latest: Any = None

    def explain(*call: Any, **named: Any) -> Any:
        nonlocal latest
        latest = explain_func(*call, **named)
        return latest

    try:
        return metric(
            **given,
            x_batch=x_batch,
            a_batch=None,
            explain_func=explain,
            device="cpu",
            channel_first=True,
        )
    except AssertionError as error:
        if not _say_nothing(latest, x_batch.shape):
            raise  # maps of another type or shape, or a fault of somebody's method
        _LOG.warning("%s has no number, Quantus refuses the maps: %s", words, error)
        return np.full(len(x_batch), np.nan)


def _say_nothing(maps: Any, shape: tuple[int, ...]) -> bool:
    """Whether maps of these images have one value alone, or are negative everywhere."""
    if not isinstance(maps, np.ndarray) or maps.shape not in (shape, (shape[0], 1, *shape[2:])):
        return False
    return bool(np.ptp(maps) == 0 or (maps < 0).all())


def _one_number(scores: Any, count: int) -> Tensor:
    """(N,) from the list of a metric, in which an image may have a curve."""
    values = torch.as_tensor(np.asarray(scores, dtype=np.float64))
    return values.reshape(count, -1).mean(dim=1)


def quantus_summary(raw: Mapping[str, Mapping[str, Tensor]], count: int) -> dict[str, Any]:
    """Means over images with 95 % intervals.

    Args:
        raw: from ``measure_quantus``.
        count: of the images.

    Returns:
        Numbers ready for JSON. Images for which a metric has no number (a constant map, or
        maps that Quantus refuses) are left out of it, and counted in ``without``.
    """
    methods: dict[str, Any] = {}
    for name, metrics in raw.items():
        row: dict[str, Any] = {}
        for key, values in metrics.items():
            good = values[torch.isfinite(values)]
            enough = len(good) >= 2
            row[key] = interval(average, good).as_dict() if enough else None
            if len(good) < count:
                row.setdefault("without", {})[key] = count - len(good)
        methods[name] = row
    told = {key: {"group": m.group, "better": m.better} for key, m in METRICS.items()}
    return {"missing": "", "images": count, "metrics": told, "methods": methods}
