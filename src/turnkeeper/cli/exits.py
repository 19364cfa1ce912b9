"""What a command ends with: the exit codes, and which error has which. One table."""

from enum import IntEnum

from turnkeeper.errors import (
    EventsPruned,
    NotReady,
    Overloaded,
    RequestExpired,
    ServiceError,
    StoreError,
    TurnkeeperError,
    ValidationFailed,
)


class Exit(IntEnum):
    """The exit codes. A test holds them to their documentation."""

    DONE = 0
    """It is done."""
    FAILED = 1
    """It was refused or refuted, or the input did not complete."""
    USAGE = 2
    """The command line is wrong."""
    NOT_READY = 3
    """The session, input or request is not there, or does not take this now."""
    OVERLOADED = 4
    """A queue is full: try again later."""
    STORE = 5
    """The store cannot be opened, read or written, or the server not be reached or used."""


INTERRUPTED = 130
"""As a shell says of a program that Ctrl-C has ended."""
PIPE_CLOSED = 141
"""As a shell says of a program whose reader has gone."""


class Failure(Exception):
    """What a verb itself has to say against being done."""

    def __init__(self, message: str, code: Exit = Exit.FAILED) -> None:
        super().__init__(message)
        self.code = code


_EXITS: tuple[tuple[type[BaseException], Exit], ...] = (
    (NotReady, Exit.NOT_READY),
    (RequestExpired, Exit.NOT_READY),
    (EventsPruned, Exit.NOT_READY),
    (Overloaded, Exit.OVERLOADED),
    (StoreError, Exit.STORE),
    (ServiceError, Exit.STORE),
    (ValidationFailed, Exit.USAGE),
    (TurnkeeperError, Exit.FAILED),
    (OSError, Exit.FAILED),
)
"""The first that an error is an instance of decides."""


def exit_of(error: BaseException) -> Exit | None:
    """The code of an error that was foreseen; None for a defect of this program."""
    if isinstance(error, Failure):
        return error.code
    return next((code for kind, code in _EXITS if isinstance(error, kind)), None)
