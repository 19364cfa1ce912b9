"""Of a seed the life that it stands for.

Decides which actions happen, how often, and with what settings: many things at once, few of each.
"""

from random import Random
from typing import Any

from turnkeeper.testing.simulation.actions import Action, Life, Value

CALLS = {
    "submit": 40,
    "again": 7,
    "handle": 4,
    "interrupt": 5,
    "cancel": 5,
    "retire": 1.5,
    "reset": 1.5,
    "stop": 1.2,
    "destroy": 0.3,
    "respawn": 2,
    "pause": 2,
    "resume": 3,
    "unregister": 2,
    "register": 2.5,
    "requeue": 5,
    "follow": 1.5,
    "read": 2,
    "prune": 1.5,
}
"""What callers do, and how often."""

BY_HAND = {"attach": 8, "detach": 2, "one_turn": 6}
"""What they do besides where no factory makes the executors."""

FAULTS = {
    "crash": 3.5,
    "fault": 5,
    "outage": 1,
    "break_reads": 1.5,
    "break_write": 1.5,
    "freeze": 1,
    "jump": 1,
    "close": 1,
}
"""What the world does."""

CRASHES = {"crash": 9, "close": 1}
"""What it does in a life whose disk is sound: each crash can be told from its traces."""

KINDS = {
    "prompt": 70,
    "peer_message": 3,
    "peer_request": 2,
    "progress": 7,
    "terminal": 5,
    "callback": 6,
    "flow_step": 2,
    "event": 3,
    "notice": 5,
    "projected": 2,
}


PROFILES = ("coalesce", "batch", "debounce")
"""What a life's profile may do with prompts that come quickly."""

FOR_AGENTS = ("submit", "again", "handle", "interrupt", "pause", "resume", "respawn", "requeue")
"""What callers of a user's agent do."""


FOR_AGENTS_CONFIG = {"run_time_limit_seconds": 200.0, "max_failures": 3, "max_crashes": 50}
"""So that an agent is given up for its own failures, and not for faults around it."""


def generate(seed: int, store: str | None = None, texts: tuple[str, ...] = ()) -> Life:
    """The life of this seed; `store` puts it on another store than the seed's own.

    `texts`: what callers say to a user's agent; without any, each prompt is a script.
    """
    random = Random(f"turnkeeper life {seed}")
    return _Author(random, seed, store, texts).life()


HEADERS: dict[str, tuple[float, tuple[Value, ...]]] = {
    "priority": (0.2, (1, 5, 9)),
    "supersedes": (0.15, ("a", "b")),
    "not_before": (0.12, (0.1, 2.0, 20.0)),
    "expires": (0.12, (0.05, 1.0, 10.0, 30.0)),
    "durability": (0.1, ("ephemeral",)),
    "hidden": (0.06, (True,)),
    "when_busy": (0.15, ("reject", "steer", "steer", "interrupt", "rollback")),
    "patience": (0.08, (0.0, 0.01, 0.5)),
    "waiters": (0.3, (2,)),
}
"""Of each further fact of a submission how often it has it, and what it may be."""


