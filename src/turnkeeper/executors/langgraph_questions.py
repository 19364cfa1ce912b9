"""Questions that a graph asks with `interrupt()`, and the answers in the form that it reads.

LangChain's `HumanInTheLoopMiddleware` reads decisions of its own; everything else gets the plain
answer. Decides which is which, by the form of the question.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from msgspec import Struct

from turnkeeper.errors import NonRetryable
from turnkeeper.executors.approvals import Decided
from turnkeeper.executors.langgraph_messages import as_json

_DECISIONS = ("approve", "edit", "reject", "respond")


class Denied(Struct, frozen=True):
    """What `interrupt()` gives where a person said no, or nothing in time; it is false."""

    words: str

    def __bool__(self) -> bool:
        return False


class _Action(Struct, frozen=True):
    """A tool call that the middleware wants reviewed."""

    name: str
    arguments: Any
    description: str
    allowed: Sequence[str]


def text_of(asked: Any) -> str | None:
    """What a person can read of what `interrupt()` asks; None if it has no text."""
    actions = _actions(asked)
    if actions:
        return "\n\n".join(map(_text, actions))
    words = asked.get("question") if isinstance(asked, Mapping) else asked
    return words if isinstance(words, str) else None


def resume_value(asked: Any, decided: Decided) -> Any:
    """What `interrupt()` gives for a decision. [ADP-27]

    Raises `NonRetryable` for a decision that the middleware does not allow for its tool.
    """
    actions = _actions(asked)
    if actions:
        decisions = _decisions(actions, decided)
        return {"decisions": decisions} if "action_requests" in asked else decisions[0]
    if not decided.approved:
        return Denied(decided.words)
    return True if decided.value is None else decided.value


def _actions(asked: Any) -> list[_Action]:
    """The tool calls of a question of the middleware's; empty if it is none."""
    if not isinstance(asked, Mapping):
        return []
    requests = asked.get("action_requests")
    if isinstance(requests, Sequence) and all(isinstance(r, Mapping) for r in requests):
        configs = asked.get("review_configs") or [{}] * len(requests)
        return [_action(r, c) for r, c in zip(requests, configs, strict=False)]
    if asked.get("type") == "tool_approval" and isinstance(asked.get("name"), str):
        return [_action(asked, {})]
    return []


def _action(request: Mapping[str, Any], config: Mapping[str, Any]) -> _Action:
    return _Action(
        str(request.get("name")),
        request.get("args"),
        str(request.get("description") or ""),
        tuple(config.get("allowed_decisions") or _DECISIONS),
    )


def _text(action: _Action) -> str:
    asked = f"May {action.name} be called with {as_json(action.arguments)}?"
    # The middleware's own description says no more than that.
    own = f"Tool: {action.name}" in action.description and "Args:" in action.description
    return asked if own or not action.description else f"{asked}\n{action.description}"


def _decisions(actions: Sequence[_Action], decided: Decided) -> list[Any]:
    value = decided.value
    if not decided.approved:
        return [_refusal(action, decided.words) for action in actions]
    if value is None or value is True:
        return [_plain_yes(action) for action in actions]
    if isinstance(value, Mapping) and isinstance(listed := value.get("decisions"), list):
        if len(listed) != len(actions):
            raise NonRetryable(
                f"the approval's value has {len(listed)} decisions for {len(actions)} tool calls; "
                "requeue the input, and give one decision for each call"
            )
        return listed
    if len(actions) > 1:
        raise NonRetryable(
            f"the approval is about {len(actions)} tool calls, and its value is not a list of "
            'their decisions: {"decisions": [...]}, one for each call'
        )
    return [_one(actions[0], value)]


def _one(action: _Action, value: Any) -> Any:
    """The decision about one call: in the middleware's form, or the arguments to call with."""
    if isinstance(value, Mapping):
        if value.get("type") in _DECISIONS and value.keys() <= {"type", "edited_action", "message"}:
            return value
        if "edit" in action.allowed:
            return {"type": "edit", "edited_action": {"name": action.name, "args": {**value}}}
    elif isinstance(value, str) and "respond" in action.allowed:
        return {"type": "respond", "message": value}
    raise _not_allowed(action, f"the value {value!r:.100}")


def _plain_yes(action: _Action) -> dict[str, Any]:
    if "approve" not in action.allowed:
        raise _not_allowed(action, "a plain yes")
    return {"type": "approve"}


def _refusal(action: _Action, words: str) -> dict[str, Any]:
    for kind in ("reject", "respond"):
        if kind in action.allowed:
            return {"type": kind, "message": words}
    raise _not_allowed(action, "a no, or no answer in time,")


def _not_allowed(action: _Action, what: str) -> NonRetryable:
    return NonRetryable(
        f"{what} is no decision about {action.name!r}: its HumanInTheLoopMiddleware allows "
        f"{', '.join(action.allowed)}"
    )
