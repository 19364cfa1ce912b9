"""Settings of a compiled graph: each is obeyed, or refused by name when the graph is made durable.

Decides which tools of a graph become durable steps, and the other arguments of a run.
Nothing here changes the caller's graph.
"""

import copy
import inspect
import warnings
from collections.abc import Collection, Iterator
from dataclasses import MISSING, fields, is_dataclass
from typing import Any

from turnkeeper.errors import ValidationFailed
from turnkeeper.executors.framework import (
    ToolRules,
    UnrecordedToolsWarning,
    missing_extra,
)
from turnkeeper.executors.langgraph_tools import DurableTool, durable_tool
from turnkeeper.turn import Turn

try:
    from langchain_core.tools import BaseTool
    from langgraph.graph.state import CompiledStateGraph
    from langgraph.prebuilt import ToolNode
    from langgraph.pregel import Pregel
    from pydantic import BaseModel, ValidationError
except ModuleNotFoundError as missing:
    raise missing_extra(missing, "langgraph") from missing

Graph = CompiledStateGraph[Any, Any, Any, Any]

IRRELEVANT_OPTIONS = {
    "input": "the adapter's: the conversation and the turn's words",
    "config": "the adapter's, merged with the graph's own with_config(...)",
    "stream_mode": "the adapter's: what it reads to commit and to stream",
    "print_mode": "prints to the console, and changes nothing",
    "output_keys": "the adapter reads the whole state",
    "interrupt_before": "compiled in, it is refused; interrupt() is how a graph waits",
    "interrupt_after": "the adapter's: it commits after each step",
    "durability": "the adapter's: the session's store is the only durable place",
    "control": "an interrupt of the session ends a run",
    "subgraphs": "a subgraph is one step of the outer graph",
    "debug": "compiled in, it is obeyed",
    "version": "the form of what the adapter reads",
    "kwargs": "LangGraph's deprecated names",
}
"""Parameters of a graph's `astream` that a caller of `durable_agent` cannot give, and why."""

PASSED_ON = ("context",)
"""Parameters of a graph's `astream` that `durable_agent` takes."""

_CHECKPOINT_KEYS = ("thread_id", "checkpoint_ns", "checkpoint_id", "checkpoint_map")


class GraphCheckpointerWarning(UserWarning):
    """A graph was compiled with a checkpointer, which is not used: the session is its memory."""


def check_graph(graph: Graph) -> None:
    """Raise `ValidationFailed` if the graph has what no durable run can obey. [ADP-26]"""
    if not isinstance(graph, CompiledStateGraph):
        raise ValidationFailed(
            f"durable_agent takes a compiled graph, not {type(graph).__name__}: call compile() on "
            "the builder, and give options with with_config(...)"
        )
    for name in ("interrupt_before", "interrupt_after"):
        if nodes := getattr(graph, f"{name}_nodes"):
            raise ValidationFailed(
                f"the graph was compiled with {name}={nodes!r}, where nobody is asked anything: "
                "call interrupt() in the node, which asks a person, and compile without it"
            )
    config: Any = graph.config or {}
    for name in _CHECKPOINT_KEYS:
        if name in config.get("configurable", {}):
            raise ValidationFailed(
                f"the graph's config has {name}: the session is the thread; leave it out"
            )
    if config.get("run_id") is not None:
        raise ValidationFailed(
            "the graph's config has run_id, and each step is a run: leave it out"
        )
    _check_checkpointers(graph)


def _check_checkpointers(graph: Graph) -> None:
    for path, inner in graph.get_subgraphs(recurse=True):
        if isinstance(inner, Pregel) and inner.checkpointer not in (None, False):
            raise ValidationFailed(
                f"subgraph {path!r} has a checkpointer of its own, and would lose its memory: keep "
                "what it must remember in the outer graph's state, and compile it without"
            )
    if graph.checkpointer is True:
        raise ValidationFailed(
            "the graph was compiled with checkpointer=True, which is a subgraph's"
        )
    if graph.checkpointer:
        warnings.warn(
            f"the graph's {type(graph.checkpointer).__name__} is not used: the session's store "
            "keeps the conversation and the state; compile the graph without a checkpointer",
            GraphCheckpointerWarning,
            stacklevel=4,
        )


# -- context ---------------------------------------------------------------------------------------


def check_context(graph: Graph, context: Any) -> None:
    """Raise `ValidationFailed` if the graph's `context_schema` wants another context. [ADP-26]"""
    schema = graph.context_schema
    if schema is None or _makes(schema, context):
        return
    if context is None:
        wanted = _required(schema)
        if wanted:
            raise ValidationFailed(
                f"the graph's context_schema {schema.__name__} requires {', '.join(wanted)}: give "
                "durable_agent(graph, context=...), a value or a function of the turn"
            )
        return
    made_of_fields = is_dataclass(schema) or issubclass(schema, BaseModel)
    if isinstance(context, dict):
        lacking = [name for name in _required(schema) if name not in context]
        try:
            if made_of_fields:
                schema(**context)
        except (TypeError, ValidationError) as error:
            raise ValidationFailed(f"context is no {schema.__name__}: {error}") from error
        if lacking:
            raise ValidationFailed(f"context lacks {', '.join(lacking)}")
    elif made_of_fields and not isinstance(context, schema):
        raise ValidationFailed(f"context is {type(context).__name__}, and no {schema.__name__}")


