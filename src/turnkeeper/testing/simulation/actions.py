"""A life as plain data: settings, and a sequence of actions that can be printed and shortened.

Decides nothing about how an action is carried out.
"""

import textwrap
from typing import Any

from msgspec import Struct

Value = str | int | float | bool | None


class Action(Struct, frozen=True, kw_only=True):
    """One thing that a caller, an operator or the world does."""

    after_seconds: float = 0.0
    """Virtual seconds since the action before it."""
    after_steps: int = 0
    """Then so many turns of the event loop: where between two steps it hits."""
    verb: str
    process: str = ""
    session: str = ""
    facts: dict[str, Value] = {}

    def __str__(self) -> str:
        when = f"+{self.after_seconds:g}s"
        if self.after_steps:
            when += f" and {self.after_steps} steps"
        facts = [f"{name}={value!r}" for name, value in self.facts.items()]
        return " ".join(
            [f"{when:>18} ", *filter(None, (self.process, self.session)), self.verb, *facts]
        )


class Life(Struct, frozen=True, kw_only=True):
    """Everything that happens, but for the order in which ready callbacks run: `seed` has that."""

    seed: int
    store: str
    """`memory` or `sqlite`."""
    shuffled: bool = False
    """Whether ready callbacks run in any order, or in the one in which they were made."""
    by_hand: bool = False
    """Whether executors are attached by callers instead of made by a factory."""
    processes: tuple[str, ...] = ("p0",)
    sessions: tuple[str, ...] = ("s0",)
    steer: str = "at_border"
    cancel: str = "graceful"
    config: dict[str, Any] = {}
    """Settings of `turnkeeper.Config`."""
    profile: str = ""
    """What the profile has of prompts: `coalesce`, `batch`, `debounce`, or no profile."""
    actions: tuple[Action, ...] = ()

    def __str__(self) -> str:
        settings = ", ".join(f"{name}={value}" for name, value in self.config.items())
        world = (
            f"  {self.store}, processes {', '.join(self.processes)}, "
            f"{'shuffled' if self.shuffled else 'in order'}"
            f"{', executors by hand' if self.by_hand else ''}"
            f"{f', prompts {self.profile}' if self.profile else ''}, steer {self.steer}, "
            f"cancel {self.cancel}"
        )
        return "\n".join([*map(str, self.actions), "", world, _wrapped(settings)])


def _wrapped(text: str) -> str:
    return textwrap.fill(text, 98, initial_indent="  ", subsequent_indent="  ")
