"""What tests of the command line share: running it, in this process and in others; a store with a
session in each state, left behind by a process that was killed.
"""

import asyncio
import contextlib
import fcntl
import io
import json
import os
import pty
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from patience import PATIENCE_SECONDS

from turnkeeper import Runtime
from turnkeeper.cli.main import run

HERE = Path(__file__).parent
COMMAND = [sys.executable, "-W", "error", "-m", "turnkeeper"]
STATES = ("running", "idle", "retired", "stopped", "destroyed", "unknown")


class Ended(NamedTuple):
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        """The JSON document that it printed."""
        return json.loads(self.out)


def call(*words: str, stdin: str = "") -> Ended:
    """Run a command line in this process: a client like any other, without the start of Python."""
    out, err = io.StringIO(), io.StringIO()
    before = sys.stdin
    sys.stdin = io.StringIO(stdin)
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = run(words)
    finally:
        sys.stdin = before
    return Ended(int(code), out.getvalue(), err.getvalue())


def environment(**more: str) -> dict[str, str]:
    """What a process gets: the tests' agent on its path, and no colours or widths by chance."""
    chance = {name for name in os.environ if "COLOR" in name} | {"COLUMNS", "LINES"}
    kept = {name: value for name, value in os.environ.items() if name not in chance}
    path = os.pathsep.join([str(HERE), *filter(None, [kept.get("PYTHONPATH")])])
    return {**kept, "PYTHONPATH": path, "TERM": "xterm-256color", **more}


@contextlib.contextmanager
def process(*words: str, **settings: Any) -> Iterator[subprocess.Popen[str]]:
    """A command line in a process of its own, which is gone when this is left."""
    pipes = dict.fromkeys(("stdout", "stderr", "stdin"), subprocess.PIPE)
    with subprocess.Popen(
        [*COMMAND, *words], text=True, env=environment(), **{**pipes, **settings}
    ) as started:
        try:
            yield started
        finally:
            started.kill()


def call_elsewhere(*words: str, stdin: str = "") -> Ended:
    """Run a command line in a process of its own, to its end."""
    with process(*words) as started:
        out, err = started.communicate(stdin, timeout=PATIENCE_SECONDS)
    return Ended(started.returncode, out, err)


@contextlib.contextmanager
def worker(store: Path, agent: str = "orders:clerk") -> Iterator[subprocess.Popen[str]]:
    """A worker in another process, ready when this is entered and gone when it is left."""
    with process("work", agent, "--store", str(store), "--json") as started:
        assert started.stdout is not None
        ready = started.stdout.readline()
        assert ready, started.communicate(timeout=PATIENCE_SECONDS)[1]
        assert set(json.loads(ready)) == {"worker_id", "store", "process"}
        yield started


def until(condition: Callable[[], Any]) -> None:
    """Wait until `condition()` is true."""
    end = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)


# A program that makes the terminal its own, then becomes another: between fork and exec a process
# that has threads, as that of a test may, must not run any Python.
_OWN = """import fcntl, os, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execv(sys.argv[1], sys.argv[1:])
"""
_OWN_THE_TERMINAL = [sys.executable, "-I", "-S", "-c", _OWN]


class Terminal:
    """A command line on a pseudo-terminal of a given width."""

    def __init__(self, *words: str, columns: int = 80, **variables: str) -> None:
        self._mine, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
        self._process = subprocess.Popen(
            [*_OWN_THE_TERMINAL, *COMMAND, *words],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            env=environment(**variables),
            start_new_session=True,
        )
        os.close(theirs)
        self._read = 0
        self.text = ""
        """All that was shown so far, with line breaks as they are in a file."""

    def expect(self, text: str) -> None:
        """Wait until this is shown, behind what was expected last."""
        end = time.monotonic() + PATIENCE_SECONDS
        while text not in self.text[self._read :]:
            assert self._more(end), f"{text!r} was not shown, but {self.text[self._read :]!r}"
        self._read = self.text.index(text, self._read) + len(text)

    def type(self, text: str) -> None:
        os.write(self._mine, text.encode())

    def type_until_heard(self, text: str) -> None:
        """Type until a new line begins: readline may miss a signal just behind its prompt."""
        seen, end = len(self.text), time.monotonic() + PATIENCE_SECONDS
        while "\n" not in self.text[seen:] and time.monotonic() < end:
            self.type(text)
            while "\n" not in self.text[seen:] and select.select([self._mine], [], [], 2.0)[0]:
                self._more(end)

    def end(self) -> int:
        """Wait for its end; gives the exit code."""
        end = time.monotonic() + PATIENCE_SECONDS
        while self._more(end):
            pass
        code = self._process.wait(timeout=PATIENCE_SECONDS)
        os.close(self._mine)
        return code

    def _more(self, end: float) -> bool:
        readable, _, _ = select.select([self._mine], [], [], max(0.0, end - time.monotonic()))
        if not readable:
            self._process.kill()
            return False
        try:
            data = os.read(self._mine, 65_536)
        except OSError:  # its other end is closed
            return False
        self.text += data.decode(errors="replace").replace("\r\n", "\n")
        return bool(data)


def kill(started: subprocess.Popen[str], number: signal.Signals = signal.SIGKILL) -> None:
    started.send_signal(number)
    started.wait(timeout=PATIENCE_SECONDS)


# -- a store with a session in each state ----------------------------------------------------------


def leave_behind(store: Path, *names: str) -> None:
    """Have a process make these sessions, each in the state that its name begins with, and die."""
    here = [sys.executable, __file__, str(store), *names]
    subprocess.run(here, check=True, env=environment(), timeout=2 * PATIENCE_SECONDS)


async def _leave_behind(store: str, *names: str) -> None:
    from orders import clerk  # noqa: PLC0415  it is on the path of the process that needs it

    async with Runtime(store, agent=clerk) as runtime:
        await asyncio.gather(*[_make(runtime, name) for name in names])
        os._exit(0)


async def _make(runtime: Runtime, name: str) -> None:
    """A session with an answered input, a dead letter, and a life in its state."""
    state = name.partition("-")[0]
    if state == "unknown":
        return
    session = runtime.session(name)
    for text, key in (("two tickets", "done"), ("fail", "dead")):
        await (await session.submit(text, key=key)).wait()
    if name.endswith(("-approvals", "-approve", "-deny")):
        await (await session.submit("ask", key="asked")).wait()
    if state == "running":
        await session.submit("hold", key="held")
        while await session.state() != "running":  # noqa: ASYNC110  a condition, not an event
            await asyncio.sleep(0.01)
    elif state != "idle":
        await {"retired": session.retire, "stopped": session.stop, "destroyed": session.destroy}[
            state
        ]()


if __name__ == "__main__":
    asyncio.run(_leave_behind(*sys.argv[1:]))
