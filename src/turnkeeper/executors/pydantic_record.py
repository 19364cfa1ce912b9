"""The framework's own list of messages, and what a run adds to the transcript from it.

Decides which messages of the list are new. Capabilities and history processors may trim the list,
reorder it, copy its messages or add to it: that is what the model reads, and not what happened.
"""

import copy
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from turnkeeper.core.runs import Role
from turnkeeper.executors.framework import missing_extra
from turnkeeper.executors.prompts import Prompt
from turnkeeper.executors.pydantic_messages import answered_call, says_something, words_of
from turnkeeper.executors.steps import free_id
from turnkeeper.executors.work import Work

try:
    from pydantic_ai import Agent, RunContext
    from pydantic_ai.capabilities import AbstractCapability, CapabilityOrdering
    from pydantic_ai.messages import (
        ModelMessage,
        ModelRequest,
        ModelRequestPart,
        ModelResponse,
        NativeToolCallPart,
        NativeToolReturnPart,
        ToolCallPart,
        UserPromptPart,
    )
    from pydantic_ai.models import ModelRequestContext
except ModuleNotFoundError as missing:
    raise missing_extra(missing, "pydantic-ai") from missing

WRITTEN = {"turnkeeper": "written"}
"""Marks a request that is in the transcript already, or is not to be."""


class Record:
    """Hands the messages that a run adds to the transcript, each once."""

    def __init__(self, work: Work[ModelMessage]) -> None:
        self._work = work
        self._seen: dict[int, object] = {}
        """Messages and their parts that are not new, by identity; held, so that IDs stay theirs."""
        self._newest: ModelMessage | None = None
        """The last of them: where a copy of the list is new from."""
        self._ids: set[str] = set()
        """The IDs of all calls so far."""
        shown = [prompt for prompt in work.prompts if prompt.written]
        self._first = None if len(shown) == len(work.prompts) else shown

    def begin(self, history: Sequence[ModelMessage], node: Any) -> None:
        """Take the list as it is before the first call of the model: nothing in it is new."""
        self.know(history)
        self._ids = {
            part.tool_call_id
            for message in history
            for part in message.parts
            if isinstance(part, ToolCallPart)
        }
        if Agent.is_model_request_node(node) and node.is_resuming_without_prompt:
            # The framework sends the last request of the history once more.
            self.know([node.request])

    def know(self, messages: Iterable[ModelMessage]) -> None:
        """Take messages for known: none is new any more."""
        for message in messages:
            self._newest = message
            self._seen[id(message)] = message
            for part in message.parts:
                self._seen[id(part)] = part

    def settle(self, messages: Sequence[ModelMessage]) -> None:
        """Take for known what other code has put behind the newest message."""
        if messages and messages[-1] is not self._newest:
            self.know(messages)

    def take(self, messages: Sequence[ModelMessage], later: ModelResponse | None = None) -> None:
        """Write what is new at the end of the framework's list, but for `later`."""
        fresh = [message for message in self._fresh(messages) if message is not later]
        for message in fresh:
            parts: Any = [part for part in message.parts if id(part) not in self._seen]
            if isinstance(message, ModelResponse):
                if len(parts) == len(message.parts):
                    self._response(message)
            elif message.metadata != WRITTEN:
                self.add_request(replace(message, parts=parts))
        self.know(fresh)

    def take_response(self, response: ModelResponse) -> bool:
        """Write a response that the framework proceeds with. Returns whether it is new."""
        known = [id(part) in self._seen for part in response.parts]
        if id(response) in self._seen or (known and all(known)):
            return False
        self._response(response)
        self.know([response])
        return True

    def take_answers(self, messages: Sequence[ModelMessage], response: ModelResponse) -> None:
        """Write the newest request with answers to a response, unless it is known."""
        calls = {call.tool_call_id for call in response.tool_calls}
        for message in reversed(messages):
            if isinstance(message, ModelRequest) and calls & set(map(answered_call, message.parts)):
                if id(message) not in self._seen:
                    self.add_request(message)
                    self.know([message])
                return

    def _fresh(self, messages: Sequence[ModelMessage]) -> list[ModelMessage]:
        for index in range(len(messages) - 1, -1, -1):
            message = messages[index]
            if id(message) in self._seen or message == self._newest:
                return list(messages[index + 1 :])
        if self._newest is None:
            return list(messages)
        # Other code has rewritten the whole list. The framework ends it so when a run is stopped.
        return [message for message in messages[-1:] if message.state == "interrupted"]

    def own_ids(self, response: ModelResponse) -> ModelResponse:
        """Give each call whose ID is empty or was used before an ID of its own."""
        parts = [
            replace(part, tool_call_id=free_id(part.tool_call_id, self._ids))
            if isinstance(part, ToolCallPart)
            and (not part.tool_call_id or part.tool_call_id in self._ids)
            else self._known_id(part)
            for part in response.parts
        ]
        if all(made is part for made, part in zip(parts, response.parts, strict=True)):
            return response
        return replace(response, parts=parts)

    def _known_id(self, part: Any) -> Any:
        if isinstance(part, ToolCallPart):
            self._ids.add(part.tool_call_id)
        return part

    def _response(self, message: ModelResponse) -> None:
        usage = message.usage
        self._work.used(usage.input_tokens, usage.output_tokens)
        if message.state == "interrupted":
            # None of its calls has been run, and the last one may be cut off.
            answered = {
                part.tool_call_id
                for part in message.parts
                if isinstance(part, NativeToolReturnPart)
            }
            parts = [
                part
                for part in message.parts
                if not isinstance(part, ToolCallPart)
                and not (isinstance(part, NativeToolCallPart) and part.tool_call_id not in answered)
            ]
            message = replace(message, parts=parts)
            if not says_something(message):
                return
        self._add("assistant", message)

    def add_request(self, message: ModelRequest) -> None:
        """Write a request: one message for each answer, and one for the rest."""
        rest: list[ModelRequestPart] = []
        for part in message.parts:
            answered = answered_call(part)
            if answered is None:
                rest.append(part)
            elif answered not in self._work.answered:
                self._add("tool", replace(message, parts=[part], instructions=None))
        if self._first is not None:
            rest = _shown_only(rest, self._first)
            self._first = None
        if rest:
            prompted = any(isinstance(part, UserPromptPart) for part in rest)
            role: Role = "user" if prompted else "system_notice"
            self._add(role, replace(message, parts=rest, instructions=None))

    def _add(self, role: Role, message: ModelMessage) -> None:
        self._work.add(role, words_of(message), message)


