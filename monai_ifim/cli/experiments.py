"""Commands of the experiments and their page of results."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path

from monai_ifim.cli.bundles import configurations
from monai_ifim.cli.command import Command


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
    )


def _page_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("results", type=Path, help="folder that experiment has filled")
    parser.add_argument("page", type=Path, help="Markdown file to write")
    parser.add_argument(
        "--trainings", action="store_true", help="the page of what several trainings share"
    )


def _page(options: Namespace) -> None:
    from monai_ifim.report.results.page import write_results_page
    from monai_ifim.report.trainings.page import write_trainings_page

    if options.trainings:
        print(write_trainings_page(options.results, options.page))
        return
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
        "draw the page of results anew",
        "evidence-page results results/results.md",
        _page_arguments,
        _page,
        alias="results-page",
        extra="experiments",
    ),
)
