"""Functions of an engine's events: added once, taken back, told of an error first and last."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from ignite.engine import Engine, Events

Pair = tuple[Any, Callable[..., Any]]
"""An event and what is called then."""


def add_handlers(engine: Engine, pairs: Iterable[Pair]) -> None:
    """Add those that are not there.

    Args:
        engine: that fires the events.
        pairs: to add.
    """
    for event, function in pairs:
        if not engine.has_event_handler(function, event):
            engine.add_event_handler(event, function)


def remove_handlers(engine: Engine, pairs: Iterable[Pair]) -> None:
    """Take back those that are there.

    Args:
        engine: that fires the events.
        pairs: to take back.
    """
    for event, function in pairs:
        if engine.has_event_handler(function, event):
            engine.remove_event_handler(function, event)


def put_in_order(engine: Engine, first: Callable[..., Any], last: Callable[..., Any]) -> None:
    """Call one method of handlers before all others at an engine's errors, and one after them.

    MONAI's ``StatsHandler`` and ``CheckpointSaver`` raise the error themselves, and Ignite calls
    nobody after that. Several handlers of one kind keep their order, which is that of the ranks.

    Args:
        engine: that both are attached to.
        first: a method, saves what there is.
        last: a method, raises the error.
    """
    ours = [getattr(method, "__func__", method) for method in (first, last)]

    def place(entry: tuple[Any, ...]) -> int:
        method = getattr(entry[0], "__func__", entry[0])
        return (method is ours[1]) - (method is ours[0])

    engine._event_handlers[Events.EXCEPTION_RAISED].sort(key=place)
