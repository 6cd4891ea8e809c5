"""One experiment: train the networks of a configuration and measure them, step by step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from monai_ifim.core import Categorical
from monai_ifim.experiments.environment import environment
from monai_ifim.experiments.maps.methods import AttributionMethod
from monai_ifim.experiments.run.network import NetworkOfTask
from monai_ifim.experiments.run.settings import Settings
from monai_ifim.experiments.run.trainings import TrainingsOfTask
from monai_ifim.experiments.statistics import classification_scores
from monai_ifim.experiments.steps import Steps
from monai_ifim.experiments.tasks.catalogue import load_task
from monai_ifim.experiments.tasks.clinical import MissingDataError
from monai_ifim.experiments.tasks.labelled import Bar, Task

# Of the AUC of the best observer that is known, what a network must reach to count in a claim.
_SHARE = 0.95
_OBSERVER = {"exact": "ideal observer", "reference": "best linear observer"}

Say = Callable[[str], None]


def run_experiment(
    settings: Settings,
    steps: Steps,
    *,
    data: Path | None = None,
    methods: Sequence[AttributionMethod] = (),
    say: Say = print,
    keep: Callable[[dict[str, Any]], None] = lambda result: None,
) -> dict[str, Any]:
    """Train and measure every network of an experiment.

    Args:
        settings: what to do.
        steps: keeps every training and every measurement; those found there are not repeated.
        data: folder of the clinical data sets.
        methods: attribution methods beside the established ones.
        say: called with lines for people.
        keep: called with the numbers so far after every network.

    Returns:
        All numbers, ready for JSON; without networks, and with the reason under ``missing``, when
        the images of a clinical task are not there. A network that fails is reported under
        ``failures``, the others are unaffected, and ``complete`` is then false.
    """
    before = steps.seconds
    result: dict[str, Any] = {
        "experiment": settings.name,
        "title": settings.title,
        "profile": settings.profile,
        "missing": "",
        "settings": settings.model_dump(),
        "environment": environment(),
        "networks": {},
    }
    try:
        task = load_task(
            settings.task,
            train=settings.train,
            test=settings.test,
            size=settings.size,
            data=data,
        )
    except MissingDataError as error:
        say(f"{settings.name}: {error}")
        return {**result, "missing": str(error), "complete": False, "seconds": 0.0}
    result["task"] = _described(task)
    result.update(failures={}, complete=False)
    several = settings.measures.pooled_images
    trainings = TrainingsOfTask(settings, task, steps, data, say) if several else None
    with tqdm(settings.networks, desc=settings.name, unit="network", disable=None) as bar:
        for name in bar:
            bar.set_postfix_str(name)
            try:
                measured = NetworkOfTask(settings, task, steps, name, methods).measure()
                if trainings is not None:
                    measured["trainings"] = trainings.measure(name)
                    result["across"] = trainings.across()
                result["networks"][name] = measured
            except (ValueError, RuntimeError) as error:
                say(f"{settings.name} {name}: {error}")
                result["failures"][name] = str(error)
            keep({**result, "seconds": steps.seconds - before})
    if trainings is not None:
        try:
            result["labelling"] = trainings.labelling()
        except (ValueError, RuntimeError) as error:
            say(f"{settings.name} labelling: {error}")
            result["failures"]["labelling"] = str(error)
    complete = not result["failures"]
    return {**result, "complete": complete, "seconds": steps.seconds - before}


def _described(task: Task) -> dict[str, Any]:
    ideal, bar = None, task.bar
    if task.signal is not None:
        logits = task.signal.ideal_logits(task.test.images)
        # The figures alone: the ideal observer's own interval is of no interest.
        scores = classification_scores(task.test.labels, Categorical(), logits, resamples=10)
        ideal = {name: found and found["value"] for name, found in scores.items()}
        if scores["auc"] is not None:
            observer = _OBSERVER[str(task.known_answer)]
            bar = Bar(_SHARE * scores["auc"]["value"], f"{_SHARE:g} of the AUC of the {observer}")
    return {
        "name": task.name,
        "classes": list(task.classes),
        "shape": list(task.shape[1:]),
        "train": len(task.train),
        "test": len(task.test),
        "source": task.source,
        "known_answer": task.known_answer,
        "ideal": ideal if task.known_answer == "exact" else None,
        "bar": bar and bar.described(),
        "majority": float(task.test.labels.bincount().max()) / len(task.test),
    }
