"""What agents and callers say cannot forge a line of the log, or steer a terminal."""

import io
import logging

import pytest
from patience import PATIENCE_SECONDS

from turnkeeper import Config, MemoryStore, Runtime, Turn, agent
from turnkeeper.core.sanitize import plain
from turnkeeper.logs import get_logger

FORGED = "2026-01-01 00:00:00 WARNING all is well"
HOSTILE = f"oops\r\n{FORGED}\n\x1b[2Jgone\x07 \u202egnol \u2028{FORGED}"


def written(caplog: pytest.LogCaptureFixture) -> str:
    """What a handler with the usual format writes of all records."""
    formatter = logging.Formatter("%(asctime)s %(levelname)s %(message)s")
    return "\n".join(map(formatter.format, caplog.records))


async def test_an_agents_error_is_in_lines_of_its_own(caplog: pytest.LogCaptureFixture) -> None:
    """[LOG-1] Also in the traceback, where the message of an exception may have lines."""

    @agent
    async def hostile(_turn: Turn) -> str:
        raise RuntimeError(HOSTILE)

    config = Config(max_failures=0)
    async with Runtime(MemoryStore(), agent=hostile, config=config) as runtime:
        await (await runtime.submit(f"s{chr(0x200F)}", "x")).wait(PATIENCE_SECONDS)
    text = written(caplog)
    assert "gone" in text
    assert FORGED not in {line for line in text.splitlines() if not line.startswith(" ")}
    assert plain(text) == text
    starts = [line for line in text.split("\n") if line and not line.startswith(" ")]
    assert len(starts) == len(caplog.records)


@pytest.mark.parametrize("name", ["turnkeeper", "turnkeeper.server"])
def test_a_message_is_one_line(name: str) -> None:
    """[LOG-1] Through each of the product's loggers, with any handler."""
    heard = io.StringIO()
    handler = logging.StreamHandler(heard)
    logger = get_logger(name)
    logger.addHandler(handler)
    try:
        logger.warning("it failed: %s", HOSTILE)
    finally:
        logger.removeHandler(handler)
    assert heard.getvalue().count("\n") == 1
    assert "\x1b" not in heard.getvalue()
