"""Runs a command line: whatever it ends with becomes one line on stderr and an exit code."""

import importlib.util
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from turnkeeper.cli.exits import INTERRUPTED, PIPE_CLOSED, Exit, exit_of
from turnkeeper.errors import NotReady, Overloaded

if TYPE_CHECKING:
    from cyclopts.exceptions import CycloptsError

LIBRARIES = ("cyclopts", "rich", "platformdirs")
"""What the extra `cli` brings."""


def script() -> None:
    """The program `turnkeeper`."""
    sys.exit(run(sys.argv[1:]))


def run(tokens: Sequence[str]) -> int:
    """Do what the command line says, and return the exit code."""
    for stream in (sys.stdout, sys.stderr):
        # A terminal that cannot show a letter gets its number, and not a traceback.
        getattr(stream, "reconfigure", lambda **_: None)(errors="backslashreplace")
    missing = [name for name in LIBRARIES if importlib.util.find_spec(name) is None]
    if missing:
        _complain(f"{missing[0]} is not installed; run: pip install 'turnkeeper[cli]'")
        return Exit.USAGE
    try:
        code = _run(list(tokens))
        sys.stdout.flush()
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        # What is still buffered has no reader either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return PIPE_CLOSED
    return code


def _run(tokens: list[str]) -> int:
    from cyclopts.exceptions import CycloptsError  # noqa: PLC0415  it may be missing: see `run`

    from turnkeeper.cli.app import make_app, verb_first  # noqa: PLC0415

    app = make_app()
    try:
        code = app(verb_first(tokens))
    except CycloptsError as error:
        _complain(_usage(error))
        return Exit.USAGE
    except BrokenPipeError:
        raise
    except Exception as error:
        known = exit_of(error)
        if known is None:
            raise
        _complain(_line(error))
        return known
    return code if isinstance(code, int) else Exit.DONE


def _usage(error: "CycloptsError") -> str:
    verb = "".join(f" {name}" for name in error.command_chain or ())
    return f"{error} See: turnkeeper{verb} --help"


def _line(error: BaseException) -> str:
    text = str(error) or repr(error)
    if isinstance(error, Overloaded) and "again" not in text:
        text += f"; try again in {error.retry_after:g} s"
    if isinstance(error, NotReady) and error.state == "stopped":
        text += ", as `turnkeeper chat` does"
    return text


def _complain(text: str) -> None:
    from turnkeeper.core.sanitize import one_line  # noqa: PLC0415  only needed where something fails

    print(f"turnkeeper: {one_line(text)}", file=sys.stderr)  # noqa: T201
