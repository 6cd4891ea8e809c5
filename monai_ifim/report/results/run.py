"""Run experiments, write their numbers, figures and the page."""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from monai_ifim.data.atomic import complete_file
from monai_ifim.experiments.maps.methods import AttributionMethod
from monai_ifim.experiments.run.experiment import run_experiment
from monai_ifim.experiments.run.own_classifier import measure_bundle
from monai_ifim.experiments.run.settings import Settings, read_settings
from monai_ifim.experiments.steps import Steps
from monai_ifim.messages import RESEARCH_ONLY
from monai_ifim.report.evidence.page import write_results_page
from monai_ifim.report.results.summary import summary_text

_DIGITS = 6


def run_experiments(
    configs: Sequence[Path],
    output: Path,
    *,
    profile: str = "standard",
    data: Path | None = None,
    bundle: Path | None = None,
    likelihood: str = "",
    cache: Path | None = None,
    methods: Sequence[AttributionMethod] = (),
) -> int:
    """Run the experiments of some configurations, one after the other.

    Every experiment leaves ``OUTPUT/NAME/results.json``; figures and ``OUTPUT/results.md`` follow.
    One that fails is reported; the others are unaffected.

    Args:
        configs: files, or folders of them.
        output: folder of the results.
        profile: ``quick``, ``standard`` or ``full``.
        data: clinical data sets, or the images of the bundle.
        bundle: measure this one; the configuration's task is then ``bundle``.
        likelihood: of the bundle, recognised when empty.
        cache: where trainings and measurements are kept; ``OUTPUT/cache`` by default.
        methods: attribution methods beside the established ones.

    Returns:
        Exit status: 1 when an experiment failed, when the data of one that was named are missing,
        or when no network was measured. From a folder, experiments whose data are missing are
        left out, and the page names them.

    Raises:
        FileNotFoundError: a configuration or a folder that is not there.
        ValueError: a configuration that means nothing, or no experiment in this profile.
    """
    wanted = _wanted(configs, profile, bundle)
    if data is not None and not data.is_dir():
        raise FileNotFoundError(f"expected a folder of images, got {data}; check --data")
    if bundle is not None and data is None:
        raise ValueError("expected --data with the images of the bundle, got none; say --data DIR")
    steps = Steps(cache or output / "cache", say=_say)
    run = _Run(output, steps, profile, data, bundle, likelihood, tuple(methods))
    failed = measured = False
    for settings, file in wanted:
        try:
            result = run.measure(settings, file)
        except (ValueError, OSError, RuntimeError) as error:
            if bundle is not None or len(wanted) == 1:
                raise ValueError(f"the experiment {settings.name} failed: {error}") from error
            result = run.report_failure(settings, file, error)
            failed = True
        asked_for = file in configs  # by name, not as one of a folder
        failed |= bool(result.get("failures") or (asked_for and result.get("missing")))
        measured |= bool(result["networks"])
    if steps.reused:
        _say(f"{steps.reused} steps were found done in an earlier run, {steps.computed} computed")
    _say(f"{write_results_page([output], output / 'results.md')}")
    _say("")
    _say(f"{summary_text(output)}\n{RESEARCH_ONLY}")
    return 1 if failed or not measured else 0


@dataclass(frozen=True)
class _Run:
    """What all experiments of one run share.

    Attributes:
        output: folder of the results.
        steps: keeps trainings and measurements.
        profile: ``quick``, ``standard`` or ``full``.
        data: clinical data sets, or the images of the bundle.
        bundle: the bundle to measure, None for the networks of the configurations.
        likelihood: of the bundle, recognised when empty.
        methods: attribution methods beside the established ones.
    """

    output: Path
    steps: Steps
    profile: str
    data: Path | None
    bundle: Path | None
    likelihood: str
    methods: tuple[AttributionMethod, ...] = ()

    def measure(self, settings: Settings, file: Path) -> dict[str, Any]:
        """The numbers of one experiment; they are written after every network."""

        def keep(result: dict[str, Any]) -> None:
            self._write(result, file)

        if self.bundle is not None and self.data is not None:
            result = measure_bundle(
                settings,
                self.steps,
                self.bundle,
                self.data,
                likelihood=self.likelihood,
                methods=self.methods,
            )
        else:
            result = run_experiment(
                settings,
                self.steps,
                data=self.data,
                methods=self.methods,
                say=_say,
                keep=keep,
            )
        keep(result)
        return result

    def report_failure(self, settings: Settings, file: Path, error: Exception) -> dict[str, Any]:
        """A result without networks, which takes the place of an older one."""
        reason = f"failed: {error}"
        result: dict[str, Any] = {
            "experiment": settings.name,
            "title": settings.title,
            "networks": {},
            "profile": self.profile,
            "missing": reason,
            "complete": False,
        }
        _say(f"{settings.name}: {reason}")
        self._write(result, file)
        return result

    def _write(self, result: dict[str, Any], file: Path) -> None:
        numbers = _rounded({**result, "command": self._command(file)})
        text = json.dumps(numbers, separators=(",", ":"), allow_nan=False)
        with complete_file(self.output / result["experiment"] / "results.json") as partial:
            partial.write_text(text + "\n")

    def _command(self, file: Path) -> str:
        shipped = file.parent.name == "experiments" and file.parent.parent.name == "configs"
        place = f"configs/experiments/{file.name}" if shipped else file.name
        words = ["python", "-m", "monai_ifim", "experiment", place, "--profile", self.profile]
        words += [] if self.bundle is None else ["--bundle", self.bundle.name]
        words += ["--likelihood", self.likelihood] if self.likelihood else []
        words += ["--method", *(m.name for m in self.methods)] if self.methods else []
        return f"{shlex.join(words)} --data DATA --output RESULTS"


def _wanted(
    configs: Sequence[Path], profile: str, bundle: Path | None
) -> list[tuple[Settings, Path]]:
    files: list[Path] = []
    for path in configs:
        if not path.exists():
            raise FileNotFoundError(
                f"expected a configuration file or a folder of them, got {path}; see "
                "configs/experiments"
            )
        files += sorted(path.glob("*.yaml")) if path.is_dir() else [path]
    read = [(read_settings(file, profile), file) for file in files]
    chosen = [
        (settings, file)
        for settings, file in read
        if settings is not None and (settings.task == "bundle") == (bundle is not None)
    ]
    if not chosen:
        raise ValueError(
            f"expected an experiment with the profile {profile} in "
            f"{', '.join(map(str, configs))}, got none; a configuration with task: bundle needs "
            "--bundle and --data, any other one goes without --bundle"
        )
    return chosen


def _rounded(value: Any) -> Any:
    """Numbers with six digits: more are noise, and make the file large."""
    if isinstance(value, float):
        return float(f"{value:.{_DIGITS}g}") if math.isfinite(value) else value
    if isinstance(value, dict):
        return {key: _rounded(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(entry) for entry in value]
    return value


def _say(line: str) -> None:
    tqdm.write(line)
