"""The places where the loop of the OpenAI Agents SDK meets a turn.

Messages come from the SDK's own hooks and from the items that a run has made, each item once, by
identity. What the model is sent decides nothing here: filters and handoffs may rewrite that.
"""

import inspect
from collections.abc import Iterable
from typing import Any

from turnkeeper.core.texts import mended
from turnkeeper.executors.framework import missing_extra
from turnkeeper.executors.openai_agents_copies import Copies
from turnkeeper.executors.openai_agents_items import (
    ANSWERS,
    Json,
    answer_to,
    answered,
    as_words,
    make_encodable,
    name_of,
    open_calls,
    words_of,
)
from turnkeeper.executors.prompts import Prompt
from turnkeeper.executors.safety import joined_users
from turnkeeper.executors.work import Work

try:
    from agents import (
        Agent,
        ApplyPatchTool,
        ComputerTool,
        ItemHelpers,
        LocalShellTool,
        MessageOutputItem,
        ModelResponse,
        RunContextWrapper,
        RunHooks,
        RunItem,
        RunResultStreaming,
        ShellTool,
        Tool,
    )
    from agents.items import ToolApprovalItem
    from agents.run_config import CallModelData, CallModelInputFilter, ModelInputData
    from agents.tool_context import ToolContext
    from pydantic_core import to_jsonable_python
except ModuleNotFoundError as missing:
    raise missing_extra(missing, "openai-agents") from missing


_ONE_HANDOFF = "Multiple handoffs detected, ignoring this one."
"""What the SDK answers the calls of all handoffs of a response but the first."""
_NATIVE: dict[type[Any], str] = {
    ShellTool: "shell_call",
    LocalShellTool: "local_shell_call",
    ApplyPatchTool: "apply_patch_call",
    ComputerTool: "computer_call",
}


