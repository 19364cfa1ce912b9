"""Turnkeeper's loggers: what they write is lines, whatever the text of agents and callers holds.

They use the standard `logging` and configure no handler.
"""

import logging
import traceback

from turnkeeper.core.sanitize import one_line, plain


class _Escape(logging.Filter):
    """Puts a message in one line, and indents its traceback, with control characters escaped."""

    def filter(self, record: logging.LogRecord) -> bool:
        record.msg, record.args = one_line(record.getMessage()), ()
        if record.exc_info is not None and record.exc_info[1] is not None:
            said = plain("".join(traceback.format_exception(record.exc_info[1])))
            # A line of an exception's message cannot pass for a line of the log.
            record.exc_text = "\n".join(f"  {line}" for line in said.splitlines())
        return True


_escape = _Escape()


def get_logger(name: str) -> logging.Logger:
    """The logger of that name, whose records are escaped before any handler gets them. [LOG-1]"""
    logger = logging.getLogger(name)
    logger.addFilter(_escape)  # adding it twice changes nothing
    return logger
