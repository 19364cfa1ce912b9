"""Finding an agent by its name, MODULE:AGENT."""

import importlib
import sys
from pathlib import Path

from turnkeeper.cli.exits import Exit, Failure
from turnkeeper.errors import TurnkeeperError
from turnkeeper.executor import as_factory


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
            raise Failure(
                f"there is no module {module_name!r} here or on the Python path", Exit.USAGE
            ) from error
        raise _broken(module_name, error) from error
    except (Exception, SystemExit) as error:
        raise _broken(module_name, error) from error
    for attribute in path.split("."):
        try:
            found = getattr(found, attribute)
        except AttributeError:
            raise Failure(f"module {module_name!r} has no {path!r}", Exit.USAGE) from None
    try:
        as_factory(found)
    except TurnkeeperError as error:
        raise Failure(f"{name} is no agent: {error}", Exit.USAGE) from error
    return found


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
