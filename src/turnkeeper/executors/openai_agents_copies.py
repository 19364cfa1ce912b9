"""The agents of one run: copies of the user's, with the tools and models that the run needs.

The user's own agents, tools and handoffs are never changed. Their hooks and filters get the agents
that they know.
"""

import copy
from collections.abc import Callable, Collection, Iterable
from dataclasses import replace
from typing import Any

from turnkeeper.errors import NonRetryable, ValidationFailed
from turnkeeper.executors.framework import ToolMode, ToolRules, missing_extra
from turnkeeper.executors.openai_agents_models import Models
from turnkeeper.executors.openai_agents_steps import as_step, is_step, may_be_step, runs_here
from turnkeeper.executors.openai_agents_tools import COPY

try:
    from agents import Agent, Handoff, Model, RunConfig, RunContextWrapper, Tool, handoff
except ModuleNotFoundError as missing:
    raise missing_extra(missing, "openai-agents") from missing


_CANNOT = (
    "cannot be a durable step: the SDK makes one call of such a tool in several parts; leave "
    'tools="as_declared" and do not name the tool in idempotent'
)


def reachable(agent: Agent[Any]) -> list[Agent[Any]]:
    """Return an agent and all that it may hand off to, as far as their handoffs tell."""
    found: dict[int, Agent[Any]] = {}
    ahead: list[Any] = [agent]
    while ahead:
        here = ahead.pop(0)
        if isinstance(here, Handoff):
            here = here._agent_ref() if here._agent_ref is not None else None  # noqa: SLF001
        if isinstance(here, Agent) and id(here) not in found:
            found[id(here)] = here
            ahead += here.handoffs
    return list(found.values())


class AgentToolRules(ToolRules):
    """Which tools of an agent, and of those that it may hand off to, are durable steps. [ADP-14]"""

    def __init__(self, mode: ToolMode, idempotent: Collection[str]) -> None:
        super().__init__(mode, idempotent)
        self._made: dict[int, tuple[Tool, Tool]] = {}
        self.active = self.all_durable or bool(idempotent)

    def check(self, agents: Iterable[Agent[Any]]) -> list[str]:
        """Return the names of the tools that a crash may run twice.

        Raises `ValidationFailed` for names in `idempotent` that no agent has, as far as that can
        be told (an MCP server tells its tools at run time), and for tools that cannot be durable.
        """
        agents = list(agents)
        servers = [server for agent in agents for server in agent.mcp_servers]
        here = [tool for agent in agents for tool in agent.tools if runs_here(tool)]
        known = [tool.name for tool in here]
        self.check_names(known, complete=not servers)
        cannot = sorted({t.name for t in here if self.rule_of(t.name) and not may_be_step(t)})
        if cannot:
            raise ValidationFailed(f"{', '.join(cannot)} {_CANNOT}")
        if self.all_durable:
            return []
        return [
            *(tool.name for tool in here if not (is_step(tool) or self.rule_of(tool.name))),
            *(f"those of the MCP server {server.name}" for server in servers),
        ]

    def of_agent(self, tools: list[Tool]) -> list[Tool]:
        """Return an agent's own tools, durable where they are to be."""
        return [self._kept(tool) for tool in tools] if self.active else tools

    def of_server(self, tools: list[Tool]) -> list[Tool]:
        """Return the tools that MCP servers have just told, durable where they are to be."""
        return [self._applied(tool) for tool in tools]

    def _kept(self, tool: Tool) -> Tool:
        before, made = self._made.get(id(tool), (None, tool))
        if before is not tool:
            made = self._applied(tool)
            self._made[id(tool)] = tool, made
        return made

    def _applied(self, tool: Tool) -> Tool:
        rule = self.rule_of(tool.name) if runs_here(tool) and not is_step(tool) else None
        if rule is None:
            return tool
        if not may_be_step(tool):
            raise NonRetryable(f"{tool.name}, which the agent got later, {_CANNOT}")
        return as_step(tool, rule)


class Copies:
    """The agents of one run."""

    def __init__(self, rules: AgentToolRules, config: RunConfig, taken: set[str]) -> None:
        self.on_transfer: Callable[[str, str], None] = lambda _tool, _message: None
        """Told of each handoff: the name of its tool, and what its call is answered."""
        self.transfers: set[str] = set()
        """The names of the tools that hand off."""
        self._rules = rules
        self._models = Models(config.model_provider, taken)
        self._made: dict[int, Agent[Any]] = {}
        self._originals: dict[int, Agent[Any]] = {}
        model = config.model
        self.config = replace(
            config,
            model=self._models.of(model) if isinstance(model, Model) else model,
            model_provider=self._models,
        )

    def of(self, agent: Agent[Any]) -> Agent[Any]:
        """Return this run's copy of an agent."""
        if id(agent) in self._originals:
            return agent
        made = self._made.get(id(agent))
        if made is None:
            made = self._made[id(agent)] = copy.copy(agent)
            self._originals[id(made)] = agent
            _set(made, COPY, value=True)
            if isinstance(agent.model, Model):
                made.model = self._models.of(agent.model)
            made.tools = self._rules.of_agent(agent.tools)
            made.handoffs = [self._handoff(other) for other in agent.handoffs]
            if self._rules.active and agent.mcp_servers:
                _set(made, "get_mcp_tools", self._told_by_servers(agent))
        return made

    def has(self, agent: Any) -> bool:
        """Whether an agent is one of this run's, and none that runs inside of a tool."""
        return id(agent) in self._originals

    def original(self, agent: Any) -> Any:
        """Return the user's own agent."""
        return self._originals.get(id(agent), agent)

    def _handoff(self, other: Agent[Any] | Handoff[Any, Any]) -> Handoff[Any, Any]:
        given = other if isinstance(other, Handoff) else handoff(other)
        made = copy.copy(given)
        self.transfers.add(made.tool_name)

        async def invoke(ctx: RunContextWrapper[Any], arguments: str) -> Any:
            target = await given.on_invoke_handoff(ctx, arguments)
            if not isinstance(target, Agent):
                return target
            self.on_transfer(given.tool_name, given.get_transfer_message(target))
            return self.of(target)

        made.on_invoke_handoff = invoke
        return made

    def _told_by_servers(self, agent: Agent[Any]) -> Any:
        async def get_mcp_tools(run_context: RunContextWrapper[Any]) -> list[Tool]:
            return self._rules.of_server(await agent.get_mcp_tools(run_context))

        return get_mcp_tools


def _set(agent: Agent[Any], name: str, value: Any) -> None:
    """Set an attribute of a copy that agents do not have, or have as a method."""
    object.__setattr__(agent, name, value)
