"""A bundle's evaluator with the iFIM added to it: what the overlays in ``configs/`` call.

An overlay cannot ask a configuration whether it has an id, nor see what it replaces. So it
replaces one thing alone, the function that makes the evaluator, and this one finds the rest in
what the evaluator is given: its loader and data set, its inferer, postprocessing and handlers, by
whatever ids and expressions the bundle makes them.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from monai.bundle import ConfigComponent
from monai.data import CacheDataset, Dataset
from monai.transforms import Compose
from monai.utils import ensure_tuple

from monai_ifim.bundle.arguments import config_files, written_in_files
from monai_ifim.bundle.likelihood import recognised_likelihood
from monai_ifim.bundle.metadata import class_names
from monai_ifim.bundle.root import bundle_digest, bundle_root
from monai_ifim.data.loaders import FaultTolerantDataLoader
from monai_ifim.inferers import IFIMInferer

logger = logging.getLogger(__name__)

_TARGET = "monai_ifim.evaluator_with_ifim"


def evaluator_with_ifim(
    *,
    ifim_handler: Any = None,
    ifim_likelihood: str | None = None,
    ifim_preprocessing: Callable[..., Any] | None = None,
    ifim_evaluator: str | None = None,
    ifim_log: Any = None,
    ifim_id: str = "evaluator",
    **arguments: Any,
) -> Any:
    """The evaluator that the bundle makes, with ``IFIMHandler`` first among its handlers.

    Its inferer keeps the graph of the forward pass. With ``ifim_preprocessing`` its data set
    takes that one, and its loader survives images that cannot be loaded.

    Args:
        ifim_handler: the ``IFIMHandler``.
        ifim_likelihood: ``categorical`` or ``bernoulli``; None: the handler gets the one that
            postprocessing or handlers show.
        ifim_preprocessing: the data set's own preprocessing, so that it can be undone.
        ifim_evaluator: the evaluator's class; None: the one of the configuration files, or
            ``SupervisedEvaluator`` where there is no command line to name them.
        ifim_log: an ``IFIMEpochLog`` of the handler; last among the handlers, where one of those
            logs to TensorBoard or MLflow.
        ifim_id: the evaluator's id.
        arguments: those of the bundle's evaluator.

    Returns:
        The evaluator.

    Raises:
        ValueError: no evaluator is there to add to, or its postprocessing fits several likelihoods.
    """
    if "val_data_loader" not in arguments or ifim_handler is None:
        raise ValueError(
            f"expected the id {ifim_id} with an evaluator of MONAI's (val_data_loader, network) "
            f"in the bundle, got {', '.join(arguments) or 'none'}; give the configuration that "
            "makes the evaluator before the one of monai_ifim"
        )
    handlers = [*ensure_tuple(arguments.get("val_handlers") or ())]
    if ifim_likelihood is None:
        found = recognised_likelihood(arguments.get("postprocessing"), handlers)
        if found is None:
            found = "categorical"
            logger.warning(
                "the bundle's postprocessing has no activation: a softmax is assumed; for "
                "sigmoids pass --ifim_likelihood bernoulli"
            )
        ifim_handler.options = replace(ifim_handler.options, likelihood=found)
    last = [ifim_log] if ifim_log is not None and ifim_log.adopt(handlers) else []
    arguments["val_handlers"] = [ifim_handler, *handlers, *last]
    ifim_handler.class_names = ifim_handler.class_names or class_names(bundle_root())
    ifim_handler.bundle = ifim_handler.bundle or bundle_digest()
    inferer = arguments.get("inferer")
    if not isinstance(inferer, IFIMInferer):
        # In a validation the host's own network errors stay the host's.
        on_error = ifim_handler.on_error if ifim_handler.fail_at_end else "raise"
        arguments["inferer"] = IFIMInferer(inferer, on_error=on_error)
    if ifim_preprocessing is not None:
        _preprocess_with(ifim_preprocessing, _dataset(arguments["val_data_loader"]))
        arguments["val_data_loader"] = FaultTolerantDataLoader.around(arguments["val_data_loader"])
    made_by = ifim_evaluator or _own_class(ifim_id)
    return ConfigComponent({"_target_": made_by, **arguments}).instantiate()


def preprocessing_of(loader: Any) -> Any:
    """The preprocessing of a loader's images.

    Args:
        loader: with a data set that has a ``transform``, be it wrapped in ``Subset`` or
            ``ConcatDataset``, or the data of another one.

    Returns:
        The transform; of data sets one on another, a ``Compose`` of theirs in the order of use;
        None where there is none.

    Raises:
        ValueError: joined data sets differ in their preprocessing.
    """
    transforms = [dataset.transform for dataset in _transforming(_dataset(loader))]
    if len(transforms) < 2:
        return next(iter(transforms), None)
    joined = Compose()
    joined.transforms = (
        transforms  # given to Compose, they would have their random numbers set anew
    )
    return joined


def run_unless_done(evaluator: Any) -> None:
    """Run an evaluator that has not run yet.

    Some bundles have no id ``run``, or start their evaluator by another one.

    Args:
        evaluator: of MONAI or Ignite.
    """
    if evaluator.state.epoch == 0:
        evaluator.run()


def _dataset(loader: Any) -> Any:
    return getattr(loader, "dataset", None)


def _transforming(dataset: Any) -> list[Any]:
    """The data sets that transform the images, in the order in which they do it."""
    joined = [_transforming(part) for part in getattr(dataset, "datasets", ())]
    if joined:
        first = [part.transform for part in joined[0]]
        if any([part.transform for part in other] != first for other in joined):
            raise ValueError(
                "expected one preprocessing for all joined data sets, got several; give them the "
                "same transform, so that it can be undone"
            )
        return joined[0]
    below = getattr(dataset, "dataset", None)
    data = getattr(dataset, "data", None)
    below = data if below is None and isinstance(data, Dataset) else below
    found = [] if below is None else _transforming(below)
    return [*found, dataset] if callable(getattr(dataset, "transform", None)) else found


def _preprocess_with(preprocessing: Any, dataset: Any) -> None:
    """Give a data set its preprocessing in the form that can be undone."""
    for part in getattr(dataset, "datasets", ()):
        _preprocess_with(preprocessing, part)
    own = [] if hasattr(dataset, "datasets") else _transforming(dataset)
    parts = preprocessing.transforms if len(own) > 1 else [preprocessing]
    for holder, part in zip(own, parts, strict=False):
        if holder.transform is part:
            continue
        holder.transform = part
        if isinstance(holder, CacheDataset):  # what it holds was made by the other one
            holder.set_data(holder.data)


def _own_class(name: str) -> str:
    """The evaluator's class that the overlay has replaced."""
    files = config_files(sys.argv[1:])
    found = written_in_files(f"{name}::_target_", files, but=_TARGET)
    return found if isinstance(found, str) else "SupervisedEvaluator"
