"""Options of a run of the OpenAI Agents SDK: which are obeyed, and which are refused."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from turnkeeper.errors import ValidationFailed
from turnkeeper.executors.framework import missing_extra
from turnkeeper.turn import Turn

try:
    from agents import RunConfig, RunErrorHandlers, RunHooks
    from agents.lifecycle import RunHooksBase
except ModuleNotFoundError as missing:
    raise missing_extra(missing, "openai-agents") from missing

_NO_SESSION = (
    "Turnkeeper keeps the history itself and uses no session of the SDK; to change what the model "
    "reads, use run_config.call_model_input_filter"
)
REFUSED = {
    "session_input_callback": _NO_SESSION,
    "session_settings": _NO_SESSION,
}
"""Fields of `RunConfig` that nothing could obey, with the reason."""


@dataclass(frozen=True)
class RunOptions:
    """What each run of an agent is given."""

    config: RunConfig
    context: Callable[[Turn], Any] | None
    hooks: RunHooks[Any] | None
    error_handlers: RunErrorHandlers[Any] | None


def check_options(
    config: RunConfig,
    hooks: RunHooks[Any] | None,
    error_handlers: RunErrorHandlers[Any] | None,
    *,
    all_durable: bool,
) -> None:
    """Raise `ValidationFailed` for an option that no run could obey. [ADP-21]

    `all_durable`: every tool is to be a durable step.
    """
    if not isinstance(config, RunConfig):
        raise ValidationFailed(f"run_config is a RunConfig of the SDK, not {config!r}")
    for name, reason in REFUSED.items():
        if getattr(config, name) is not None:
            raise ValidationFailed(f"run_config.{name} cannot be used: {reason}")
    if all_durable and config.sandbox is not None:
        raise ValidationFailed(
            'run_config.sandbox cannot be used with tools="durable": a sandbox brings tools of its '
            "own at run time, and they cannot be durable steps"
        )
    if hooks is not None and not isinstance(hooks, RunHooksBase):
        raise ValidationFailed(
            f"hooks are RunHooks of the SDK, not {type(hooks).__name__}; hooks of one agent belong "
            "to Agent(hooks=...)"
        )
    if "max_turns" in (error_handlers or {}):
        raise ValidationFailed(
            "error_handlers['max_turns'] would never be called: the SDK's max_turns is off, and "
            "limits=TurnLimits(model_calls=...) bounds a turn"
        )