class _Author:
    def __init__(
        self, random: Random, seed: int, store: str | None, texts: tuple[str, ...]
    ) -> None:
        self._texts = texts
        self._random = random
        self._seed = seed
        own = random.choice(["memory", "sqlite"])
        self._store = own if store is None else store
        self._by_hand = not texts and random.random() < 0.12
        # A report about a user's agent is read by a person: its lives are small.
        counts = [1, 1, 1, 1, 1, 2] if texts else [1, 1, 1, 2, 2, 3]
        self._processes = ("p0", "p1", "p2")[: random.choice(counts)]
        self._sessions = tuple(f"s{i}" for i in range(random.choice([1, 1, 2, 2, 3])))
        self._labels: list[tuple[str, str]] = []
        """Of each label made so far its session."""
        self._tame = random.random() < 0.15
        """A life without faults of the store and the machine."""
        self._faults = CRASHES if not texts and random.random() < 0.12 else FAULTS
        self._up = dict.fromkeys(self._processes, True)

    def life(self) -> Life:
        random = self._random
        actions: list[Action] = [Action(verb="start", process=name) for name in self._processes]
        for _ in range(random.randint(15, 60)):
            actions += self._next()
        if self._faults is FAULTS and not self._tame and random.random() < 0.15:
            actions += self._coda()
        return Life(
            seed=self._seed,
            store=self._store,
            shuffled=random.random() < 0.5,
            by_hand=self._by_hand,
            processes=self._processes,
            sessions=self._sessions,
            steer=random.choice(["at_border", "at_border", "none"]),
            cancel=random.choice(["graceful", "immediate"]),
            config=self._config() | (FOR_AGENTS_CONFIG if self._texts else {}),
            profile=random.choice(PROFILES) if random.random() < 0.35 else "",
            actions=tuple(actions),
        )

    def _coda(self) -> list[Action]:
        """A last restart meets a disk that fails for good, or a last write comes very late; and
        nobody comes to look.
        """
        process = self._random.choice(self._processes)
        soon = self._random.choice([0.005, 0.02, 0.05])
        if self._random.random() < 0.5:
            return self._late_write(process)
        facts: dict[str, Value] = {"fault": "before", "seconds": 12.0}
        return [
            Action(verb="crash", process=process, after_seconds=0.1),
            Action(verb="start", process=process, after_seconds=0.1),
            Action(verb="outage", process=process, after_seconds=soon, facts=facts),
            Action(verb="jump", process=process, after_seconds=9.0, facts={"seconds": 1.0}),
        ]

    def _late_write(self, process: str) -> list[Action]:
        """The store takes a write in hand for so long that its session has a new owner by then."""
        session = self._random.choice(self._sessions)
        facts: dict[str, Value] = {"fault": "stall", "seconds": 30.0}
        submitted = self._input(session, plain=True)
        return [
            Action(verb="start", process=process, after_seconds=30.0),
            Action(verb="outage", process=process, after_seconds=9.0, facts=facts),
            Action(verb="submit", process=process, session=session, facts=submitted),
            Action(verb="jump", process=process, after_seconds=9.0, facts={"seconds": 1.0}),
        ]

    def _config(self) -> dict[str, Any]:
        random = self._random
        return {
            "max_running": random.choice([1, 1, 2, 100]),
            "max_failures": random.choice([0, 1, 2, 3]),
            "max_crashes": random.choice([0, 1, 2, 10]),
            "run_time_limit_seconds": random.choice([6.0, 20.0]),
            "backoff_first_seconds": random.choice([0.5, 1.0]),
            "backoff_max_seconds": random.choice([1.0, 8.0]),
            "interrupt_grace_seconds": random.choice([0.5, 2.0]),
            "unregister_grace_seconds": random.choice([0.5, 3.0]),
            "close_drain_seconds": random.choice([0.5, 4.0]),
            "commit_retry_seconds": random.choice([1.0, 5.0]),
            "passivation_seconds": random.choice([0.5, 5.0, 60.0]),
            "poll_seconds": random.choice([0.2, 2.0]),
            "lease_seconds": random.choice([2.0, 10.0]),
            "request_age_seconds": random.choice([3.0, 30.0]),
            "queue_per_session": random.choice([3, 1_000, 1_000, 1_000]),
            "on_failure": random.choice(["continue", "continue", "block"]),
            "on_zombie": random.choice(["continue", "continue", "hold"]),
        }

    # -- one action --------------------------------------------------------------------------------

    def _next(self) -> list[Action]:
        random = self._random
        weights: dict[str, float] = dict(CALLS)
        if self._texts:
            weights = {verb: CALLS[verb] for verb in FOR_AGENTS} | {"unregister": 4, "register": 4}
        if self._by_hand:
            weights |= BY_HAND
        if not self._tame:
            # A user's agent is the one to be tried, by what cuts its runs short.
            more = 3 if self._texts else 1
            weights |= {fault: weight * more for fault, weight in self._faults.items()}
        verb = _pick(random, weights)
        process = random.choice(self._processes)
        when: dict[str, Any] = {
            "after_seconds": random.choice([0.0, 0.0, 0.0, 0.002, 0.02, 0.1, 0.5, 1.0, 3.0]),
            "after_steps": random.choice([0, 0, 1, 2, 3, 5, 8, 13, 21]),
        }
        if not self._up[process]:
            self._up[process] = True
            start = Action(verb="start", process=process, **when)
            if self._tame or self._faults is CRASHES or random.random() < 0.8:
                return [start]
            # A recovery meets a disk that fails.
            soon = random.choice([0.005, 0.02, 0.05, 0.1])
            facts: dict[str, Value] = {"fault": "before", "seconds": random.choice([3.0, 12.0])}
            return [
                start,
                Action(verb="outage", process=process, after_seconds=soon, facts=facts),
            ]
        if verb == "freeze" and len(self._processes) > 1 and random.random() < 0.5:
            return self._awakening(process, when)
        if verb in FAULTS:
            return self._fault(verb, process, when)
        return [self._call(verb, process, when)]

    def _fault(self, verb: str, process: str, when: dict[str, Any]) -> list[Action]:
        random = self._random
        facts: dict[str, Value] = {}
        match verb:
            case "crash":
                self._up[process] = False
                if random.random() < 0.25:
                    facts = {"in_write": random.randint(1, 12)}
            case "close":
                self._up[process] = False
                facts = {"drain": random.choice([0.0, 0.2, 2.0])}
            case "fault":
                facts = {
                    "fault": random.choice(["before", "after", "stall", "lose"]),
                    "times": random.choice([1, 1, 1, 2, 5]),
                    "held": random.choice([0.01, 0.3, 2.0, 6.0, 30.0]),
                }
            case "outage":
                facts = {
                    "fault": random.choice(["before", "before", "after", "stall", "lose"]),
                    "seconds": random.choice([0.5, 3.0, 12.0]),
                }
            case "break_reads":
                facts = {"times": random.choice([1, 1, 3])}
            case "break_write":
                facts = {"after": random.randint(1, 12)}
            case "freeze":
                facts = {"seconds": random.choice([0.5, 5.0, 40.0])}
            case "jump":
                facts = {"seconds": random.choice([-120.0, -30.0, -1.0, 1.0, 30.0, 120.0])}
        return [Action(verb=verb, process=process, facts=facts, **when)]

    def _awakening(self, process: str, when: dict[str, Any]) -> list[Action]:
        """Who sleeps past its lease wakes up just when another one takes its session."""
        random = self._random
        session = random.choice(self._sessions)
        other = random.choice([name for name in self._processes if name != process])
        seconds = random.choice([3.0, 11.0])

        def submit(place: str, after: float) -> Action:
            facts = self._input(session, plain=True)
            pause: dict[str, Any] = {"after_seconds": after}
            pause["after_steps"] = random.choice([0, 1, 3, 8])
            return Action(verb="submit", process=place, session=session, facts=facts, **pause)

        return [
            Action(verb="freeze", process=process, facts={"seconds": seconds}, **when),
            submit(process, 0.5),
            submit(other, seconds - 0.5 - random.choice([0.0, 0.005, 0.03])),
        ]

    def _call(self, verb: str, process: str, when: dict[str, Any]) -> Action:
        random = self._random
        session = random.choice(self._sessions)
        facts: dict[str, Value] = {}
        match verb:
            case "submit" | "one_turn":
                facts = self._input(session, plain=verb == "one_turn")
            case "again" | "handle" | "cancel" | "requeue":
                if not self._labels:
                    return Action(verb="read", process=process, session=session, **when)
                label, session = random.choice(self._labels[-12:])
                facts = {"label": label}
                if verb == "again":
                    facts["same"] = random.random() < 0.8
                if verb == "requeue":
                    facts |= {"twice": random.random() < 0.3, "told": random.random() < 0.5}
            case "interrupt":
                facts = {"requeue": random.random() < 0.4, "named": random.random() < 0.3}
            case "retire":
                facts = {"drain": random.choice([None, None, 0.0, 2.0])}
            case "prune":
                facts = {"age": random.choice([0.0, 0.0, 1.0, 5.0])}
        return Action(verb=verb, process=process, session=session, facts=facts, **when)

    # -- inputs ------------------------------------------------------------------------------------

    def _input(self, session: str, *, plain: bool) -> dict[str, Value]:
        random = self._random
        label = f"L{len(self._labels)}"
        self._labels.append((label, session))
        if self._texts:
            text: dict[str, Value] = {"label": label, "text": random.choice(self._texts)}
            return text | ({"key": f"key-{label}"} if random.random() < 0.45 else {})
        facts: dict[str, Value] = {"label": label}
        kind = "prompt" if plain else _pick(random, KINDS)
        if kind != "prompt":
            facts["kind"] = kind
        facts["script"] = _plain_script(random) if plain else self._script()
        if random.random() < 0.45:
            facts["key"] = f"key-{label}"
        for name, (chance, values) in HEADERS.items():
            if random.random() < chance:
                facts[name] = random.choice(values)
        return facts

    def _script(self) -> str:
        random = self._random
        parts = [self._part() for _ in range(random.choice([0, 1, 1, 2, 3]))]
        if random.random() < 0.9:
            parts.append(_plain_script(random))
        return ";".join(parts) or "ok"

    def _part(self) -> str:
        random = self._random
        words = [self._word() for _ in range(random.choice([0, 1, 1, 2, 3]))]
        end = _pick(
            random,
            {
                "ok": 25,
                "none": 3,
                "fail": 25,
                "fatal": 3,
                "exit": 1,
                "bad": 2,
                "hang": 10,
                "late": 6,
                "stubborn": 5,
            },
        )
        if end == "stubborn":
            end = f"stubborn:{random.choice([1.0, 9.0])}"
        return ",".join([*words, end])

    def _word(self) -> str:
        random = self._random
        word = _pick(random, {"work": 40, "cp": 20, "step": 22, "emit": 4, "in": 8})
        match word:
            case "work":
                return f"work:{random.choice([0.01, 0.2, 1.0, 2.5])}"
            case "cp":
                return random.choice(["cp", "cp", "cp", "cp:inc"])
            case "step":
                how = random.choice(["", "", ":idem", ":rec", ":bad"])
                return f"step:{random.choice('ab')}{how}"
            case "in":
                verb = random.choice(
                    ["submit", "submit", "retire", "stop", "respawn", "unregister", "wait"]
                )
                return f"in:{verb}"
        return word


def _plain_script(random: Random) -> str:
    return random.choice(["ok", "ok", "work:0.2,ok", "work:1.0,ok", "step:a,ok", "cp,ok"])


def _pick(random: Random, weights: dict[str, Any]) -> str:
    return random.choices(list(weights), list(weights.values()))[0]
