"""What the simulation found in the product, each as the shortest life that showed it.

A life is plain data; each is lived again by the tests, on both stores.
"""

from dataclasses import dataclass, field

from msgspec.structs import replace

from turnkeeper.testing.simulation.actions import Action, Life, Value

SETTINGS = {
    "max_running": 1,
    "max_failures": 3,
    "max_crashes": 0,
    "run_time_limit_seconds": 6.0,
    "backoff_first_seconds": 0.5,
    "backoff_max_seconds": 1.0,
    "interrupt_grace_seconds": 0.5,
    "unregister_grace_seconds": 0.5,
    "close_drain_seconds": 0.5,
    "commit_retry_seconds": 1.0,
    "passivation_seconds": 60.0,
    "poll_seconds": 2.0,
    "lease_seconds": 2.0,
    "request_age_seconds": 30.0,
    "queue_per_session": 1_000,
    "on_failure": "continue",
    "on_zombie": "continue",
}


@dataclass(frozen=True)
class Found:
    """One finding: its seed when it was found, what was wrong, and the life."""

    seed: int
    what: str
    processes: tuple[str, ...]
    actions: tuple[Action, ...]
    by_hand: bool = False
    profile: str = ""
    settings: dict[str, object] = field(default_factory=dict)
    """Where they differ from `SETTINGS`."""

    def life(self, store: str) -> Life:
        return Life(
            seed=self.seed,
            store=store,
            by_hand=self.by_hand,
            profile=self.profile,
            processes=self.processes,
            sessions=tuple(sorted({action.session for action in self.actions})),
            config=SETTINGS | self.settings,
            actions=self.actions,
        )


def does(
    verb: str, after: float = 0.0, process: str = "p0", session: str = "s0", **facts: Value
) -> Action:
    """One action, on the session unless it says another one."""
    return Action(after_seconds=after, verb=verb, process=process, session=session, facts=facts)


ONE = ("p0",)
TWO = ("p0", "p1")

