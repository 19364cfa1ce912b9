"""What callers submit: kinds, headers, and the scripts that agents play.

Decides how often an input has what, and what its attempts do.
"""

from random import Random
from typing import Any

from turnkeeper.testing.simulation.actions import Value

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


class Submissions:
    """All that is submitted in one life, each with a label of its own."""

    def __init__(self, random: Random, texts: tuple[str, ...]) -> None:
        self._random = random
        self._texts = texts
        self.labels: list[tuple[str, str]] = []
        """Of each label made so far its session."""
        self.asking: list[tuple[str, str]] = []
        """Of each label whose script may ask for an approval its session."""

    def _label(self, session: str) -> str:
        label = f"L{len(self.labels)}"
        self.labels.append((label, session))
        return label

    def scripted(self, session: str, script: str) -> dict[str, Value]:
        """A prompt whose attempts do just what is said, and nothing more to it."""
        label = self._label(session)
        self._notice_asking(label, session, script)
        return {"label": label, "script": script}

    def _notice_asking(self, label: str, session: str, script: str) -> None:
        if "ask:" in script:
            self.asking.append((f"{label}?", session))

    def facts(self, session: str, *, plain: bool) -> dict[str, Value]:
        """One input: its label, its script or text, and its header."""
        random = self._random
        label = self._label(session)
        if self._texts:
            text: dict[str, Value] = {"label": label, "text": random.choice(self._texts)}
            return text | ({"key": f"key-{label}"} if random.random() < 0.45 else {})
        facts: dict[str, Value] = {"label": label}
        kind = "prompt" if plain else pick(random, KINDS)
        if kind != "prompt":
            facts["kind"] = kind
        script = facts["script"] = plain_script(random) if plain else self._script()
        self._notice_asking(label, session, script)
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
            parts.append(plain_script(random))
        script = ";".join(parts) or "ok"
        return f"{script}?{then_script(random)}" if "ask:" in script else script

    def _part(self) -> str:
        random = self._random
        words = [self._word() for _ in range(random.choice([0, 1, 1, 2, 3]))]
        end = pick(
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
                "ask": 6,
            },
        )
        if end == "ask":
            end = asking_end(random)
        if end == "stubborn":
            end = f"stubborn:{random.choice([1.0, 9.0])}"
        return ",".join([*words, end])

    def _word(self) -> str:
        random = self._random
        word = pick(random, {"work": 40, "cp": 20, "step": 22, "emit": 4, "in": 8})
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


def plain_script(random: Random) -> str:
    """An attempt that succeeds."""
    return random.choice(["ok", "ok", "work:0.2,ok", "work:1.0,ok", "step:a,ok", "cp,ok"])


def asking_end(random: Random) -> str:
    """The end of an attempt that asks for an approval."""
    return f"ask:{random.choice([0.3, 3.0, 20.0, 20.0])}{random.choice(['', '', '', ':2'])}"


def then_script(random: Random) -> str:
    """What a turn does that is told what was decided."""
    return random.choice(
        [
            "act,ok",
            "act,ok",
            "act,work:1.0,ok",
            "work:0.2,act,ok",
            "fail;act,ok",
            "act,fail;act,ok",
            "cp,act:rec,hang;act:rec,ok",
            "act,fatal;act,ok",
            "act,ask:3.0?act,ok",
        ]
    )


def pick(random: Random, weights: dict[str, Any]) -> str:
    """One of the names, as often as it weighs."""
    return random.choices(list(weights), list(weights.values()))[0]
