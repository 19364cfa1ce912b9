"""The shortest history that still breaks the guarantee: actions are left out as long as it does.

Decides what is left out next. It knows nothing of what an action means.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from msgspec.structs import replace

from turnkeeper.testing.simulation.actions import Action, Life


@dataclass
class Budget:
    """How many lives shrinking may cost."""

    left: int


def shrink(life: Life, still_breaks: Callable[[Life], bool], lives: int = 400) -> Life:
    """A life like `life`, with as few actions as `lives` tries can find, that still breaks.

    It ends when no single action can be left out, nor a pause or a script made shorter.
    """
    budget = Budget(lives)

    def breaks(candidate: Life) -> bool:
        if budget.left <= 0:
            return False
        budget.left -= 1
        return still_breaks(candidate)

    for simpler in _worlds(life):
        if breaks(simpler):
            life = simpler
            break
    before = None
    while before != life and budget.left > 0:
        before = life
        life = _fewer(life, breaks)
        life = _plainer(life, breaks)
    return life


def _worlds(life: Life) -> Iterator[Life]:
    """Smaller worlds for the same actions, the smallest first."""
    place, session = life.processes[0], life.sessions[0]
    alone = [replace(action, process=place) for action in life.actions]
    narrow = [replace(action, session=session if action.session else "") for action in alone]
    in_one_process = replace(life, processes=(place,), actions=tuple(alone), shuffled=False)
    yield replace(in_one_process, sessions=(session,), actions=tuple(narrow), profile="")
    yield replace(in_one_process, sessions=(session,), actions=tuple(narrow))
    yield in_one_process
    yield replace(life, shuffled=False)


def _fewer(life: Life, breaks: Callable[[Life], bool]) -> Life:
    """Leave out ever smaller pieces."""
    size = max(1, len(life.actions) // 2)
    while size:
        start = len(life.actions) - size
        while start >= 0:
            rest = (*life.actions[:start], *life.actions[start + size :])
            candidate = replace(life, actions=rest)
            if breaks(candidate):
                life = candidate
            elif size == 1 and (later := _without(life, start)) is not None and breaks(later):
                life = later
            start -= size
        size //= 2
    return life


def _without(life: Life, place: int) -> Life | None:
    """Without one action, but with its pause; None if it has none, or nothing follows."""
    gone, rest = life.actions[place], life.actions[place + 1 :]
    if not gone.after_seconds or not rest:
        return None
    late = replace(rest[0], after_seconds=rest[0].after_seconds + gone.after_seconds)
    return replace(life, actions=(*life.actions[:place], late, *rest[1:]))


def _plainer(life: Life, breaks: Callable[[Life], bool]) -> Life:
    """Make each action that is left as plain as it can be."""
    for place in range(len(life.actions)):
        for plainer in _forms(life.actions[place]):
            actions = (*life.actions[:place], plainer, *life.actions[place + 1 :])
            candidate = replace(life, actions=actions)
            if breaks(candidate):
                life = candidate
                break
    return life


def _forms(action: Action) -> Iterator[Action]:
    """Plainer forms of an action, the plainest first."""
    for name in action.facts:
        if name not in ("label", "script", "text"):
            facts = {key: value for key, value in action.facts.items() if key != name}
            if action.verb in ("submit", "one_turn", "crash"):
                yield replace(action, facts=facts)
    script = str(action.facts.get("script", ""))
    for shorter in _scripts(script):
        yield replace(action, facts={**action.facts, "script": shorter})
    if action.after_steps:
        yield replace(action, after_steps=0)
    if action.after_seconds:
        yield replace(action, after_seconds=0.0)


def _scripts(script: str) -> Iterator[str]:
    parts = script.split(";")
    if len(parts) > 1:
        yield from (";".join(parts[:i] + parts[i + 1 :]) for i in range(len(parts)))
    for i, part in enumerate(parts):
        words = part.split(",")
        if len(words) > 1:
            for j in range(len(words)):
                fewer = ",".join(words[:j] + words[j + 1 :])
                yield ";".join([*parts[:i], fewer, *parts[i + 1 :]])
