"""What an agent of Pydantic AI is configured with, and what a durable one makes of that.

Decides which tools are durable steps, and what becomes of each parameter of the framework's run.
"""

from collections.abc import Callable, Collection, Sequence
from typing import Any

from msgspec import Struct

from turnkeeper.errors import ValidationFailed
from turnkeeper.executors.framework import (
    ToolMode,
    check_tool_names,
    missing_extra,
)
from turnkeeper.executors.pydantic_tools import RULE
from turnkeeper.executors.steps import StepRule
from turnkeeper.turn import Turn

try:
    from pydantic_ai import Agent
    from pydantic_ai.settings import ModelSettings
    from pydantic_ai.tools import ToolDefinition
    from pydantic_ai.toolsets import AbstractToolset, FunctionToolset, WrapperToolset
    from pydantic_ai.usage import UsageLimits
except ModuleNotFoundError as missing:
    raise missing_extra(missing, "pydantic-ai") from missing


class Options(Struct, frozen=True, kw_only=True):
    """What `durable_agent` was given for each run of the framework."""

    deps: Callable[[Turn], Any] | None = None
    model_settings: ModelSettings | None = None
    usage_limits: UsageLimits | None = None
    toolsets: Sequence[AbstractToolset[Any]] = ()

    @property
    def limits(self) -> UsageLimits:
        """The framework's limits, where its own limit of requests is not on by default."""
        return self.usage_limits or UsageLimits(request_limit=None)


class ToolRules:
    """Which tools of an agent are durable steps. [ADP-14]"""

    def __init__(
        self,
        agent: Agent[Any, Any],
        toolsets: Sequence[AbstractToolset[Any]],
        tools: ToolMode,
        idempotent: Collection[str],
    ) -> None:
        """Raises `ValidationFailed` for a name in `idempotent` that no tool has.

        Tools of other toolsets than the framework's own functions are known at run time only: with
        one of those no name is refused.
        """
        if tools not in ("as_declared", "durable"):
            raise ValidationFailed(f"tools is 'as_declared' or 'durable', not {tools!r:.50}")
        self._all = tools == "durable"
        known, unrecorded, others = _tools_of([*agent.toolsets, *toolsets])
        check_tool_names(idempotent, [*known, *idempotent] if others else known)
        self._idempotent = frozenset(idempotent)
        self.unrecorded = () if self._all else (*(unrecorded - self._idempotent), *others)
        """What the warning names: tools, and toolsets whose tools are known at run time only."""

    def of(self, tool: ToolDefinition) -> StepRule | None:
        """The rule of a tool that is about to be called, or None for one that is no step."""
        declared = (tool.metadata or {}).get(RULE)
        if isinstance(declared, StepRule):
            return declared
        if tool.name in self._idempotent:
            return StepRule(idempotent=True)
        return StepRule() if self._all and tool.kind != "output" else None


def _is_declared(toolset: AbstractToolset[Any]) -> bool:
    """Whether all tools of a toolset are declared durable, by `with_metadata`."""
    while isinstance(toolset, WrapperToolset):
        if RULE in (getattr(toolset, "metadata", None) or {}):
            return True
        toolset = toolset.wrapped
    return False


def _tools_of(
    toolsets: Sequence[AbstractToolset[Any]],
) -> tuple[set[str], set[str], list[str]]:
    """Names of tools, of those that are not declared, and toolsets whose tools are not known."""
    known: set[str] = set()
    unrecorded: set[str] = set()
    others: list[str] = []
    for toolset in toolsets:
        if not isinstance(toolset, FunctionToolset):
            if not _is_declared(toolset):
                others.append(f"those of {toolset.label}")
            continue
        for name, tool in toolset.tools.items():
            known.add(name)
            if not isinstance((tool.metadata or {}).get(RULE), StepRule):
                unrecorded.add(name)
    return known, unrecorded, others
