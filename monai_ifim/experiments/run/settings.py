"""What one configuration file asks for."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, get_args

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    Field,
    ValidationError,
    model_validator,
)
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from monai_ifim.experiments.measures.amounts import Measures
from monai_ifim.experiments.networks.architectures import ARCHITECTURES, MAX_POOLED
from monai_ifim.experiments.networks.training import (
    Count,
    Rate,
    Recipe,
    Share,
    Strength,
    Switch,
    Variant,
)
from monai_ifim.experiments.tasks.catalogue import TASKS

PROFILES = ("quick", "standard", "full")
_BUNDLE = "bundle"  # the task of a classifier from outside


def _known_task(name: str) -> str:
    if name not in (*TASKS, _BUNDLE):
        raise ValueError(f"expected a task in {[*TASKS, _BUNDLE]}, got {name!r}; choose one")
    return name


def _known_architecture(name: str) -> str:
    if name not in ARCHITECTURES:
        raise ValueError(f"expected a network in {list(ARCHITECTURES)}, got {name!r}; choose one")
    return name


Task = Annotated[str, AfterValidator(_known_task), Field(description="the name of a task")]
Text = Annotated[str, Field(description="a text")]
Names = Annotated[tuple[str, ...], Field(description="a list of names, [a, b]")]
Positive = Annotated[int, Field(strict=True, gt=0, description="a whole number > 0")]
Lengths = Annotated[tuple[Positive, ...], Field(description="a list of whole numbers > 0")]


class NetworkOptions(BaseModel, frozen=True, extra="forbid"):
    """What is different for one network; what is None is not.

    Attributes:
        width: channels or tokens, as in ``Variant``.
        max_pool: keep the max-pooling after the first convolution, as in ``Variant``.
        trainings: how often it is trained.
        lengths: numbers of images seen of its shorter trainings.
        images: of its recipe, and so are the others.
        batch_size: images a step.
        learning_rate: its peak.
        warm_up: share of the steps in which the learning rate rises.
        strength: of the signals at first.
    """

    width: Positive | None = None
    max_pool: Switch | None = None
    trainings: Positive | None = None
    lengths: Lengths | None = None
    images: Count | None = None
    batch_size: Count | None = None
    learning_rate: Rate | None = None
    warm_up: Share | None = None
    strength: Strength | None = None


Options = Annotated[NetworkOptions, BeforeValidator(lambda given: {} if given is None else given)]
Networks = Annotated[
    dict[Annotated[str, AfterValidator(_known_architecture)], Options],
    Field(
        description="a mapping of networks, each with nothing or with its width (above 0), its "
        "trainings, and what is different in its recipe: {cnn: {width: 8}}"
    ),
]


class Settings(BaseModel, frozen=True, extra="forbid"):
    """One experiment: a task, networks, how they are trained and what is measured.

    Attributes:
        name: of the configuration file.
        title: for people.
        profile: ``quick``, ``standard`` or ``full``.
        task: in ``TASKS``, or ``bundle`` for a classifier from outside.
        networks: architectures, with the width where it is not the usual one, and the number of
            trainings and the values of the recipe where they are others.
        train: training images at the most.
        test: test images at the most; at least 2, because one alone has no interval.
        size: to which clinical images are resized.
        recipe: of every training.
        trainings: how often each network is trained, each time with another seed; what several
            trainings share is measured on ``measures.pooled_images``.
        lengths: numbers of images seen of shorter trainings, of which the same is measured.
        seed: of everything that is drawn.
        measures: on how many images to measure what.
        controls: networks that are trained anew with another seed and with shuffled labels.
        training_sizes: numbers of training images to train on besides all of them.
        sized_networks: the networks for which that is done.
    """

    name: Text
    title: Text
    profile: Text
    task: Task
    networks: Networks = {}
    train: Count = 1000
    test: Count = 200
    size: Annotated[Count | None, Field(description="a whole number >= 0, or nothing")] = None
    recipe: Recipe = Recipe()
    trainings: Positive = 1
    lengths: Lengths = ()
    seed: Count = 0
    measures: Measures = Measures()
    controls: Names = ()
    training_sizes: Annotated[tuple[Count, ...], Field(description="a list of whole numbers")] = ()
    sized_networks: Names = ()

    @model_validator(mode="after")
    def _fits_together(self) -> Settings:
        """What would else be found after hours of training."""
        if self.test == 1:
            raise ValueError("test: expected at least 2 images for intervals, got 1; raise it")
        if self.training_sizes and (self.task == _BUNDLE or TASKS[self.task].known_answer is None):
            raise ValueError(
                f"training_sizes: expected a task with a known answer, got {self.task}; take "
                "training_sizes out"
            )
        if self.training_sizes and max(self.training_sizes) >= self.train:
            raise ValueError(
                f"training_sizes: expected numbers below train ({self.train}), the images that "
                f"there are, got {max(self.training_sizes)}; take it out or raise train"
            )
        if self.recipe.fresh and (self.task == _BUNDLE or TASKS[self.task].known_answer is None):
            raise ValueError(
                "recipe.fresh: expected a task whose images are made on the spot, got "
                f"{self.task}; take fresh out"
            )
        if self.task != _BUNDLE and not self.networks:
            raise ValueError("networks: expected at least one, got none; say networks: {cnn: }")
        unknown = {*self.controls, *self.sized_networks} - set(self.networks)
        if unknown:
            raise ValueError(
                f"controls, sized_networks: expected names among the networks "
                f"{list(self.networks)}, got {sorted(unknown)}; add them to networks"
            )
        self._strength_fits()
        self._max_pool_fits()
        return self

    def _strength_fits(self) -> None:
        given: dict[str, Recipe | NetworkOptions] = {"recipe": self.recipe}
        given |= {f"networks.{name}": options for name, options in self.networks.items()}
        stronger = [key for key, options in given.items() if (options.strength or 1) > 1]
        if not stronger:
            return
        if self.task == _BUNDLE or TASKS[self.task].known_answer is None:
            raise ValueError(
                f"{stronger[0]}.strength: expected a task whose signals are added on the spot, got "
                f"{self.task}; take strength out"
            )
        if not self.recipe.fresh:
            raise ValueError(
                f"{stronger[0]}.strength: expected recipe.fresh: true with it, because signals of "
                "images that were made before stay as they are; add it, or take strength out"
            )
        sized = [name for name in self.sized_networks if self.recipe_of(name).strength > 1]
        if self.training_sizes and sized:
            raise ValueError(
                f"training_sizes: expected sized_networks without strength, got {sized}: the "
                "images of a training set stay as they are; take one of both out"
            )

    def _max_pool_fits(self) -> None:
        for name, options in self.networks.items():
            if options.max_pool is False and name not in MAX_POOLED:
                raise ValueError(
                    f"networks.{name}.max_pool: expected it for a network in {list(MAX_POOLED)}, "
                    f"got it for {name}, which has no such layer; take it out"
                )

    def variant_of(self, name: str) -> Variant:
        """What is trained under this name, with the first seed."""
        own = self.networks[name]
        return Variant(name, width=own.width, seed=self.seed, max_pool=own.max_pool is not False)

    def recipe_of(self, name: str) -> Recipe:
        """How the network of this name is trained."""
        own = self.networks[name].model_dump(exclude_none=True)
        return self.recipe.model_copy(
            update={key: value for key, value in own.items() if key in Recipe.model_fields}
        )

    def trainings_of(self, name: str) -> int:
        """How often the network of this name is trained."""
        return self.networks[name].trainings or self.trainings

    def lengths_of(self, name: str) -> tuple[int, ...]:
        """Numbers of images seen of its trainings, rising; the longest is that of its recipe."""
        longest, own = self.recipe_of(name).images, self.networks[name].lengths
        shorter = self.lengths if own is None else own
        return (*sorted({length for length in shorter if length < longest}), longest)


def read_settings(file: Path, profile: str = "standard") -> Settings | None:
    """Read a configuration.

    The file describes the profile ``standard``; below ``profiles`` it says what is different in
    another one. A profile that is not named there does not run this experiment.

    Args:
        file: YAML.
        profile: in ``PROFILES``.

    Returns:
        The settings, or None when the experiment is not part of this profile.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: unknown profile, keys that mean nothing, or values of the wrong kind; the
            message names the file and the key.
    """
    if profile not in PROFILES:
        raise ValueError(f"expected a profile in {list(PROFILES)}, got {profile!r}; choose one")
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"expected YAML in {file}, got {error}; correct the file") from error
    if not isinstance(content, dict) or "task" not in content:
        raise ValueError(
            f"expected a mapping with the key task in {file}, got none; see configs/experiments"
        )
    profiles = content.pop("profiles", None) or {}
    if profile != "standard":
        if profile not in profiles:
            return None
        content = _merged(content, profiles[profile] or {})
    content = {"title": content["task"], **content, "name": file.stem, "profile": profile}
    try:
        return Settings.model_validate(content)
    except ValidationError as error:
        raise ValueError("\n".join(_sentences(file, error.errors()))) from error


def _merged(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """The base with the changes; mappings one level down are merged, but not the networks."""
    merged = {**base, **changes}
    for key in ("recipe", "measures"):
        if key in base and key in changes:
            merged[key] = {**base[key], **changes[key]}
    return merged


def _sentences(file: Path, errors: list[ErrorDetails]) -> list[str]:
    """One for each key that does not fit: file, key, what was expected, what came, what to do."""
    found: dict[str, str] = {}
    for error in errors:
        key, model, expected = _field(error["loc"])
        if error["type"] == "value_error":
            said = str(error["ctx"]["error"])
        elif error["type"] == "extra_forbidden":
            said = f"expected keys from {sorted(model.model_fields)}, got this one; take it out"
        else:
            said = (
                f"expected {expected}, got {error['input']!r} for this key; see configs/experiments"
            )
        place = ".".join(str(part) for part in error["loc"] if part != "[key]")
        # A union, as of a number or nothing, has an error for each of its members.
        found.setdefault(key or place, f"{file}: {place}{': ' if place else ''}{said}")
    return list(found.values())


def _field(loc: tuple[int | str, ...]) -> tuple[str, type[BaseModel], str]:
    """The key that an error is about, the model that it belongs to, and what it should be."""
    if loc[:1] == ("networks",) and len(loc) > 2:
        network, loc = ".".join(map(str, loc[:2])), loc[2:]
        key, model, expected = _field_of(NetworkOptions, loc)
        return f"{network}.{key or loc[0]}", model, expected
    return _field_of(Settings, loc)


def _field_of(
    model: type[BaseModel], loc: tuple[int | str, ...]
) -> tuple[str, type[BaseModel], str]:
    path: list[str] = []
    for part in loc:
        known = model.model_fields.get(str(part))
        if known is None:
            break
        path.append(str(part))
        if not (isinstance(known.annotation, type) and issubclass(known.annotation, BaseModel)):
            return ".".join(path), model, _description(known)
        model = known.annotation
    return ".".join(path), model, "a mapping, name: value"


def _description(known: FieldInfo) -> str:
    """What a field should be; of a value or nothing, what the value should be."""
    if known.description:
        return known.description
    members = [
        meta for part in get_args(known.annotation) for meta in getattr(part, "__metadata__", ())
    ]
    found = [
        meta.description for meta in members if isinstance(meta, FieldInfo) and meta.description
    ]
    return f"{found[0]}, or nothing" if found else "another value"
