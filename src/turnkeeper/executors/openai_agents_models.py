"""Models of the OpenAI Agents SDK whose calls have IDs that differ.

Some servers count the IDs of calls from 0 in each response, or give none. The SDK refuses, skips
or merges calls that share an ID. A call whose ID is empty or used gets one of its own before the
SDK reads it.
"""

from collections.abc import AsyncIterator, Iterable
from contextlib import aclosing
from typing import Any

from turnkeeper.executors.framework import missing_extra
from turnkeeper.executors.openai_agents_items import ANSWERS
from turnkeeper.executors.steps import free_id

try:
    from agents import Model, ModelProvider, ModelResponse
except ModuleNotFoundError as missing:
    raise missing_extra(missing, "openai-agents") from missing


class DistinctCalls(Model):
    """A model as one run sees it: no call of its responses has an ID in `taken`. [ADP-20]"""

    def __init__(self, inner: Model, taken: set[str]) -> None:
        self._inner = inner
        self._taken = taken

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    async def get_response(self, *args: Any, **named: Any) -> ModelResponse:
        """Return the model's response, its calls renamed."""
        response = await self._inner.get_response(*args, **named)
        renaming = _Renaming(self._taken)
        response.output = renaming.output(response.output)
        renaming.keep()
        return response

    async def stream_response(self, *args: Any, **named: Any) -> AsyncIterator[Any]:
        """Stream the model's events, the calls in them renamed."""
        renaming = _Renaming(self._taken)
        stream: Any = self._inner.stream_response(*args, **named)
        if not hasattr(stream, "aclose"):
            async for event in stream:
                yield renaming.event(event)
            return
        async with aclosing(stream) as events:
            async for event in events:
                yield renaming.event(event)

    def get_retry_advice(self, request: Any) -> Any:
        """Pass on the model's advice about retries."""
        return self._inner.get_retry_advice(request)

    async def close(self) -> None:
        """Close the model."""
        await self._inner.close()

    async def _cleanup_on_run_end(self, owner: object) -> None:
        await self._inner._cleanup_on_run_end(owner)  # noqa: SLF001 - passed on


class Models(ModelProvider):
    """The models of one run, by name or as they are."""

    def __init__(self, inner: ModelProvider, taken: set[str]) -> None:
        self._inner = inner
        self._taken = taken
        self._made: dict[int, DistinctCalls] = {}

    def get_model(self, model_name: str | None) -> Model:
        """Return the provider's model of that name."""
        return self.of(self._inner.get_model(model_name))

    def of(self, model: Model) -> Model:
        """Return a model as this run sees it."""
        made = self._made.get(id(model))
        if made is None:
            made = self._made[id(model)] = DistinctCalls(model, self._taken)
        return made

    async def aclose(self) -> None:
        """Close the provider."""
        await self._inner.aclose()


class _Renaming:
    """The IDs of one response's calls. They count as taken once the response is whole."""

    def __init__(self, taken: set[str]) -> None:
        self._taken = taken
        self._used = set(taken)
        self._names: dict[int, str] = {}
        """By the call's place in the response."""
        self._places: dict[str, int] = {}
        """By the model's own ID, the newest call's place."""

    def event(self, event: Any) -> Any:
        """Return an event of the stream, with the IDs that its calls have for the SDK."""
        kind = getattr(event, "type", None)
        if kind in ("response.output_item.added", "response.output_item.done"):
            item = self._item(event.item, event.output_index)
            return event if item is event.item else event.model_copy(update={"item": item})
        if kind == "response.completed":
            output = self.output(event.response.output)
            self.keep()
            if output is not event.response.output:
                response = event.response.model_copy(update={"output": output})
                return event.model_copy(update={"response": response})
        return event

    def output(self, items: list[Any]) -> list[Any]:
        """Return a whole response's items; the same list where no ID has changed."""
        made = [self._item(item, index) for index, item in enumerate(items)]
        changed = any(new is not old for new, old in zip(made, items, strict=True))
        return made if changed else items

    def keep(self) -> None:
        """Take the IDs: the response is whole."""
        self._taken |= self._used

    def _item(self, item: Any, place: int) -> Any:
        kind = _get(item, "type")
        if kind == "mcp_approval_request" or kind not in _WITH_CALL_IDS:
            return item
        call_id = _get(item, "call_id")
        if not isinstance(call_id, str):
            return item
        if kind in ANSWERS:
            if place not in self._names:
                self._names[place] = free_id(call_id, self._used)
                self._places[call_id] = place
            name = self._names[place]
        else:
            name = self._names.get(self._places.get(call_id, -1), call_id)
        if name == call_id:
            return item
        if isinstance(item, dict):
            return {**item, "call_id": name}
        return item.model_copy(update={"call_id": name})


_WITH_CALL_IDS = frozenset([*ANSWERS, *ANSWERS.values()])


def _get(item: Any, name: str) -> Any:
    return item.get(name) if isinstance(item, dict) else getattr(item, name, None)


def taken_ids(items: Iterable[dict[str, Any]]) -> set[str]:
    """Return the IDs of the calls in a history."""
    return {
        item["call_id"]
        for item in items
        if item.get("type") in ANSWERS and isinstance(item.get("call_id"), str)
    }
