"""Which image to look at next: the one where the classifier is most fragile."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Mapping, Sequence
from typing import Any

from monailabel.interfaces.datastore import Datastore
from monailabel.interfaces.tasks.strategy import Strategy
from scipy.stats import rankdata

from monai_ifim.label.bundle import ClassificationBundle
from monai_ifim.label.options import refusal, short
from monai_ifim.label.scoring import score_of

QUANTITIES = ("trace", "largest_eigenvalue", "effective_rank")
_PARAMETERS = (
    "strategy",
    "model",
    "quantity",
    "weight",
    "reset",
    "client_id",
    "label_tag",
    "labels",
)
DAY = 24 * 60 * 60


class IFIMStrategy(Strategy):
    """The unlabelled image with the highest score, images served within a day last.

    Args:
        quantity: one of ``QUANTITIES``, or ``mix``: w times the rank by a quantity plus 1 − w
            times the rank by predictive entropy, ranks from 0 to 1, because the two have
            different units.
        bundles: that score; the app's own list, which it may shorten.
    """

    def __init__(self, quantity: str, bundles: Sequence[ClassificationBundle]) -> None:
        text = quantity.replace("_", " ")
        super().__init__(
            "Mix of sensitivity and predictive entropy, highest first"
            if quantity == "mix"
            else f"Highest {text} of the Fisher information first"
        )
        self.quantity = quantity
        self.bundles = bundles

    def info(self) -> dict[str, Any]:
        """For ``/info/``: 3D Slicer and OHIF let a person choose from ``config``.

        Returns:
            Description and choices.
        """
        choices: dict[str, Any] = {"model": [bundle.name for bundle in self.bundles]}
        if self.quantity == "mix":
            choices["quantity"] = list(QUANTITIES)
        return {**super().info(), "config": choices}

    def __call__(self, request: Mapping[str, Any], datastore: Datastore) -> dict[str, Any] | None:
        """Choose.

        Args:
            request: ``model`` (a bundle, the first by default), ``reset`` (seconds after which a
                served image counts as new), and for the mix ``quantity`` and ``weight``.
            datastore: with images and scores.

        Returns:
            ``id``, ``score``, ``model``, and how many images have a score; None when no image is
            without a label. Images without a score come last.

        Raises:
            HTTPException: 400, an unknown or impossible parameter.
        """
        model, quantity, weight, reset = self._read(request)
        images = datastore.get_unlabeled_images()
        if not images:
            return None
        infos = {image_id: datastore.get_image_info(image_id) for image_id in images}
        scores = {i: score_of(info, model) for i, info in infos.items()}
        scores = {i: score for i, score in scores.items() if _complete(score)}
        values = {i: score[quantity] for i, score in scores.items()}
        if self.quantity == "mix":
            values = mix(values, {i: score["entropy"] for i, score in scores.items()}, weight)
        now, name = time.time(), str(request.get("strategy"))

        def order(image_id: str) -> tuple[bool, bool, float, str]:
            served = _served(infos[image_id], name)
            value = values.get(image_id, -math.inf)
            return now - served < reset, image_id not in values, -value, image_id

        best = min(images, key=order)
        return {
            "id": best,
            "score": values.get(best),
            "model": model,
            "model_version": scores.get(best, {}).get("model_version"),
            "images_scored": len(values),
            "images_unlabeled": len(images),
        }

    def _read(self, request: Mapping[str, Any]) -> tuple[str, str, float, float]:
        for key in request:
            if key not in _PARAMETERS:
                raise refusal(
                    f"expected parameters from model, quantity, weight, reset, got {short(key)}"
                )
        names = [bundle.name for bundle in self.bundles]
        model = request.get("model", names[0] if names else "")
        if model not in names:
            raise refusal(f"expected model from {', '.join(names)}, got {short(model)}")
        quantity = request.get("quantity", "trace" if self.quantity == "mix" else self.quantity)
        if quantity not in QUANTITIES or self.quantity not in ("mix", quantity):
            allowed = QUANTITIES if self.quantity == "mix" else (self.quantity,)
            raise refusal(f"expected quantity from {', '.join(allowed)}, got {short(quantity)}")
        weight = _number("weight", request.get("weight", 0.5), 1.0)
        return model, quantity, weight, _number("reset", request.get("reset", DAY), math.inf)


def mix(values: Mapping[str, float], entropies: Mapping[str, float], weight: float) -> dict:
    """Weighted mean of two rankings.

    Args:
        values: by image.
        entropies: by image, the same ones.
        weight: of the values, from 0 to 1.

    Returns:
        By image, from 0 (lowest in both) to 1 (highest in both).

    >>> mix({"a": 1e-9, "b": 3.0}, {"a": 0.7, "b": 0.1}, 0.75)
    {'a': 0.25, 'b': 0.75}
    """
    if len(values) < 2:
        return dict.fromkeys(values, 1.0)
    last = len(values) - 1
    by_value = (rankdata(list(values.values())) - 1) / last
    by_entropy = (rankdata([entropies[i] for i in values]) - 1) / last
    mixed = weight * by_value + (1 - weight) * by_entropy
    return dict(zip(values, mixed.tolist(), strict=True))


def _complete(score: Mapping[str, Any]) -> bool:
    values = [score.get(name) for name in (*QUANTITIES, "entropy")]
    return all(isinstance(value, int | float) and math.isfinite(value) for value in values)


def _served(info: Mapping[str, Any], strategy: str) -> float:
    """When MONAI Label last served the image by this strategy; 0: never."""
    entry: Any = info.get("strategy")
    for key in (strategy, "ts"):
        entry = entry.get(key) if isinstance(entry, dict) else None
    return entry if isinstance(entry, int | float) else 0


def _number(name: str, value: Any, largest: float) -> float:
    number = -1.0  # text is refused too: these come as JSON
    if isinstance(value, int | float) and not isinstance(value, bool):
        number = min(float(min(value, 10**18)), 1e18)
    if not 0 <= number <= largest:
        upper = "" if math.isinf(largest) else f" and at most {largest:g}"
        raise refusal(f"expected {name} as a number, at least 0{upper}, got {short(value)}")
    return number


class UnlabelledAtRandom(Strategy):
    """MONAI Label's ``random`` fails when all images were served within this second."""

    def __init__(self) -> None:
        super().__init__("An image without a label, at random")

    def __call__(self, request: Mapping[str, Any], datastore: Datastore) -> dict[str, Any] | None:
        """Choose.

        Args:
            request: ignored.
            datastore: with the images.

        Returns:
            ``id``; None when no image is without a label.
        """
        images = datastore.get_unlabeled_images()
        return {"id": random.choice(images)} if images else None
