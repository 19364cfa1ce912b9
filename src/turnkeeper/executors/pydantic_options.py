"""What a user has configured for agents of Pydantic AI: which tools are durable, what a run gets.

Decides which option is obeyed, and which is refused when the agent is built.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from turnkeeper.errors import ValidationFailed
from turnkeeper.executors.framework import ToolRules, missing_extra
from turnkeeper.executors.pydantic_tools import RULE
from turnkeeper.executors.steps import StepRule
from turnkeeper.turn import Turn

try:
    from pydantic_ai import Agent
    from pydantic_ai.agent import AbstractAgent
    from pydantic_ai.tools import ToolDefinition
    from pydantic_ai.toolsets import (
        AbstractToolset,
        CombinedToolset,
        ExternalToolset,
        FunctionToolset,
        PrefixedToolset,
        RenamedToolset,
        SetMetadataToolset,
        WrapperToolset,
    )
    from pydantic_ai.usage import UsageLimits
except ModuleNotFoundError as missing:
    raise missing_extra(missing, "pydantic-ai") from missing


@dataclass(frozen=True)
class RunOptions:
    """What each run of an agent is given."""

    deps: Callable[[Turn], Any] | None = None
    model_settings: Any = None
    usage_limits: UsageLimits | None = None
    metadata: Any = None
    toolsets: Sequence[AbstractToolset[Any]] | None = None

    def of(self, turn: Turn) -> dict[str, Any]:
        """Return the arguments for the run of a turn."""
        return {
            "deps": None if self.deps is None else self.deps(turn),
            "model_settings": self.model_settings,
            # The framework's own default would end a turn at 50 requests.
            "usage_limits": self.usage_limits or UsageLimits(request_limit=None),
            "metadata": self.metadata,
            "toolsets": self.toolsets,
        }


class ToolsetRules(ToolRules):
    """Which tools of an agent's toolsets are durable steps. [ADP-14]"""

    def of(self, tool: ToolDefinition) -> StepRule | None:
        """Return how a call of this tool is recorded; None if it is not."""
        declared = (tool.metadata or {}).get(RULE)
        if isinstance(declared, StepRule):
            return declared
        # The framework's own tools, such as its search for tools, do nothing outside of it.
        own = tool.tool_kind is not None and tool.name not in self.idempotent
        return None if own else self.rule_of(tool.name)

    def check(self, toolsets: Sequence[AbstractToolset[Any]]) -> list[str]:
        """Return the names of the tools that a crash may run twice.

        Raises `ValidationFailed` for names in `idempotent` that no tool has, as far as that can be
        told: a dynamic toolset and an MCP server tell their tools at run time.
        """
        found = [tool for toolset in toolsets for tool in _tools(toolset)]
        known = [tool.name for tool in found if not tool.later]
        self.check_names(known, complete=not any(tool.later for tool in found))
        return [t.name for t in found if not (t.declared or self.rule_of(t.name))]


@dataclass(frozen=True)
class _Tool:
    name: str
    declared: bool = False
    later: bool = False
    """Stands for all tools of a toolset whose names are known at run time only."""


def _tools(toolset: AbstractToolset[Any]) -> Iterator[_Tool]:
    """What is known of a toolset's tools before any run."""
    if isinstance(toolset, FunctionToolset):
        for name, function in toolset.tools.items():
            metadata = {**(toolset.metadata or {}), **(function.metadata or {})}
            yield _Tool(name, isinstance(metadata.get(RULE), StepRule))
    elif isinstance(toolset, CombinedToolset):
        for each in toolset.toolsets:
            yield from _tools(each)
    elif isinstance(toolset, WrapperToolset):
        for tool in _tools(toolset.wrapped):
            yield _Tool(_name(toolset, tool), tool.declared or _declares(toolset), tool.later)
    elif not isinstance(toolset, ExternalToolset):
        yield _Tool(f"those of {toolset.label}", later=True)


def _name(toolset: WrapperToolset[Any], tool: _Tool) -> str:
    if tool.later:
        return tool.name
    if isinstance(toolset, PrefixedToolset):
        return f"{toolset.prefix}_{tool.name}"
    if isinstance(toolset, RenamedToolset):
        return {old: new for new, old in toolset.name_map.items()}.get(tool.name, tool.name)
    return tool.name


def _declares(toolset: WrapperToolset[Any]) -> bool:
    if not isinstance(toolset, SetMetadataToolset):
        return False
    return isinstance(toolset.metadata.get(RULE), StepRule)


def check_agent(agent: object) -> None:
    """Raise `ValidationFailed` for an object that is no agent of the framework."""
    if not isinstance(agent, AbstractAgent):
        raise ValidationFailed(
            f"durable_agent takes an {Agent.__name__} of Pydantic AI, not {type(agent).__name__}"
        )