def _shown_only(parts: list[ModelRequestPart], shown: list[Prompt]) -> list[ModelRequestPart]:
    """Leave out of the first request what is to be kept out of the transcript."""
    others = [part for part in parts if not isinstance(part, UserPromptPart)]
    words = "\n\n".join(prompt.text for prompt in shown)
    return [*others, UserPromptPart(words)] if shown else []


def copied(messages: Sequence[ModelMessage]) -> list[ModelMessage]:
    """Copy a history, so that a processor that changes its messages changes no later turn's."""
    return [replace(message, parts=[_copied(p) for p in message.parts]) for message in messages]  # type: ignore[arg-type]  # parts of its own kind


def _copied(part: Any) -> Any:
    made = copy.copy(part)
    for name, value in vars(part).items():
        if isinstance(value, list | dict):
            setattr(made, name, copy.deepcopy(value))
    return made


@dataclass
class First(AbstractCapability[Any]):
    """Comes before all other capabilities: the list has what the framework has put there."""

    asking: Callable[[RunContext[Any]], Awaitable[None]]
    record: Record

    def get_ordering(self) -> CapabilityOrdering:
        return CapabilityOrdering(position="outermost")

    async def wrap_model_request(
        self,
        ctx: RunContext[Any],
        *,
        request_context: ModelRequestContext,
        handler: Callable[[ModelRequestContext], Awaitable[ModelResponse]],
    ) -> ModelResponse:
        self.record.take(ctx.messages)
        return await handler(request_context)

    async def before_model_request(
        self, ctx: RunContext[Any], request_context: ModelRequestContext
    ) -> ModelRequestContext:
        await self.asking(ctx)
        return request_context

    async def after_model_request(
        self,
        ctx: RunContext[Any],  # noqa: ARG002 - the framework's signature
        *,
        request_context: ModelRequestContext,  # noqa: ARG002 - the framework's signature
        response: ModelResponse,
    ) -> ModelResponse:
        return self.record.own_ids(response)


@dataclass
class Last(AbstractCapability[Any]):
    """Comes behind all other capabilities: what they have put into the list did not happen."""

    starting: Callable[[RunContext[Any], Any], Awaitable[None]]
    ended: Callable[[RunContext[Any], Any, Any], None]
    record: Record

    def get_ordering(self) -> CapabilityOrdering:
        return CapabilityOrdering(position="innermost")

    async def before_node_run(self, ctx: RunContext[Any], *, node: Any) -> Any:
        await self.starting(ctx, node)
        return node

    async def after_node_run(
        self,
        ctx: RunContext[Any],
        *,
        node: Any,
        result: Any,
    ) -> Any:
        self.ended(ctx, node, result)
        return result

    async def before_model_request(
        self, ctx: RunContext[Any], request_context: ModelRequestContext
    ) -> ModelRequestContext:
        self.record.know(ctx.messages)
        return request_context