def context_of(graph: Graph, context: Any, turn: Turn) -> Any:
    """The context of a turn, as the graph's nodes read it."""
    schema = graph.context_schema
    made = context(turn) if _makes(schema, context) else context
    if isinstance(made, dict) and schema is not None:
        return schema(**made)
    return made


def _makes(schema: Any, context: Any) -> bool:
    """Whether it is a function of the turn, and no context by itself."""
    itself = isinstance(schema, type) and not _is_typed_dict(schema) and isinstance(context, schema)
    return callable(context) and not itself


def _is_typed_dict(schema: Any) -> bool:
    return hasattr(schema, "__required_keys__")


def _required(schema: Any) -> list[str]:
    if is_dataclass(schema):
        given = [f for f in fields(schema) if f.init]
        return [f.name for f in given if f.default is MISSING and f.default_factory is MISSING]
    if isinstance(schema, type) and issubclass(schema, BaseModel):
        return [name for name, field in schema.model_fields.items() if field.is_required()]
    return sorted(getattr(schema, "__required_keys__", ()))


# -- tools -----------------------------------------------------------------------------------------


def with_durable_tools(graph: Graph, rules: ToolRules) -> tuple[Graph, list[str]]:
    """Make the tools that are wanted durable steps, in a copy of the graph. [ADP-14]

    They are those of the graph's own `ToolNode`s. Tools of a subgraph, and those of a `ToolNode`
    that a node calls by itself, stay as they are. Returns the copy, and the names of the tools
    that are neither durable nor idempotent.
    """
    own = {
        name: node.bound for name, node in graph.nodes.items() if isinstance(node.bound, ToolNode)
    }
    inner = {tool.name: tool for node in _inner_tool_nodes(graph) for tool in _tools(node)}
    known = {tool.name for node in own.values() for tool in _tools(node)}
    rules.check_names({*known, *inner})
    nodes = {**graph.nodes}
    left = [t.name for t in inner.values() if not isinstance(t, DurableTool)]
    for name, tool_node in own.items():
        made = {t.name: _made(t, rules) for t in _tools(tool_node)}
        durable = sorted(n for n, tool in made.items() if isinstance(tool, DurableTool))
        left += [n for n in made if n not in durable]
        _check_wrapper(name, tool_node, durable)
        if any(made[tool.name] is not tool for tool in _tools(tool_node)):
            nodes[name] = graph.nodes[name].copy({"bound": _with_tools(tool_node, made)})
    if rules.all_durable and not own:
        _warn_of_nodes(graph)
    return graph.copy(update={"nodes": nodes}), [n for n in left if n not in rules.idempotent]


def _tools(node: ToolNode) -> Collection[BaseTool]:
    return node.tools_by_name.values()


def _made(tool: BaseTool, rules: ToolRules) -> BaseTool:
    rule = None if isinstance(tool, DurableTool) else rules.rule_of(tool.name)
    return tool if rule is None else durable_tool(tool, idempotent=rule.idempotent)


def _with_tools(node: ToolNode, tools: dict[str, BaseTool]) -> ToolNode:
    """A copy of the node that calls other tools; the framework has no call for that."""
    made = copy.copy(node)
    made._tools_by_name = tools  # noqa: SLF001 - what `tools_by_name` gives
    for name in ("func", "afunc"):
        method = getattr(node, name)
        if getattr(method, "__self__", None) is node:
            setattr(made, name, method.__func__.__get__(made))
    return made


def _check_wrapper(name: str, node: ToolNode, durable: list[str]) -> None:
    wrapped: Any = node
    if durable and wrapped._wrap_tool_call and not wrapped._awrap_tool_call:  # noqa: SLF001
        raise ValidationFailed(
            f"node {name!r} calls its tools through wrap_tool_call, which is synchronous, so that "
            f"no step could record {', '.join(durable)}: give its ToolNode awrap_tool_call"
        )


def _inner_tool_nodes(graph: Graph) -> Iterator[ToolNode]:
    """Those of subgraphs, and those that a node's function calls by itself."""
    for _, inner in graph.get_subgraphs(recurse=True):
        if isinstance(inner, Pregel):
            yield from (n.bound for n in inner.nodes.values() if isinstance(n.bound, ToolNode))
    for node in graph.nodes.values():
        for name in ("afunc", "func"):
            function = getattr(node.bound, name, None)
            if inspect.isfunction(function) and not isinstance(node.bound, ToolNode):
                seen = inspect.getclosurevars(function)
                found = [*seen.nonlocals.values(), *seen.globals.values()]
                yield from (value for value in found if isinstance(value, ToolNode))


def _warn_of_nodes(graph: Graph) -> None:
    nodes = ", ".join(sorted(name for name in graph.nodes if not name.startswith("__")))
    warnings.warn(
        f'tools="durable": the graph has no ToolNode of its own. A crash runs the node again that '
        f"was interrupted ({nodes}), with all that it calls: call tools in a ToolNode",
        UnrecordedToolsWarning,
        stacklevel=4,
    )
