"""Starts the processes, kills, stops and continues them as the dice say, and has them end.

Decides what is done to whom, and when. Everything that it does is a line of the log as well.
"""

import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from tools.chaos.judge import IN_A_TURN, IN_AN_ACCEPT, Counts, count, heard
from tools.chaos.log import Doing, Log

LEASE_SECONDS = 1.0
PATIENCE_SECONDS = 120.0
"""How long the processes may take to end in good order."""
AIM_SECONDS = 2.0
"""How long to wait for one in the middle of a turn, or of an accept, which takes milliseconds."""
TELLING_SECONDS = 5.0
"""How often to tell how far it has come."""


class Scale(NamedTuple):
    """How much is done."""

    workers: int
    callers: int
    sessions: int
    kills: int
    """Kills of a worker in a running turn."""
    stops: int
    """Stops of a worker past its lease."""
    cuts: int
    """Kills of a caller in the middle of an accept."""
    seconds: float
    """The most time that the damage may take."""


class ChaosFailed(Exception):
    """A process did not do what every process does."""


class Process:
    """A worker or caller over all its lives."""

    def __init__(self, directory: Path, name: str, command: list[str], log: Log) -> None:
        self._directory = directory
        self._command = command
        self._log = log
        self.name = name
        self.lives = 0
        self.continues_at: float | None = None
        """It was stopped, until then."""
        self._process: subprocess.Popen[bytes] | None = None
        self.begin()

    @property
    def life(self) -> str:
        return f"{self.name}.{self.lives}"

    def begin(self) -> None:
        """Begin a new life."""
        self.lives += 1
        errors = self._directory / f"errors-{self.life}"
        command = [sys.executable, "-X", "faulthandler", *self._command]
        with errors.open("wb") as stderr:
            self._process = subprocess.Popen(
                [self.life if word == "LIFE" else word for word in command],
                stdin=subprocess.PIPE,
                stderr=stderr,
            )

    def _signal(self, number: signal.Signals, deed: str) -> None:
        assert self._process is not None
        code = self._process.poll()
        if code is not None:
            raise ChaosFailed(f"{self.life} ended by itself with {code}: {self.complaints()}")
        self._process.send_signal(number)
        self._log.say(deed, self.life)

    def kill(self) -> None:
        """SIGKILL, and begin a new life."""
        assert self._process is not None
        self._signal(signal.SIGKILL, "killed")
        self._process.wait(PATIENCE_SECONDS)
        assert self._process.stdin is not None
        self._process.stdin.close()
        self.continues_at = None
        self.begin()

    def stop(self, seconds: float) -> None:
        """SIGSTOP, for some time."""
        self._signal(signal.SIGSTOP, "stopped")
        self.continues_at = time.monotonic() + seconds

    def proceed(self) -> None:
        """SIGCONT, if it is stopped."""
        if self.continues_at is not None:
            self._signal(signal.SIGCONT, "continued")
            self.continues_at = None

    def close(self) -> None:
        """Have it end in good order."""
        assert self._process is not None
        assert self._process.stdin is not None
        self._process.stdin.close()

    def ended(self) -> None:
        """Wait until it has."""
        assert self._process is not None
        try:
            code = self._process.wait(PATIENCE_SECONDS)
        except subprocess.TimeoutExpired:
            raise ChaosFailed(f"{self.life} does not end: {self.complaints()}") from None
        if code != 0:
            raise ChaosFailed(f"{self.life} ended with {code}: {self.complaints()}")

    def put_down(self) -> None:
        """Whatever happened: nothing is left behind."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(PATIENCE_SECONDS)

    def complaints(self) -> str:
        """The end of what it wrote to its standard error."""
        text = (self._directory / f"errors-{self.life}").read_text("utf-8", "replace")
        return text.strip()[-2_000:]


class Director:
    """One performance."""

    def __init__(
        self, directory: Path, seed: str, scale: Scale, show: Callable[[str], None]
    ) -> None:
        self._directory = directory
        self._scale = scale
        self._show = show
        self._dice = random.Random(seed)
        self._began = time.monotonic()
        self._in_a_turn = Doing(directory / "runs", IN_A_TURN)
        self._in_an_accept = Doing(directory / "calls", IN_AN_ACCEPT)
        log = Log(directory / "deeds", "director")
        lease = str(LEASE_SECONDS)
        there = str(directory)
        self._workers = [
            Process(
                directory,
                f"worker{n}",
                ["-m", "tools.chaos.worker", there, "LIFE", seed, lease],
                log,
            )
            for n in range(scale.workers)
        ]
        self._callers = [
            Process(
                directory,
                f"caller{n}",
                [
                    *("-m", "tools.chaos.caller", there, f"caller{n}", "LIFE", seed),
                    *(str(scale.sessions), lease),
                ],
                log,
            )
            for n in range(scale.callers)
        ]

    def play(self) -> Counts:
        """Do the damage until there was enough of it, then let everything come to its end."""
        try:
            done = self._do_damage()
            self._tell(done, "enough: the callers finish")
            for process in (*self._workers, *self._callers):
                process.proceed()
            for several in (self._callers, self._workers):
                for process in several:
                    process.close()
                for process in several:
                    process.ended()
        finally:
            for process in (*self._workers, *self._callers):
                process.put_down()
        return count(heard(self._directory))

    def _do_damage(self) -> Counts:
        deadline = time.monotonic() + self._scale.seconds
        look_at = 0.0
        told = None
        while True:
            now = time.monotonic()
            if now >= look_at:
                done = count(heard(self._directory))
                if self._is_enough(done) or now >= deadline:
                    return done
                if told is None or now >= told + TELLING_SECONDS:
                    told = now
                    self._tell(done)
                # The longer the logs, the longer a look: at most a tenth of the time goes to it.
                look_at = now + 10 * (time.monotonic() - now)
            for process in self._workers:
                if process.continues_at is not None and now >= process.continues_at:
                    process.proceed()
            self._do_one_thing()
            time.sleep(self._dice.uniform(0.1, 0.9))

    def _do_one_thing(self) -> None:
        chance = self._dice.random()
        awake = [process for process in self._workers if process.continues_at is None]
        if chance < 0.15:
            self._aim(self._callers, self._in_an_accept).kill()
        elif chance < 0.45 and len(awake) > 1:
            stopped = self._aim(awake, self._in_a_turn)
            stopped.stop(LEASE_SECONDS * self._dice.uniform(1.2, 3.0))
        else:
            self._aim(self._workers, self._in_a_turn).kill()

    def _aim(self, processes: list[Process], doing: Doing) -> Process:
        """One in the middle of what it does, if there is one before long."""
        deadline = time.monotonic() + AIM_SECONDS
        while time.monotonic() < deadline:
            lives = doing.lives()
            aimed = [process for process in processes if process.life in lives]
            if aimed:
                return self._dice.choice(aimed)
            time.sleep(0.001)
        return self._dice.choice(processes)

    def _is_enough(self, done: Counts) -> bool:
        wanted = self._scale
        enough = (done.kills >= wanted.kills, done.stops >= wanted.stops, done.cuts >= wanted.cuts)
        return all(enough)

    def _tell(self, done: Counts, news: str = "") -> None:
        wanted = self._scale
        self._show(
            f"{time.monotonic() - self._began:4.0f} s  {done.kills:3}/{wanted.kills} workers "
            f"killed in a turn, {done.stops:2}/{wanted.stops} stopped past their lease, "
            f"{done.cuts:2}/{wanted.cuts} callers killed in an accept; {done.inputs} inputs "
            f"acknowledged, {done.runs} runs begun{'; ' if news else ''}{news}"
        )