FOUND = (
    Found(
        733,
        "a detach while a staging is being written left the run without an executor, for ever",
        ONE,
        (does("start"), does("attach", 1.0), does("submit", 0.5, label="L0", script="ok")),
        by_hand=True,
    ),
    Found(
        111,
        "an input whose session was let go and whose process closed was charged with a crash",
        ONE,
        (
            does("start"),
            does("outage", 1.0, fault="after", seconds=12.0),
            does("submit", label="L0", script="ok", not_before=2.0),
            does("close", 3.0, drain=0.0),
        ),
    ),
    Found(
        373,
        "a caller was told that its session is not here, though its input was stored",
        ONE,
        (
            does("start"),
            does("submit", 0.1, label="L0", script="ok"),
            does("freeze", 0.5, seconds=5.0),
            does("submit", label="L1", script="ok"),
        ),
    ),
    Found(
        1090,
        "a destroy did not see what another process had put in, which then waited for ever",
        TWO,
        (
            does("start"),
            does("start", process="p1"),
            does("submit", 3.0, "p1", label="L0", script="work:1.0,ok"),
            does("submit", 0.2, label="L1", script="ok"),
            does("destroy", 0.2, "p1"),
        ),
    ),
    Found(
        93,
        "progress whose turn lost the input that started it was run alone",
        ONE,
        (
            does("start"),
            does("submit", 0.1, label="L0", kind="progress", script="hang"),
            does("submit", 0.1, label="L1", script="ok"),
            does("cancel", 0.1, label="L1"),
        ),
    ),
    Found(
        148,
        "a dead letter of a kind that is done at its admission was queued for ever",
        TWO,
        (
            does("start", process="p1"),
            does("submit", 0.1, "p1", label="L0", script="ok"),
            does("start", 1.0),
            does("submit", 0.1, label="L1", kind="notice", script="ok", expires=0.05),
            does("requeue", 3.0, label="L1", twice=True, told=True),
        ),
    ),
    Found(
        926,
        "a registration that met an operation whose session was let go was never answered",
        ONE,
        (
            does("start"),
            does("submit", 0.1, label="L0", script="hang"),
            does("respawn", 0.1),
            does("register", 0.05),
            does("fault", 0.1, fault="lose", times=5, held=30.0),
        ),
    ),
    Found(
        2986,
        "an input that another process put in superseded a newer one",
        TWO,
        (
            does("start"),
            does("start", process="p1"),
            does("submit", 3.0, "p1", label="L0", script="work:1.0,ok"),
            does("submit", 0.1, label="L1", script="ok", supersedes="a"),
            does("submit", 0.3, "p1", label="L2", script="ok", supersedes="a"),
        ),
    ),
    Found(
        863,
        "the inputs of an open turn changed their order over a crash",
        ONE,
        (
            does("start"),
            does("submit", 0.1, label="L0", script="work:0.3,ok"),
            does("submit", 0.1, label="L1", script="cp,hang;ok"),
            does("submit", 0.05, label="L2", kind="progress", script="ok"),
            does("crash", 1.5),
            does("start", 0.1),
        ),
    ),
    Found(
        0,
        "a run that failed after the time to drain was tried again",
        ONE,
        (
            does("start"),
            does("submit", 0.1, label="L0", script="work:1.0,fail;ok"),
            does("retire", 0.1, drain=0.2),
        ),
    ),
    Found(
        35,
        "a dead letter's successor of a debounced kind was looked at without an end",
        ONE,
        (
            does("start"),
            does("submit", 0.1, label="L0", script="ok", expires=0.05),
            does("requeue", 3.0, label="L0", twice=False, told=False),
        ),
        profile="debounce",
    ),
    Found(
        18,
        "a run took what was queued, though something that another process put in came first",
        TWO,
        (
            does("start"),
            does("start", process="p1"),
            does("submit", 0.1, label="L0", script="ok"),
            does("pause", 0.5),
            does("submit", 0.5, label="L1", script="ok"),
            does("submit", 0.5, "p1", label="L2", script="ok", priority=9),
            does("resume", 0.1),
        ),
    ),
    Found(
        863,
        "an input that came during a recovery began a run before it, which the recovery then undid",
        TWO,
        (
            does("start"),
            does("start", process="p1"),
            does("submit", 3.0, label="L1", script="late"),
            does("submit", 1.0, "p1", label="L2", script="ok"),
            does("unregister"),
            does("submit", 0.5, label="L8", script="ok"),
            does("submit", 0.0, "p1", label="L10", script="ok"),
        ),
    ),
    Found(
        30152,
        "a Runtime that drained asked for a place again and again, for what it may not start",
        TWO,
        (
            does("start"),
            does("start", process="p1"),
            replace(does("submit", label="L0", script="ok", not_before=2.0), after_steps=2),
            does("fault", fault="lose", times=2, held=0.3),
            does("submit", 0.1, "p1", "s1", label="L6", script="work:0.01,cp,step:b,stubborn:1.0"),
            does("submit", 4.004, "p0", "s1", label="L13", script="ok"),
            does("close", 0.002, drain=0.2),
        ),
        settings={"commit_retry_seconds": 5.0},
    ),
    Found(
        2002,
        "an input that was due and not begun when the clock was set back was never begun",
        ONE,
        (
            does("start"),
            replace(does("submit", label="L2", script="ok"), after_steps=8),
            does("outage", 0.005, fault="before", seconds=12.0),
            does("submit", label="L8", script="ok"),
            does("submit", 1.0, label="L13", script="ok"),
            does("jump", 0.1, seconds=-120.0),
        ),
        profile="debounce",
    ),
    Found(
        3057,
        "debounced inputs whose newest has a later time of its own waited until then",
        ONE,
        (
            does("start"),
            does("submit", 5.12, label="L8", script="ok"),
            replace(does("submit", label="L9", script="ok", not_before=20.0), after_steps=13),
        ),
        profile="debounce",
        settings={
            "max_failures": 0,
            "max_crashes": 1,
            "backoff_max_seconds": 1.0,
            "interrupt_grace_seconds": 2.0,
            "commit_retry_seconds": 5.0,
            "poll_seconds": 0.2,
            "lease_seconds": 10.0,
            "on_zombie": "hold",
        },
    ),
    Found(
        3098,
        "a run that its owner had let go of was a crash, if the first recovery after it failed",
        TWO,
        (
            does("start"),
            does("start", process="p1"),
            does("fault", 0.02, fault="lose", times=5, held=0.3),
            does("fault", 0.0, "p1", fault="lose", times=1, held=0.01),
            does("submit", session="s1", label="L1", script="step:a:bad"),
            does("fault", 0.5, "p1", fault="before", times=1, held=2.0),
            does("submit", 0.0, "p1", "s1", label="L2", script="ok"),
            does("handle", 2.0, label="L3"),
        ),
        settings={
            "interrupt_grace_seconds": 2.0,
            "max_running": 100,
            "max_failures": 2,
            "max_crashes": 1,
            "run_time_limit_seconds": 20.0,
            "backoff_first_seconds": 1.0,
            "poll_seconds": 0.2,
            "on_failure": "block",
            "unregister_grace_seconds": 3.0,
        },
    ),
    Found(
        3117,
        "a run that was let go of was a crash, if the store could not be read at the close",
        TWO,
        (
            does("start"),
            does("start", process="p1"),
            replace(does("submit", 0.0, "p1", label="L1", script="step:a"), after_steps=8),
            does("submit", label="L2", script="ok"),
            does("break_reads", 0.02, "p1", times=3),
            does("respawn", 0.0, "p1"),
            does("close", 0.0, "p1", drain=2.0),
            does("break_reads", 1.0, times=1),
        ),
        settings={
            "max_crashes": 2,
            "unregister_grace_seconds": 3.0,
            "commit_retry_seconds": 5.0,
            "lease_seconds": 10.0,
        },
    ),
    Found(
        3447,
        "a new input was begun before an older one whose decision had failed in the store",
        TWO,
        (
            does("start"),
            does("start", process="p1"),
            does("submit", 0.5, label="L1", script="ok"),
            does("fault", 13.0, fault="stall", times=1, held=30.0),
            does("submit", 0.0, "p1", label="L6", script="ok"),
            does("submit", 1.6, label="L8", script="ok"),
        ),
        settings={"passivation_seconds": 5.0, "backoff_first_seconds": 1.0, "lease_seconds": 10.0},
    ),
    Found(
        3854,
        "a call of another process began a run before what that process had put in was looked at",
        TWO,
        (
            does("start", process="p1"),
            does("start", 6.1),
            does("submit", 0.0, "p1", label="L3", script="step:a,in:wait"),
            does("pause", 3.0, "p1"),
            does("submit", 1.0, "p1", label="L5", script="ok"),
            does("submit", 1.0, "p1", label="L13", script="ok"),
            does("resume", 3.0),
            does("respawn", 0.0, "p1"),
            does("submit", label="L15", script="ok", priority=9),
        ),
        settings={
            "max_running": 2,
            "passivation_seconds": 0.5,
            "unregister_grace_seconds": 0.5,
            "commit_retry_seconds": 5.0,
            "request_age_seconds": 3.0,
            "interrupt_grace_seconds": 2.0,
            "close_drain_seconds": 4.0,
            "run_time_limit_seconds": 20.0,
        },
    ),
    Found(
        6304,
        "progress whose turn was undone, and whose starter then expired, was run alone",
        TWO,
        (
            does("start"),
            does("start", process="p1"),
            replace(does("resume", 0.02, session="s2"), after_steps=21),
            does("submit", 0.0, "p1", "s2", label="L2", script="ok"),
            does("submit", 0.0, "p1", label="L3", script="cp"),
            does("submit", 3.02, session="s2", label="L4", kind="progress", script="ok"),
            does("submit", 0.1, session="s1", label="L7", script="ok"),
            does("respawn", 0.1, session="s2"),
            does("submit", 0.02, "p1", "s2", label="L11", script="ok", expires=0.05),
        ),
        settings={
            "max_running": 100,
            "max_crashes": 2,
            "poll_seconds": 0.2,
            "commit_retry_seconds": 5.0,
            "passivation_seconds": 5.0,
            "lease_seconds": 10.0,
            "backoff_first_seconds": 1.0,
        },
    ),
    Found(
        9492,
        "a crash was forgotten with the dead worker, by one that may not take its session over",
        ("p0", "p1", "p2"),
        (
            does("start", process="p1"),
            does("start", process="p2"),
            does("submit", 0.2, "p1", "s1", label="L4", script="late"),
            does("submit", 6.6, "p2", "s1", label="L7", script="in:unregister"),
            does("crash", 2.0, "p2"),
        ),
        settings={"poll_seconds": 0.2, "max_crashes": 2, "passivation_seconds": 0.5}
        | {"backoff_first_seconds": 1.0, "lease_seconds": 10.0},
    ),
)
