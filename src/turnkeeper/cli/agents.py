"""Finding the agent that a command line means: MODULE:AGENT, a model of a server, the local one."""

import importlib
import os
import sys
from pathlib import Path

from msgspec import Struct

from turnkeeper.cli.exits import Exit, Failure
from turnkeeper.core.ids import SessionId
from turnkeeper.executor import SharedExecutor, agent_refusal, as_factory
from turnkeeper.executors.local import LocalModelMissing, local_agent

ANSWER_TOKENS = 256
"""The longest answer of the local model."""
OPENAI = "openai:"
"""What the name of a model behind the OpenAI protocol begins with."""


class Choice(Struct, frozen=True):
    """Whom a command line names to answer: an agent, a model, or nobody."""

    agent: str | None
    model: str | None
    base_url: str | None

    @property
    def name(self) -> str | None:
        """The agent or the model, as it was named."""
        return self.agent or self.model

    def check(self) -> None:
        """Raise `Failure` for options that contradict each other, or that name no model."""
        if self.agent is not None and self.model is not None:
            raise Failure("either --agent or --model", Exit.USAGE)
        if self.base_url is not None:
            if self.model is None:
                raise Failure("--base-url is the server of a --model: name that too", Exit.USAGE)
            if not self.base_url.startswith(("http://", "https://")):
                raise Failure(f"--base-url is a URL of HTTP, not {self.base_url!r}", Exit.USAGE)
        if self.model is not None and not self.model.removeprefix(OPENAI).strip():
            raise Failure("--model names no model: say openai:NAME", Exit.USAGE)
        if self.model is not None and not self.model.startswith(OPENAI):
            raise Failure(f"{self.model!r} is no known model: say openai:NAME", Exit.USAGE)


def agent_for(choice: Choice, session_id: SessionId) -> object:
    """The executor that is meant, for this session. Raises `Failure` where there is none."""
    if choice.agent is not None:
        return as_factory(load_agent(choice.agent))(session_id)
    if choice.model is not None:
        return _model(choice.model.removeprefix(OPENAI), choice.base_url)
    try:
        return local_agent(max_tokens=ANSWER_TOKENS)
    except LocalModelMissing as error:
        text = f"{error}; or name an agent of yours, --agent MODULE:AGENT, or --model openai:NAME"
        raise Failure(text, Exit.NOT_READY) from error


def _model(name: str, base_url: str | None) -> object:
    try:
        from turnkeeper.executors import openai_chat  # noqa: PLC0415  an extra of its own
    except ImportError as error:
        raise Failure(str(error), Exit.NOT_READY) from error
    variable = openai_chat.DEFAULT_KEY_VARIABLE
    if base_url is None and not os.environ.get(variable):
        text = f"{variable} is not set: OpenAI's own server wants a key; --base-url names another"
        raise Failure(text, Exit.NOT_READY)
    return openai_chat.chat_agent(name, base_url=base_url or openai_chat.DEFAULT_BASE_URL)


def load_agent(name: str) -> object:
    """The agent, or the factory of agents, that MODULE:AGENT names.

    A module in the folder where one stands is found, as with `python -m`. Raises `Failure`.
    """
    module_name, colon, path = name.partition(":")
    if not colon or not module_name or not path:
        raise Failure(f"{name!r} names no agent: say MODULE:AGENT, as in orders:clerk", Exit.USAGE)
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        found = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is not None and f"{module_name}.".startswith(f"{error.name}."):
            raise Failure(_no_module(module_name), Exit.USAGE) from error
        raise _broken(module_name, error) from error
    except (Exception, SystemExit) as error:
        raise _broken(module_name, error) from error
    for attribute in path.split("."):
        try:
            found = getattr(found, attribute)
        except AttributeError:
            raise Failure(f"module {module_name!r} has no {path!r}", Exit.USAGE) from None
    refusal = None if isinstance(found, SharedExecutor) else agent_refusal(found)
    if refusal is not None:
        raise Failure(f"{name} is no agent: {refusal}", Exit.USAGE)
    return found


def _no_module(name: str) -> str:
    text = f"there is no module {name!r} here or on the Python path"
    return f"{text}: a module's name has no .py" if name.endswith(".py") else text


def _broken(module_name: str, error: BaseException) -> Failure:
    where = ""
    trace = error.__traceback__
    while trace is not None:
        file = trace.tb_frame.f_code.co_filename
        if file != __file__ and "importlib" not in file:
            where = f" ({file}, line {trace.tb_lineno})"
        trace = trace.tb_next
    return Failure(
        f"module {module_name!r} cannot be imported: {type(error).__name__}: {error}{where}"
    )
