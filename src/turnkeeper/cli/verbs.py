"""Every verb of the command line: what its help says, and where its function is.

Decides the words and the examples, which a test runs. Nothing is imported to say them.
"""

from typing import NamedTuple


class Verb(NamedTuple):
    """One sub-command."""

    name: str
    group: str
    where: str
    """Module (in this folder) and function."""
    summary: str
    details: str
    examples: tuple[str, ...]


_SERVE, _READ, _CONTROL = "Serve and submit", "Look", "Control"
_LIFE, _UPKEEP = "A session's life", "Upkeep"
GROUPS = (_SERVE, _READ, _CONTROL, _LIFE, _UPKEEP)

VERBS = (
    Verb(
        "work",
        _SERVE,
        "serving:work",
        "Serve sessions with an agent of yours, until you stop it.",
        "It recovers what is unfinished, and runs the turns of every session of the store that no "
        "other worker serves. Ctrl-C or SIGTERM ends it gracefully: no further run starts, and "
        "those in progress get 30 seconds. A second one ends it at once; the next worker "
        "recovers, as after a crash.",
        ("turnkeeper work orders:clerk", "turnkeeper work orders:clerk --store orders.db"),
    ),
    Verb(
        "keys",
        _SERVE,
        "keys:keys",
        "List, make or revoke the keys of a server.",
        "A key is shown once, when it is made; the file has its hash alone. A scope is what it may "
        "do: submit inputs and look after them, read everything, operate on sessions. A running "
        "server sees a change within a second.",
        (
            'turnkeeper keys keys.json --make "billing" --scope submit --scope read',
            "turnkeeper keys keys.json",
        ),
    ),
    Verb(
        "serve",
        _SERVE,
        "serve:serve",
        "Serve an agent of yours over HTTP, until you stop it.",
        "It is a worker as `work` is, with an HTTP API, event streams, an OpenAI-compatible API "
        "and a description of all that at /v1/docs. Without keys it listens to this machine alone. "
        "Ctrl-C or SIGTERM stops it gracefully: streams are told, nothing new is taken, turns in "
        "progress get their drain and are else left for the next owner. A second one stops it at "
        "once.",
        (
            "turnkeeper serve orders:clerk",
            "turnkeeper serve orders:clerk --port 0 --keys keys.json --drain 60",
        ),
    ),
    Verb(
        "chat",
        _SERVE,
        "chat:chat",
        "Talk to a session, and see the answer as it is made.",
        "The agent is the small local model, unless you name one of yours, or a model on a server "
        "that speaks the OpenAI protocol. Ctrl-C interrupts the "
        "turn in progress, and leaves at the prompt; so does Ctrl-D. Lines that are piped in are "
        "a turn each. A session that another worker serves is answered by that one's agent, each "
        "answer at once.",
        (
            "turnkeeper chat ada --agent orders:clerk",
            "turnkeeper chat ada --model openai:qwen3 --base-url http://localhost:8080/v1",
            "echo 'two tickets' | turnkeeper chat ada --agent orders:clerk",
        ),
    ),
    Verb(
        "submit",
        _SERVE,
        "submitting:submit",
        "Hand a prompt to a session; it is on disk when this returns.",
        "An unknown session is made. A key that the session has seen before is accepted once: the "
        "repeat names the first input, also after months. With --wait the text of the result is "
        "printed, and the exit code is 1 if the input ended in another way.",
        (
            'turnkeeper submit ada "two tickets" --key order-1',
            'turnkeeper submit ada "two tickets" --key order-1 --wait',
            'turnkeeper submit ada "three tickets" --json',
        ),
    ),
    Verb(
        "sessions",
        _READ,
        "reading:sessions",
        "List the sessions, in the order of their names.",
        "At most 1,000 at a time: --after goes on where a list has ended.",
        ("turnkeeper sessions", "turnkeeper sessions --after ada --limit 10 --json"),
    ),
    Verb(
        "inputs",
        _READ,
        "reading:inputs",
        "List a session's inputs, the newest ones unless told otherwise.",
        "They come in the order of their admission. With --active only those that have not ended.",
        ("turnkeeper inputs ada", "turnkeeper inputs ada --active", "turnkeeper inputs ada --json"),
    ),
    Verb(
        "input",
        _READ,
        "reading:input_",
        "Show all that is known of one input: its state, its life, its result.",
        "It is named by its id, or by the idempotency key that it was submitted with.",
        ("turnkeeper input ada order-1", "turnkeeper input ada order-1 --json"),
    ),
    Verb(
        "transcript",
        _READ,
        "reading:transcript",
        "Show a session's messages, the newest ones unless told otherwise.",
        "",
        (
            "turnkeeper transcript ada",
            "turnkeeper transcript ada --after 0 --limit 20",
            "turnkeeper transcript ada --json",
        ),
    ),
    Verb(
        "events",
        _READ,
        "reading:events",
        "Show what happened to a session, event by event.",
        "With --follow it goes on with each new event until you stop it. With --json each event "
        "is a line of its own. Events that were pruned are left out, which is said, unless you ask "
        "for them by number.",
        (
            "turnkeeper events ada",
            "turnkeeper events ada --after 5 --json",
            "turnkeeper events ada --follow",
        ),
    ),
    Verb(
        "workers",
        _READ,
        "upkeep:workers",
        "List the workers of the store, and how many sessions each owns.",
        "One that has left, or died, is listed while what it owned waits for another one.",
        ("turnkeeper workers", "turnkeeper workers --json"),
    ),
    Verb(
        "interrupt",
        _CONTROL,
        "control:interrupt",
        "End the turn in progress before its time.",
        "Its inputs are abandoned, or with --requeue put back into the queue; then the queue goes "
        "on. With --run only if it is this run. Where nothing runs, nothing happens.",
        ("turnkeeper interrupt ada", 'turnkeeper interrupt ada --requeue --reason "a new price"'),
    ),
    Verb(
        "cancel",
        _CONTROL,
        "control:cancel",
        "Give up one input: at once if it waits, else by an interrupt.",
        "It is named by its id or its idempotency key. One that has ended stays as it is.",
        ("turnkeeper cancel ada order-1",),
    ),
    Verb(
        "requeue",
        _CONTROL,
        "control:requeue",
        "Try an input again that was given up.",
        "A new input takes its work over, its key and its durable steps; doing it twice gives the "
        "same one. The input's detail names each call of unknown outcome; you say how it ended: "
        "--step with its result as JSON, which the model reads as the tool's answer, or "
        "--not-done, which makes that call once.",
        (
            "turnkeeper requeue ada order-2",
            "turnkeeper requeue ada order-3 --step 'charge=\"receipt-7\"'",
            "turnkeeper requeue ada order-4 --not-done charge",
        ),
    ),
    Verb(
        "approvals",
        _CONTROL,
        "approving:approvals",
        "List what a session's agent has asked a person, and nobody has answered.",
        "The session goes on with other inputs meanwhile. What has expired is listed no more: the "
        "agent is told.",
        ("turnkeeper approvals ada", "turnkeeper approvals ada --json"),
    ),
    Verb(
        "approve",
        _CONTROL,
        "approving:approve",
        "Say yes to what an agent has asked.",
        "It is named by its id, or by the id or key of the input whose turn has asked. The first "
        "answer counts; where that was another one, or came in time no more, the exit code is 1.",
        (
            "turnkeeper approve ada order-5",
            "turnkeeper approve ada order-6 --by eve --value '{\"discount\": 0.1}'",
        ),
    ),
    Verb(
        "deny",
        _CONTROL,
        "approving:deny",
        "Say no to what an agent has asked.",
        "As approve. The agent is told, with the comment.",
        ('turnkeeper deny ada order-7 --comment "not this month"',),
    ),
    Verb(
        "pause",
        _CONTROL,
        "control:pause",
        "Have a session accept inputs and start none.",
        "A turn in progress goes on to its end. It lasts until resume, also over restarts.",
        ("turnkeeper pause ada",),
    ),
    Verb(
        "resume",
        _CONTROL,
        "control:resume",
        "Have a paused session go on with its queue.",
        "",
        ("turnkeeper resume ada",),
    ),
    Verb(
        "respawn",
        _LIFE,
        "life:respawn",
        "Have a new instance of the agent take over what is pending.",
        "A turn in progress is cancelled and queued again, charged to nobody.",
        ("turnkeeper respawn ada",),
    ),
    Verb(
        "retire",
        _LIFE,
        "life:retire",
        "Take no new input, and work off what is queued.",
        "What a --drain-timeout finds undone is abandoned. Where no worker serves the session, its "
        "queue waits for one. Asks first. A reset opens the session again.",
        ("turnkeeper retire ada --yes", "turnkeeper retire ada --drain-timeout 60 --yes"),
    ),
    Verb(
        "reset",
        _LIFE,
        "life:reset",
        "Abandon every input that has not ended, and open the session.",
        "Refused while a turn is in progress, and on a stopped or destroyed session. Asks first.",
        ("turnkeeper reset ada --yes",),
    ),
    Verb(
        "stop",
        _LIFE,
        "life:stop",
        "End all work of a session; a program that registers it opens it again.",
        "A turn in progress is cancelled after a grace, and what has not ended is abandoned. Asks "
        "first.",
        ("turnkeeper stop ada --yes",),
    ),
    Verb(
        "destroy",
        _LIFE,
        "life:destroy",
        "End all work of a session for ever.",
        "As stop, but nothing opens it again. Results, keys and transcript stay readable. Asks "
        "first.",
        ("turnkeeper destroy ada --yes",),
    ),
    Verb(
        "backup",
        _UPKEEP,
        "upkeep:backup",
        "Copy the store to a new file, while work goes on.",
        "The copy is the store as it was at one moment. It replaces no file.",
        ("turnkeeper backup copy.db", "turnkeeper backup another.db --json"),
    ),
    Verb(
        "verify",
        _UPKEEP,
        "verifying:verify",
        "Prove or refute the store: is everything in it as it must be?",
        "It reads all of it as of one moment, while work goes on, and exits with 1 if something "
        "does not hold: which row it is, and what to do. With --repair it makes a backup, carries "
        "out the repairs that lose nothing, and verifies again; no worker may live then.",
        (
            "turnkeeper verify",
            "turnkeeper verify --json",
        ),
    ),
    Verb(
        "prune",
        _UPKEEP,
        "upkeep:prune",
        "Remove old events, and old inputs' bodies that the transcript does not quote.",
        "An age is a number with its unit: 30d, 12h, 90m, 45s. Keys, outcomes, results and "
        "transcripts stay. An abandoned input whose body is gone cannot be requeued. Asks first.",
        ("turnkeeper prune 30d --yes", "turnkeeper prune 12h --yes --json"),
    ),
)

HEAD = (
    "Durable sessions between callers and an AI agent: an inbox, one turn at a time, every "
    "outcome kept."
)
EXAMPLES = (
    'turnkeeper submit ada "two tickets" --key order-1',
    "turnkeeper sessions",
    "turnkeeper events ada --follow",
)
FOOT = """\
The store is a path or sqlite:///PATH. Without --store it is that of the
variable TURNKEEPER_STORE, else a file in your data folder. With --server the
verbs ask a server instead; its key is that of the variable TURNKEEPER_KEY.

Exit codes: 0 done, 1 refuted or failed, 2 usage, 3 not found or not ready,
4 overloaded, 5 store or server. `turnkeeper VERB --help` has more examples."""


def epilogue(examples: tuple[str, ...], foot: str = "") -> str:
    """The end of a help: examples, one on each line."""
    lines = ["Examples:", *(f"  $ {example}" for example in examples)]
    return "\n".join([*lines, "", foot] if foot else lines)
