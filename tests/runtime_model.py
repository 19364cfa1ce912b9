"""What a Runtime with one session does, in two hundred lines that share no code with it.

Its executor does nothing by itself: a run waits until it is told how to end. The backoff is not
jittered, every grace is zero, and a run obeys its cancellation at once.
"""

from dataclasses import dataclass, field

MAX_FAILURES, MAX_CRASHES = 2, 2
UNFINISHED = "The previous turn ended unfinished."
TERMINAL = ("consumed", "abandoned", "superseded")


class Refused(Exception):
    """What the caller is told instead: a `NotReady` of that state."""


@dataclass(eq=False)
class Input:
    """One input, and how far it has come."""

    name: str
    text: str
    key: str | None = None
    scope: str | None = None
    priority: int = 0
    lane: int = 1
    place: int = 0
    due: float = 0.0
    state: str = "queued"
    reason: str | None = None
    result: str | None = None
    attempts: int = 0
    failures: int = 0
    crashes: int = 0


@dataclass
class Model:
    """The session."""

    now: float = 0.0
    phase: str = "open"
    paused: bool = False
    inputs: list[Input] = field(default_factory=list)
    run: Input | None = None
    open_turn: Input | None = None
    """Has committed a checkpoint and not its end."""
    open_due: float = 0.0
    transcript: list[tuple[str, str]] = field(default_factory=list)
    places: int = 0
    heads: int = 0

    # -- what is to be seen -----------------------------------------------------------------------

    @property
    def state(self) -> str:
        if self.run is not None:
            return "running"
        return "idle" if self.phase == "open" else self.phase

    @property
    def active(self) -> list[Input]:
        return [one for one in self.inputs if one.state not in TERMINAL]

    @property
    def queue(self) -> list[Input]:
        waiting = [one for one in self.inputs if one.state == "queued"]
        return sorted(waiting, key=lambda one: (one.lane, -one.priority, one.place))

    # -- inputs -----------------------------------------------------------------------------------

    def submit(self, one: Input, *, delay: float = 0.0, when_busy: str = "queue") -> Input:
        """The input that counts: this one, or the one that has its key."""
        for other in self.inputs:
            if one.key is not None and other.key == one.key:
                return other
        if self.phase != "open":
            raise Refused(self.phase)
        busy = self.run is not None
        if busy and when_busy == "reject":
            raise Refused("running")
        for other in self.queue:
            if one.scope is not None and other.scope == one.scope:
                self._end(other, "superseded")
        self.inputs.append(one)
        one.place = self._new_place()
        one.due = self.now + delay
        if (busy or self.open_turn is not None) and when_busy == "interrupt":
            self._to_the_head(one)
            self.interrupt()
        elif busy and when_busy == "steer":
            one.lane = 0
        self._start()
        return one

    def _to_the_head(self, one: Input) -> None:
        self.heads -= 1
        one.lane, one.priority, one.place = 0, 9, self.heads

    def _new_place(self) -> int:
        self.places += 1
        return self.places

    def _start(self) -> None:
        if self.run is not None or self.paused or self.phase not in ("open", "retired"):
            return
        if self.open_turn is not None:
            first = self.open_turn if self.open_due <= self.now else None
        else:
            first = next((one for one in self.queue if one.due <= self.now), None)
        if first is not None:
            self.run = first
            first.attempts += 1
            first.state = "applied" if first is self.open_turn else "staged"

    # -- the run ----------------------------------------------------------------------------------

    def checkpoint(self) -> None:
        assert self.run is not None
        self._write()
        self.open_turn = self.run
        self.run.state = "applied"

    def _write(self) -> None:
        assert self.run is not None
        if self.open_turn is None:
            self.transcript.append(("user", self.run.text))

    def answer(self, text: str) -> None:
        assert self.run is not None
        self._write()
        self.transcript.append(("assistant", text))
        self.run.result = text
        self.open_turn = None
        self._end(self.run, "consumed")
        self._start()

    def fail(self, *, for_good: bool = False) -> None:
        one = self.run
        assert one is not None
        one.failures += 1
        if for_good or one.failures > MAX_FAILURES:
            self._give_up(one, "non_retryable" if for_good else "retry_budget_exceeded")
        else:
            self._again(one, self.now + 2.0 ** (one.failures - 1))
            if self.open_turn is None:
                one.lane, one.priority, one.place = 1, 0, self._new_place()
        self._start()

    def _again(self, one: Input, due: float) -> None:
        self.run = None
        if self.open_turn is one:
            self.open_due = due
        else:
            one.state, one.due = "queued", due

    def _give_up(self, one: Input, reason: str) -> None:
        if self.open_turn is one:
            self.open_turn = None
            self.transcript.append(("system_notice", UNFINISHED))
        self._end(one, "abandoned", reason)

    def _end(self, one: Input, state: str, reason: str | None = None) -> None:
        one.state, one.reason = state, reason
        if self.run is one:
            self.run = None

    # -- control ----------------------------------------------------------------------------------

    def interrupt(self, *, requeue: bool = False) -> str:
        """The effect."""
        one = self.run or self.open_turn
        if one is None or (requeue and self.run is None):
            return "no_run"
        if not requeue:
            self._give_up(one, "cancelled")
        else:
            self._again(one, self.now)
        self._start()
        return "cancelling"

    def cancel(self, one: Input) -> str:
        """The effect."""
        if one.state in TERMINAL:
            return "already_terminal"
        running = self.run is one
        self._give_up(one, "cancelled")
        self._start()
        return "cancelling" if running else "cancelled"

    def retire(self) -> int:
        """How many inputs are to be drained."""
        self._require("open", "retired")
        self.phase = "retired"
        return len(self.active)

    def reset(self) -> int:
        """How many inputs were given up."""
        if self.run is not None:
            raise Refused("running")
        self._require("open", "retired")
        count = self._abandon_all("reset")
        self.phase, self.paused = "open", False
        return count

    def stop(self) -> int:
        """How many inputs were given up."""
        self._require("open", "retired", "stopped")
        return self._close("stopped")

    def destroy(self) -> int:
        """How many inputs were given up."""
        return self._close("destroyed")

    def _close(self, phase: str) -> int:
        self.phase, self.paused = phase, False
        return self._abandon_all(phase)

    def _abandon_all(self, reason: str) -> int:
        doomed = self.active
        for one in doomed:
            self._give_up(one, reason)
        return len(doomed)

    def respawn(self) -> int:
        """How many inputs the new instance has taken over."""
        self._require("open", "retired")
        self.let_go()
        return len(self.active)

    def let_go(self) -> None:
        """The run ends for nobody's fault, and whoever serves the session next goes on."""
        if self.run is not None:
            self._again(self.run, self.now)
        self._start()

    def crash(self) -> None:
        """The process dies, and the next one goes on."""
        one = self.run
        if one is not None:
            one.crashes += 1
            if one.crashes > MAX_CRASHES:
                self._give_up(one, "retry_budget_exceeded")
        self.let_go()

    def pause(self) -> None:
        self._require("open", "retired")
        self.paused = True

    def resume(self) -> None:
        self._require("open", "retired")
        self.paused = False
        self._start()

    def register(self) -> None:
        if self.phase == "destroyed":
            raise Refused("destroyed")
        if self.phase == "stopped":
            self.phase = "open"

    def _require(self, *phases: str) -> None:
        if self.phase not in phases:
            raise Refused(self.phase)

    # -- time -------------------------------------------------------------------------------------

    def pass_time(self, seconds: float) -> None:
        """What falls due is started at its own time."""
        end = self.now + seconds
        while True:
            self._start()
            dues = [one.due for one in self.queue] + [self.open_due]
            later = [due for due in dues if self.now < due <= end]
            if not later:
                break
            self.now = min(later)
        self.now = end
        self._start()