class TurnHooks(RunHooks[Any]):
    """The hooks of one run. They call the user's own, with the user's own agents."""

    def __init__(
        self,
        work: Work[Json],
        copies: Copies,
        user: RunHooks[Any] | None,
        user_filter: CallModelInputFilter | None,
    ) -> None:
        self._work = work
        self._copies = copies
        copies.on_transfer = self._transferred
        self._user: RunHooks[Any] = RunHooks() if user is None else user
        self._user_filter = user_filter
        self.result: RunResultStreaming | None = None
        """The run, once it has begun."""
        self.at_border = False
        """There may be something to commit before the next call of the model."""
        self.awaited: dict[str, Json] = {}
        """Calls of the newest response whose answers are not in the transcript yet."""
        self.finished: dict[str, Json] = {}
        """Answers to them that the SDK has not handed over yet."""
        self.names: dict[str, str] = {}
        """The tools of all calls of this run."""
        self.steered: list[Prompt] = []
        self.said: list[str] = []
        """The text so far of a response in progress."""
        self.whole = False
        """The newest response is complete, and is in the transcript."""
        self._inserted: list[tuple[int, list[Json]]] = []
        """What was steered in, each with its place in the SDK's own list."""
        self._given: list[Any] = []
        """That list, as it was at the newest call of the model."""
        self._handed_off = False
        self._seen: dict[int, RunItem] = {}
        """The run's items that were looked at."""
        self._outputs: dict[int, Any] = {}
        """What the responses consist of: they are in the transcript already."""

    # -- before the model ---------------------------------------------------------------------

    async def before_model(self, data: CallModelData[Any]) -> ModelInputData:
        """Commit what the tools said, and put in what was steered meanwhile. [ADP-9]"""
        model_data = data.model_data
        if not self._copies.has(data.agent):
            # An agent inside of a tool has the run's configuration, and no part in its transcript.
            self._work.asking()
            return await self._filtered(data, model_data)
        given: list[Any] = model_data.input
        self.take_finished()
        said = self._work.say(self.steered)
        self.steered = []
        if self.at_border:
            said += self._work.say(await self._work.border())
        self.at_border = True
        self._place(given, said)
        self._work.asking()
        self.said.clear()
        self.whole = False
        items: list[Any] = []
        done = 0
        for place, inserted in self._inserted:
            items += [*given[done:place], *inserted]
            done = place
        read: list[Any] = joined_users([*items, *given[done:]])
        made = ModelInputData(read, model_data.instructions)
        return await self._filtered(data, made)

    def _place(self, given: list[Any], said: list[Json]) -> None:
        if self._handed_off and self._inserted and given[: len(self._given)] != self._given:
            # A filter of the handoff has rewritten the list: the old places mean nothing in it.
            earlier = [item for _, inserted in self._inserted for item in inserted]
            self._inserted = [(len(given), earlier)]
        self._handed_off = False
        self._given = given
        if said:
            self._inserted.append((len(given), said))

    async def _filtered(
        self, data: CallModelData[Any], model_data: ModelInputData
    ) -> ModelInputData:
        """Give the user's own filter the last word on what the model reads. [ADP-21]"""
        if self._user_filter is not None:
            agent = self._copies.original(data.agent)
            told = self._user_filter(CallModelData(model_data, agent, data.context))
            model_data = await told if inspect.isawaitable(told) else told
        if isinstance(model_data, ModelInputData):  # else the SDK says what a filter gives
            make_encodable(model_data.input)
        return model_data

    # -- what was said and done ---------------------------------------------------------------

    def take_made(self) -> None:
        """Have the items written that the run has made and no response holds, each once."""
        for item in () if self.result is None else self.result.new_items:
            if id(item) in self._seen:
                continue
            self._seen[id(item)] = item
            if isinstance(item, ToolApprovalItem) or id(item.raw_item) in self._outputs:
                continue
            made: Json = to_jsonable_python(item.to_input_item())
            if isinstance(item, MessageOutputItem):
                self._work.add("assistant", ItemHelpers.text_message_output(item), made)
            else:
                self.take_answers([made])

    def take_answers(self, items: Iterable[Json]) -> None:
        """Have the answers among the items written that are awaited."""
        for item in items:
            call = self.awaited.pop(answered(item) or "", None)
            if call is None:
                continue
            words = words_of(mended(item))
            fits = item["type"] == ANSWERS[call["type"]]
            self._work.add("tool", words, item if fits else answer_to(call, words))

    def take_finished(self) -> None:
        """Have the answers written of all tools that have ended.

        Those that the SDK has dropped come last: the filter of a handoff may cut them off, and the
        end of a run may come before they are handed over.
        """
        self.take_made()
        ended, self.finished = self.finished, {}
        self.take_answers([ended[call_id] for call_id in [*self.awaited] if call_id in ended])

    def _transferred(self, tool: str, message: str) -> None:
        """A handoff was made: the first call of its tool. Of several the SDK makes one."""
        for call_id, call in self.awaited.items():
            name = name_of(call)
            if name == tool:
                self.finished[call_id] = answer_to(call, message)
                tool = ""
            elif name in self._copies.transfers:
                self.finished[call_id] = answer_to(call, _ONE_HANDOFF)

    def _native(self, tool: Tool) -> str | None:
        """Return the ID of the call that a tool has just made; the SDK makes them in order."""
        kind = next((kind for of, kind in _NATIVE.items() if isinstance(tool, of)), None)
        if kind is None or getattr(tool, "on_approval", None) is not None:
            return None
        left = (
            call_id
            for call_id, call in self.awaited.items()
            if call["type"] == kind and call_id not in self.finished
        )
        return next(left, None)

    # -- the SDK's hooks ----------------------------------------------------------------------

    async def on_llm_start(
        self,
        context: RunContextWrapper[Any],
        agent: Agent[Any],
        system_prompt: str | None,
        input_items: list[Any],
    ) -> None:
        await self._user.on_llm_start(
            context, self._copies.original(agent), system_prompt, input_items
        )

    async def on_llm_end(
        self, context: RunContextWrapper[Any], agent: Agent[Any], response: ModelResponse
    ) -> None:
        """Before the first tool runs, the response that calls it is committed. [ADP-5]"""
        self._work.used(response.usage.input_tokens, response.usage.output_tokens)
        self._work.spent.extra = agent.name.encode()
        self._work.spent.place = agent.name
        self._outputs.update((id(output), output) for output in response.output)
        items: list[Json] = to_jsonable_python(response.to_input_items())
        self.whole = True
        if items:
            text = "".join(ItemHelpers.extract_text(item) or "" for item in response.output)
            self._work.add("assistant", text, *items)
            self.awaited = open_calls(items)
            self.names.update((key, name_of(item)) for key, item in self.awaited.items())
            if self.awaited:
                self.steered += await self._work.border()
        await self._user.on_llm_end(context, self._copies.original(agent), response)

    async def on_agent_start(self, context: Any, agent: Agent[Any]) -> None:
        await self._user.on_agent_start(context, self._copies.original(agent))

    async def on_agent_end(self, context: Any, agent: Agent[Any], output: Any) -> None:
        await self._user.on_agent_end(context, self._copies.original(agent), output)

    async def on_handoff(
        self, context: RunContextWrapper[Any], from_agent: Agent[Any], to_agent: Agent[Any]
    ) -> None:
        self._handed_off = True
        original = self._copies.original
        await self._user.on_handoff(context, original(from_agent), original(to_agent))

    async def on_tool_start(
        self, context: RunContextWrapper[Any], agent: Agent[Any], tool: Tool
    ) -> None:
        await self._user.on_tool_start(context, self._copies.original(agent), tool)

    async def on_tool_end(
        self, context: RunContextWrapper[Any], agent: Agent[Any], tool: Tool, result: object
    ) -> None:
        """Remember the answer, in case that the run is stopped before the SDK hands it over."""
        if isinstance(context, ToolContext):
            call = self.awaited.get(context.tool_call_id)
            if context.tool_call is not None:
                made = ItemHelpers.tool_call_output_item(context.tool_call, result)
                self.finished[context.tool_call_id] = to_jsonable_python(made)
            elif call is not None:
                self.finished[context.tool_call_id] = answer_to(call, as_words(result))
        elif (call_id := self._native(tool)) is not None:
            native = answer_to(self.awaited[call_id], as_words(result), done=True)
            self.finished[call_id] = native
        await self._user.on_tool_end(context, self._copies.original(agent), tool, result)
