"""Of a seed the life that it stands for.

Decides which actions happen, how often, and with what settings: many things at once, few of each.
"""

from random import Random
from typing import Any

from msgspec.structs import replace

from turnkeeper.testing.simulation.actions import Action, Life, Value
from turnkeeper.testing.simulation.settings import settings
from turnkeeper.testing.simulation.submissions import (
    Submissions,
    asking_end,
    pick,
    plain_script,
    then_script,
)

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
    "answer": 5,
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


PROFILES = ("coalesce", "batch", "debounce")
"""What a life's profile may do with prompts that come quickly."""

FOR_AGENTS = (
    "submit", "again", "handle", "interrupt", "pause", "resume", "respawn", "requeue", "answer",
)  # fmt: skip
"""What callers of a user's agent do."""


FOR_AGENTS_CONFIG = {"run_time_limit_seconds": 200.0, "max_failures": 3, "max_crashes": 50}
"""So that an agent is given up for its own failures, and not for faults around it."""


def generate(seed: int, store: str | None = None, texts: tuple[str, ...] = ()) -> Life:
    """The life of this seed; `store` puts it on another store than the seed's own.

    `texts`: what callers say to a user's agent; without any, each prompt is a script.
    """
    random = Random(f"turnkeeper life {seed}")
    return _Author(random, seed, store, texts).life()


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
        self._submissions = Submissions(random, texts)
        self._tame = random.random() < 0.15
        """A life without faults of the store and the machine."""
        self._faults = CRASHES if not texts and random.random() < 0.12 else FAULTS
        self._up = dict.fromkeys(self._processes, True)

    def life(self) -> Life:
        random = self._random
        actions: list[Action] = [Action(verb="start", process=name) for name in self._processes]
        for _ in range(random.randint(15, 60)):
            actions += self._next()
        if not (self._tame or self._texts) and random.random() < (
            0.25 if self._faults is FAULTS else 0.6
        ):
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
            config=settings(random) | (FOR_AGENTS_CONFIG if self._texts else {}),
            profile=random.choice(PROFILES) if random.random() < 0.35 else "",
            actions=tuple(actions),
        )

    def _coda(self) -> list[Action]:
        """What a life's middle comes to too seldom, whole; and nobody comes to look after it."""
        codas = [self._cut_short, self._second_life, self._suspects, self._decided, self._settled]
        if self._faults is FAULTS:
            codas += [self._failing_restart, self._late_write]
        return self._random.choice(codas)(self._random.choice(self._processes))

    def _failing_restart(self, process: str) -> list[Action]:
        """A last restart meets a disk that fails for good."""
        soon = self._random.choice([0.005, 0.02, 0.05])
        facts: dict[str, Value] = {"fault": "before", "seconds": 12.0}
        return [
            *self._restart(process, 0.1),
            Action(verb="outage", process=process, after_seconds=soon, facts=facts),
            Action(verb="jump", process=process, after_seconds=9.0, facts={"seconds": 1.0}),
        ]

    def _late_write(self, process: str) -> list[Action]:
        """The store takes a write in hand for so long that its session has a new owner by then."""
        facts: dict[str, Value] = {"fault": "stall", "seconds": 30.0}
        return [
            Action(verb="start", process=process, after_seconds=30.0),
            Action(verb="outage", process=process, after_seconds=9.0, facts=facts),
            self._submit(process, plain_script(self._random)),
            Action(verb="jump", process=process, after_seconds=9.0, facts={"seconds": 1.0}),
        ]

    def _cut_short(self, process: str) -> list[Action]:
        """A crash comes in the middle of a run's steps."""
        how = self._random.choice(["", "", ":idem", ":rec"])
        return [
            Action(verb="start", process=process, after_seconds=30.0),
            self._submit(process, f"step:a,step:b{how},ok", after_seconds=9.0),
            *self._restart(process, self._random.choice([0.03, 0.07, 0.12])),
        ]

    def _second_life(self, process: str) -> list[Action]:
        """An input is given up after it has had an effect, and admitted again."""
        script = self._random.choice(["step:a,fatal;step:a,ok", "cp,fatal;ok"])
        submit = self._submit(process, script, after_seconds=9.0)
        facts: dict[str, Value] = {"label": submit.facts["label"], "twice": False, "told": True}
        requeue = Action(
            verb="requeue", process=process, session=submit.session, after_seconds=3.0, facts=facts
        )
        return [Action(verb="start", process=process, after_seconds=30.0), submit, requeue]

    def _settled(self, process: str) -> list[Action]:
        """A crash leaves calls of unknown outcome, an operator settles them, maybe in vain: what
        goes on then is cut off too, and settled once more.
        """
        random = self._random
        submit = self._submit(process, "step:a,step:b,ok", after_seconds=9.0)
        settled: list[Action] = []
        for _ in range(random.choice([1, 2, 2])):
            words: dict[str, Value] = {"twice": False, "told": True, "last": True}
            words |= {"label": submit.facts["label"], "words": random.choice(["d", "n", "dn"])}
            requeue = Action(
                verb="requeue",
                process=random.choice(self._processes),
                session=submit.session,
                after_seconds=3.0,
                facts=words,
            )
            settled += [requeue, *self._restart(process, random.choice([0.03, 0.07, 0.12, 0.3]))]
        return [
            Action(verb="start", process=process, after_seconds=30.0),
            submit,
            *self._restart(process, random.choice([0.03, 0.07, 0.12])),
            *settled,
        ]

    def _decided(self, process: str) -> list[Action]:
        """A person answers, maybe another one, and a crash comes then; or what it began is given
        up, and asked for again.
        """
        random = self._random
        session = random.choice(self._sessions)
        crash = random.random() < 0.6
        then = then_script(random) if crash else "act,fatal;act,ok"
        submit = self._submit(process, f"ask:20.0?{then}", session, after_seconds=9.0)
        again: dict[str, Value] = {"label": f"{submit.facts['label']}?", "twice": True}
        requeue = Action(
            verb="requeue",
            process=random.choice(self._processes),
            session=session,
            after_seconds=3.0,
            facts=again | {"told": True},
        )
        return [
            Action(verb="start", process=process, after_seconds=30.0),
            submit,
            *self._answers(process, {"after_seconds": 2.0}),
            *(self._restart(process, random.choice([0.0, 0.03, 0.12])) if crash else [requeue]),
        ]

    def _suspects(self, process: str) -> list[Action]:
        """Runs of several sessions are in progress at one crash after the other."""
        crashes = self._restart(process, 0.3) * self._random.choice([2, 3])
        return [
            Action(verb="start", process=process, after_seconds=30.0),
            *[self._submit(process, "work:1.0,ok", name) for name in self._sessions],
            *crashes,
        ]

    def _submit(
        self, process: str, script: str, session: str = "", *, after_seconds: float = 0.0
    ) -> Action:
        session = session or self._random.choice(self._sessions)
        facts = self._submissions.scripted(session, script)
        return Action(
            verb="submit",
            process=process,
            session=session,
            after_seconds=after_seconds,
            facts=facts,
        )

    @staticmethod
    def _restart(process: str, after_seconds: float) -> list[Action]:
        return [
            Action(verb="crash", process=process, after_seconds=after_seconds),
            Action(verb="start", process=process, after_seconds=0.1),
        ]

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
        verb = pick(random, weights)
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
        if verb == "answer":
            return self._answers(process, when)
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
            facts = self._submissions.facts(session, plain=True)
            pause: dict[str, Any] = {"after_seconds": after}
            pause["after_steps"] = random.choice([0, 1, 3, 8])
            return Action(verb="submit", process=place, session=session, facts=facts, **pause)

        return [
            Action(verb="freeze", process=process, facts={"seconds": seconds}, **when),
            submit(process, 0.5),
            submit(other, seconds - 0.5 - random.choice([0.0, 0.005, 0.03])),
        ]

    def _answers(self, process: str, when: dict[str, Any]) -> list[Action]:
        """A person's answer, or that of two at about the same time; before it a question."""
        random, asking = self._random, self._submissions.asking
        answers: list[Action] = []
        if not self._texts and (not asking or random.random() < 0.3):
            script = f"{asking_end(random)}?{then_script(random)}"
            answers.append(replace(self._submit(process, script), **when))
            when = {"after_seconds": random.choice([0.1, 0.5, 1.0, 3.0])}
        facts: dict[str, Value] = {"fresh": random.random() < 0.7}
        session = random.choice(self._sessions)
        if asking:
            facts["label"], session = random.choice(asking[-3:])
            facts["older"] = random.choice([0, 0, 1])
        for _ in range(random.choice([1, 1, 2])):
            said = facts | {"approved": random.random() < 0.65}
            if random.random() < 0.08:
                said["patience"] = random.choice([0.0, 0.01, 0.5])
            answers.append(
                Action(verb="answer", process=process, session=session, facts=said, **when)
            )
            process = random.choice(self._processes)
            when = {"after_steps": random.choice([0, 0, 1, 3, 8])}
        return answers

    def _call(self, verb: str, process: str, when: dict[str, Any]) -> Action:
        random = self._random
        session = random.choice(self._sessions)
        facts: dict[str, Value] = {}
        match verb:
            case "submit" | "one_turn":
                facts = self._submissions.facts(session, plain=verb == "one_turn")
            case "again" | "handle" | "cancel" | "requeue":
                if not self._submissions.labels:
                    return Action(verb="read", process=process, session=session, **when)
                label, session = random.choice(self._submissions.labels[-12:])
                facts = {"label": label}
                if verb != "again" and self._submissions.asking and random.random() < 0.3:
                    facts["label"], session = random.choice(self._submissions.asking[-4:])
                if verb == "again":
                    facts["same"] = random.random() < 0.8
                if verb == "requeue":
                    facts |= {"twice": random.random() < 0.3, "told": random.random() < 0.5}
                    facts |= {
                        "words": random.choice(["n", "d", "dn"]),
                        "last": random.random() < 0.5,
                    }
            case "interrupt":
                facts = {"requeue": random.random() < 0.4, "named": random.random() < 0.3}
            case "retire":
                facts = {"drain": random.choice([None, None, 0.0, 2.0])}
            case "prune":
                facts = {"age": random.choice([0.0, 0.0, 1.0, 5.0])}
        return Action(verb=verb, process=process, session=session, facts=facts, **when)
