"""Every field of a request that OpenAI's clients know, and what becomes of each.

Decides which wishes are obeyed, handed to the agent, ignored or refused. A test holds the tables to
the types of the official package.
"""

from collections.abc import Callable, Mapping
from enum import StrEnum
from typing import Any

import msgspec
from msgspec import Struct

from turnkeeper.server.problems import Refused


class Fate(StrEnum):
    """What becomes of a field."""

    OBEYED = "obeyed"
    HANDED = "handed to the agent"
    IGNORED = "ignored"
    REFUSED = "refused"


class Rule(Struct, frozen=True):
    """The fate of one field, with the reason where it is ignored or refused."""

    fate: Fate
    why: str = ""
    harmless: Callable[[Any], bool] = lambda _value: False
    """Of a refused field: whether a value asks for nothing. So does null, always."""


_OBEYED = Rule(Fate.OBEYED)
_HANDED = Rule(Fate.HANDED)


def _ignored(why: str) -> Rule:
    return Rule(Fate.IGNORED, why)


def _refused(why: str, *harmless: Any) -> Rule:
    return Rule(Fate.REFUSED, why, lambda value: value in harmless)


_OWN_TOOLS = "the tools are the agent's own"
_TOOLS = {
    "tools": _refused(_OWN_TOOLS, []),
    "tool_choice": _refused(_OWN_TOOLS, "none", "auto"),
    "parallel_tool_calls": _ignored("no tool of the caller's is called"),
}
_CACHE = _ignored("it changes cost, and not the answer")
_SHARED = {
    **_TOOLS,
    "metadata": _OBEYED,
    "model": _ignored("the server has one agent; the name comes back in the answer"),
    "moderation": _refused("answers are not moderated"),
    "prompt_cache_key": _CACHE,
    "prompt_cache_options": _CACHE,
    "prompt_cache_retention": _CACHE,
    "safety_identifier": _ignored("it names a user to OpenAI"),
    "service_tier": _CACHE,
    "stream": _OBEYED,
    "temperature": _HANDED,
    "top_p": _HANDED,
    "user": _ignored("it names a user to OpenAI"),
}
_NO_FORMAT = "the form of the answer is the agent's own"
CHAT: Mapping[str, Rule] = {
    **_SHARED,
    "audio": _refused("answers are text"),
    "frequency_penalty": _HANDED,
    "function_call": _refused(_OWN_TOOLS, "none", "auto"),
    "functions": _refused(_OWN_TOOLS, []),
    "logit_bias": _HANDED,
    "logprobs": _refused("log probabilities are not known", 0),
    "max_completion_tokens": _HANDED,
    "max_tokens": _HANDED,
    "messages": _OBEYED,
    "modalities": _refused("answers are text", ["text"], []),
    "n": _refused("a turn has one answer", 1),
    "prediction": _ignored("it changes speed, and not the answer"),
    "presence_penalty": _HANDED,
    "reasoning_effort": _HANDED,
    "response_format": _refused(_NO_FORMAT, {"type": "text"}),
    "seed": _HANDED,
    "stop": _HANDED,
    "store": _ignored("it is about OpenAI's dashboard; the session keeps every turn"),
    "stream_options": _OBEYED,
    "top_logprobs": _refused("log probabilities are not known", 0),
    "verbosity": _HANDED,
    "web_search_options": _refused(_OWN_TOOLS),
}
"""Of `/v1/chat/completions`."""


def _has_no_format(text: Any) -> bool:
    return isinstance(text, dict) and text.get("format") in (None, {"type": "text"})


def _asks_for_no_logprobs(include: Any) -> bool:
    """Other parts that it may name, such as the results of OpenAI's tools, an answer never has."""
    return isinstance(include, list) and "message.output_text.logprobs" not in include


RESPONSES: Mapping[str, Rule] = {
    **_SHARED,
    "access_programs": _refused("OpenAI's programs are not known"),
    "background": _OBEYED,
    "background_options": _refused("a response in the background takes no options"),
    "context_management": _refused("the context is the agent's own"),
    "conversation": _OBEYED,
    "image": _refused("answers are text"),
    "include": Rule(Fate.REFUSED, "log probabilities are not known", _asks_for_no_logprobs),
    "input": _OBEYED,
    "instructions": _OBEYED,
    "max_output_tokens": _HANDED,
    "max_tool_calls": _HANDED,
    "previous_response_id": _OBEYED,
    "prompt": _refused("prompt templates are OpenAI's"),
    "reasoning": _HANDED,
    "store": _refused("every response is stored", 1),
    "stream_options": _ignored("obfuscation is OpenAI's"),
    "text": Rule(Fate.REFUSED, _NO_FORMAT, _has_no_format),
    "top_logprobs": _refused("log probabilities are not known", 0),
    "truncation": _ignored("the context is the agent's own"),
}
"""Of `/v1/responses`."""

_members = msgspec.json.Decoder(dict[str, Any])


def options_of(raw: bytes, rules: Mapping[str, Rule]) -> dict[str, Any]:
    """Return what of a request is handed to the agent, fields that OpenAI does not have included.

    Raises `Refused` for a field that is refused and asks for something, and names it. [SRV-27]
    """
    handed: dict[str, Any] = {}
    for name, value in _members.decode(raw).items():
        rule = rules.get(name, _HANDED)
        if value is None:
            continue
        if rule.fate is Fate.REFUSED and not rule.harmless(value):
            raise Refused("validation_failed", f"{name}: {rule.why}; leave it out", param=name)
        if rule.fate is Fate.HANDED:
            handed[name] = value
    return handed
