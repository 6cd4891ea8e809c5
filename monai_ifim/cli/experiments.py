"""Commands of the experiments and their page of results."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import TYPE_CHECKING

from monai_ifim.cli.bundles import configurations
from monai_ifim.cli.command import Command

if TYPE_CHECKING:
    from monai_ifim.experiments.maps.explainers import OwnMethod


def _experiment_arguments(parser: ArgumentParser) -> None:
    parser.add_argument(
        "config", nargs="+", help="files, folders of them, or names of configs/experiments"
    )
    parser.add_argument("--output", type=Path, required=True, help="folder of the results")
    parser.add_argument(
        "--profile",
        choices=["quick", "standard", "full"],
        default="standard",
        help="how much to train and measure (%(default)s)",
    )
    parser.add_argument("--data", type=Path, help="clinical data sets, or the bundle's images")
    parser.add_argument("--bundle", type=Path, help="measure this bundle; task: bundle")
    parser.add_argument(
        "--likelihood",
        default="",
        help="of the bundle: categorical (softmax), bernoulli (sigmoids) or another family's name "
        "(recognised when left out)",
    )
    parser.add_argument(
        "--method",
        nargs="+",
        default=[],
        metavar="MODULE:FUNCTION",
        help="an attribution method of your own, compared with the others: package.module:name or "
        "file.py:name of a function (model, inputs, targets), as Quantus has them",
    )
    parser.add_argument("--cache", type=Path, help="of finished steps (OUTPUT/cache)")


def _experiment(options: Namespace) -> int:
    from monai_ifim.report.results.run import run_experiments

    known = configurations("experiments")
    return run_experiments(
        [known.get(name, Path(name)) for name in options.config],
        options.output,
        profile=options.profile,
        data=options.data,
        bundle=options.bundle,
        likelihood=options.likelihood,
        cache=options.cache,
        methods=[_own_method(name) for name in options.method],
    )


def _own_method(text: str) -> OwnMethod:
    """The function that a text names, as an attribution method."""
    import hashlib
    import inspect

    from monai_ifim.experiments.maps.explainers import OwnMethod
    from monai_ifim.messages import reason
    from monai_ifim.runs.weights import looked_up

    place, _, name = text.rpartition(":")
    try:
        function = looked_up(place, name)
        source = inspect.getsource(inspect.getmodule(function) or function)
    except Exception as error:  # the user's code raises what it likes
        raise ValueError(
            f"expected --method package.module:function or file.py:function, got {text!r}: "
            f"{reason(error)}; name a function (model, inputs, targets) that gives attributions"
        ) from error
    return OwnMethod(name, function, hashlib.sha256(source.encode()).hexdigest()[:16])


def _page_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("results", nargs="+", type=Path, help="folders that experiment has filled")
    parser.add_argument("page", type=Path, help="Markdown file to write")


def _page(options: Namespace) -> None:
    from monai_ifim.report.evidence.page import write_results_page

    print(write_results_page(options.results, options.page))


COMMANDS = (
    Command(
        "experiment",
        "train and measure networks: numbers, plots and a page of results",
        "experiment signal_2d --profile quick --output results",
        _experiment_arguments,
        _experiment,
        extra="experiments",
    ),
    Command(
        "evidence-page",
        "draw the page of results anew, with its tables and figures",
        "evidence-page results results/results.md",
        _page_arguments,
        _page,
        alias="results-page",
        extra="experiments",
    ),
)
