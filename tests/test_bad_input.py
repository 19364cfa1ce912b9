"""Careless callers and broken files: a clear error each, and nothing lost."""

import asyncio
import os
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
from patience import PATIENCE_SECONDS
from world import codes_of, outcome, prompt, running, soon

from turnkeeper import (
    CommitFailed,
    Completed,
    Config,
    ExternalEventInput,
    FlowStepInput,
    PeerInput,
    PeerRequest,
    Profile,
    PromptInput,
    Rejected,
    RunResult,
    Runtime,
    SchemaMismatch,
    SqliteStore,
    StoreError,
    ToolCallbackInput,
    TurnkeeperError,
    ValidationFailed,
)
from turnkeeper.core.inputs import input_decoder
from turnkeeper.store import Store
from turnkeeper.testing import FakeExecutor, ManualEnvironment

HALF_PAIR = "half a pair: \ud800"
BAD_SESSION_IDS: list[Any] = ["", "x" * 201, "a\nb", "a\x00b", HALF_PAIR, None, 7, b"ada", ["ada"]]
BAD_TEXTS: list[Any] = ["", "x" * 1_000_001, HALF_PAIR, None, 7, b"text", ["text"]]
BAD_KEYS: list[Any] = ["", "x" * 201, HALF_PAIR, 7, b"key", ["key"]]


async def nothing_is_there(runtime: Runtime, session_id: str = "ada") -> None:
    """No input, no event but those of admitted inputs, and the session works."""
    assert await runtime.inputs(session_id) == []
    assert "input.accepted" not in await codes_of(runtime, session_id)
    await runtime.attach(session_id, FakeExecutor())
    handle = await runtime.session(session_id).submit("still there?")
    assert await outcome(handle) == Completed(RunResult("re: still there?"))


# -- session ids ----------------------------------------------------------------------------------


@pytest.mark.parametrize("session_id", BAD_SESSION_IDS, ids=lambda value: f"{value!r:.20}")
async def test_an_illegal_session_id(
    store: Store, environment: ManualEnvironment, session_id: Any
) -> None:
    """Every verb refuses it, with the rule that it breaks, and touches nothing. [ID-1] [API-9]"""
    async with running(store, environment) as runtime:
        calls: list[Callable[[], Any]] = [
            lambda: runtime.register_session(session_id),
            lambda: runtime.ensure_session_with_executor(session_id, FakeExecutor()),
            lambda: runtime.attach(session_id, FakeExecutor()),
            lambda: runtime.detach(session_id),
            lambda: runtime.unregister_session(session_id),
            lambda: runtime.contains_session(session_id),
            lambda: runtime.accept_input(session_id, prompt(environment)),
            lambda: runtime.accept_input_with_completion(session_id, prompt(environment)),
            lambda: runtime.submit(session_id, "hello"),
            lambda: runtime.cancel_input(session_id, "x"),
            lambda: runtime.requeue_input(session_id, "x"),
            lambda: runtime.runtime_state(session_id),
            lambda: runtime.session_state(session_id),
            lambda: runtime.input_state(session_id, "x"),
            lambda: runtime.list_active_inputs(session_id),
            lambda: runtime.inputs(session_id),
            lambda: runtime.result(session_id, "x"),
            lambda: runtime.receipt(session_id, "x"),
            lambda: runtime.transcript(session_id),
            lambda: runtime.handle(session_id, "x"),
            lambda: runtime.interrupt_current_run(session_id),
            lambda: runtime.retire_runtime(session_id),
            lambda: runtime.reset_runtime(session_id),
            lambda: runtime.stop_runtime(session_id),
            lambda: runtime.destroy_runtime(session_id),
            lambda: runtime.respawn_runtime(session_id),
            lambda: runtime.pause_runtime(session_id),
            lambda: runtime.recover_runtime(session_id),
        ]
        for call in calls:
            with pytest.raises(ValidationFailed, match="session id"):
                await soon(call())
        for make in (runtime.session, runtime.events, runtime.live):
            with pytest.raises(ValidationFailed, match="session id"):
                make(session_id)
        assert await runtime.sessions() == []


# -- texts, keys and other fields -----------------------------------------------------------------


@pytest.mark.parametrize("text", BAD_TEXTS, ids=lambda value: f"{value!r:.20}")
async def test_an_illegal_text(store: Store, environment: ManualEnvironment, text: Any) -> None:
    """Of a prompt, a body, instructions: refused with the reason. [ADM-3] [LIM-1]"""
    async with running(store, environment) as runtime:
        await runtime.register_session("ada")
        for item in (
            PromptInput(text, id=environment.new_id()),
            PeerInput(text, id=environment.new_id()),
            FlowStepInput("step", text, id=environment.new_id()),
        ):
            refused = await soon(runtime.accept_input("ada", item))
            assert isinstance(refused, Rejected)
            assert refused.reason
            with pytest.raises(ValidationFailed):
                await soon(runtime.submit("ada", item))
        with pytest.raises(ValidationFailed):
            await soon(runtime.submit("ada", text))
        await nothing_is_there(runtime)


@pytest.mark.parametrize("key", BAD_KEYS, ids=lambda value: f"{value!r:.20}")
async def test_an_illegal_key(store: Store, environment: ManualEnvironment, key: Any) -> None:
    """Idempotency and supersession keys, correlation, causation alike. [ADM-3] [LIM-3]"""
    async with running(store, environment) as runtime:
        await runtime.register_session("ada")
        with pytest.raises(ValidationFailed):
            await soon(runtime.submit("ada", "hello", key=key))
        for name in ("idempotency_key", "supersession_key", "correlation_id", "causation_id"):
            item = prompt(environment, **{name: key})
            assert isinstance(await soon(runtime.accept_input("ada", item)), Rejected), name
        await nothing_is_there(runtime)


@pytest.mark.parametrize("input_id", ["", "x", "0" * 36, HALF_PAIR, 7, None, ["x"], b"x"])
async def test_an_illegal_input_id(
    store: Store, environment: ManualEnvironment, input_id: Any
) -> None:
    """Refused as an id of a new input; unknown wherever one is named. [ID-2] [COMP-8]"""
    async with running(store, environment) as runtime:
        await runtime.register_session("ada")
        item = PromptInput("hello", id=input_id)
        assert isinstance(await soon(runtime.accept_input("ada", item)), Rejected)
        for verb in (
            runtime.handle,
            runtime.result,
            runtime.cancel_input,
            runtime.requeue_input,
        ):
            with pytest.raises(ValidationFailed):
                await soon(verb("ada", input_id))
        await nothing_is_there(runtime)


HEADERS: dict[str, list[Any]] = {
    "priority": [-1, 10, "high", 1.5, None],
    "not_before": ["tomorrow", 12, datetime(2025, 1, 1)],  # noqa: DTZ001 - that is the mistake
    "expires_at": ["tomorrow", datetime(2025, 1, 1)],  # noqa: DTZ001 - that is the mistake
    "when_busy": ["sometimes", 7],
    "durability": ["derived", "forever", 7],
    "visibility": [True, "all"],
    "source": ["me", {"origin": "operator"}],
    "trace_context": ["00-x", 7],
    "timestamp": ["now", None, datetime(2025, 1, 1)],  # noqa: DTZ001 - that is the mistake
    "turn_metadata": [[1], "text", {1: 2}, {"x": object()}, {"deep": None}],
}


@pytest.mark.parametrize(
    ("name", "value"),
    [(name, value) for name, values in HEADERS.items() for value in values],
    ids=lambda value: f"{value!r:.20}",
)
async def test_an_illegal_header_field(
    store: Store, environment: ManualEnvironment, name: str, value: Any
) -> None:
    """A wrong type or a value outside its limits: refused, recorded nowhere. [ADM-3] [INP-1]"""
    if value == {"deep": None}:
        for _ in range(70):
            value = {"deep": value}
    async with running(store, environment) as runtime:
        await runtime.register_session("ada")
        item = prompt(environment, **{name: value})
        assert isinstance(await soon(runtime.accept_input("ada", item)), Rejected)
        with pytest.raises(ValidationFailed):
            await soon(runtime.submit("ada", "hello", **{name: value}))
        await nothing_is_there(runtime)


PAYLOADS: list[Any] = [
    object(),
    {"x": float("nan")},
    {1: 2},
    "x" * 1_000_001,
    {"x": HALF_PAIR},
    {1},
]


@pytest.mark.parametrize("payload", PAYLOADS, ids=lambda value: f"{value!r:.20}")
async def test_an_illegal_payload(
    store: Store, environment: ManualEnvironment, payload: Any
) -> None:
    """No JSON, or too much of it; a bad one harms no good one beside it. [LIM-2] [ADM-16]"""
    async with running(store, environment) as runtime:
        await runtime.register_session("ada")
        bad = [
            ExternalEventInput("paid", payload, id=environment.new_id()),
            ToolCallbackInput("approved", payload, id=environment.new_id()),
        ]
        good = prompt(environment, idempotency_key="k")
        outcomes = await soon(
            asyncio.gather(*[runtime.accept_input("ada", item) for item in (bad[0], good, bad[1])])
        )
        assert [one.is_rejected for one in outcomes] == [True, False, True]
        repeat = ExternalEventInput("paid", payload, id=environment.new_id(), idempotency_key="k")
        again = await soon(runtime.accept_input("ada", repeat))
        assert again.is_deduplicated
        assert not again.payload_matches  # type: ignore[union-attr]
        assert len(await runtime.inputs("ada")) == 1


async def test_names_have_limits(store: Store, environment: ManualEnvironment) -> None:
    """Event types, step ids, request ids: 1 to 200 characters. [LIM-3]"""
    async with running(store, environment) as runtime:
        await runtime.register_session("ada")
        for name in ("", "x" * 201, HALF_PAIR):
            for item in (
                ExternalEventInput(name, {}, id=environment.new_id()),
                FlowStepInput(name, "do it", id=environment.new_id()),
                PeerInput("b", PeerRequest(name, "intent"), id=environment.new_id()),
                PeerInput("b", PeerRequest("r", name), id=environment.new_id()),
            ):
                assert isinstance(await soon(runtime.accept_input("ada", item)), Rejected)
        await nothing_is_there(runtime)


@pytest.mark.parametrize("item", ["text", None, 7, {"text": "hello"}, object(), PromptInput])
async def test_what_is_no_input(store: Store, environment: ManualEnvironment, item: Any) -> None:
    """Refused at the door, and the inputs beside it get in. [API-9] [ADM-16]"""
    async with running(store, environment) as runtime:
        await runtime.register_session("ada")
        calls = [
            lambda: runtime.accept_input("ada", item),
            lambda: runtime.accept_input_with_completion("ada", item),
            lambda: runtime.accept_input_and_run("ada", item, _never),
        ]
        if not isinstance(item, str):
            calls.append(lambda: runtime.submit("ada", item))
        for call in calls:
            good = asyncio.ensure_future(runtime.accept_input("ada", prompt(environment)))
            with pytest.raises(ValidationFailed):
                await soon(call())
            accepted = await soon(good)
            assert accepted.is_accepted
            await runtime.reset_runtime("ada")


async def _never(_run_id: str, _primitive: Any) -> Any:
    raise AssertionError("nobody may call this")


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ('{"input_type":"riddle","text":"x"}', "riddle"),
        ('{"text":"x"}', "input_type"),
        ('{"input_type":"prompt","text":"x","colour":"red"}', "colour"),
        ('{"input_type":"prompt"}', "text"),
        ('{"input_type":"prompt","text":7}', "text"),
        ('{"input_type":"peer","body":"b","convention":{"convention":"wink"}}', "wink"),
        ('{"input_type":"prompt","text":"x","priority":"high"}', "priority"),
        ("no json", "malformed"),
    ],
)
def test_unknown_kinds_and_fields_on_the_wire(text: str, what: str) -> None:
    """What the wire does not know is refused with its name. [INP-1]"""
    with pytest.raises(msgspec.MsgspecError, match=what):
        input_decoder().decode(text)


async def test_an_unknown_header_field(store: Store, environment: ManualEnvironment) -> None:
    """A keyword that no prompt has, or a key beside an input that has its own. [API-9]"""
    async with running(store, environment) as runtime:
        await runtime.register_session("ada")
        for header in ({"colour": "red"}, {"text": "twice"}, {"own_fields": ()}):
            with pytest.raises(ValidationFailed):
                await soon(runtime.submit("ada", "hello", **header))
        with pytest.raises(ValidationFailed):
            await soon(runtime.submit("ada", prompt(environment), key="k"))
        with pytest.raises(ValidationFailed):
            await soon(runtime.submit("ada", prompt(environment), priority=3))
        await nothing_is_there(runtime)


async def test_a_prompt_may_bring_its_own_id_and_time(
    store: Store, environment: ManualEnvironment
) -> None:
    """`id` and `timestamp` are header fields like the others. [API-10] [INP-3]"""
    async with running(store, environment) as runtime:
        own = environment.new_id()
        at = datetime.fromisoformat("2025-01-01T00:00:00+00:00") - timedelta(days=1)
        handle = await soon(runtime.submit("ada", "hello", id=own, timestamp=at))
        assert handle.input_id == own
        state = await runtime.input_state("ada", own)
        assert state is not None
        assert state.input is not None
        assert state.input.timestamp == at


# -- other arguments ------------------------------------------------------------------------------


async def test_arguments_of_a_wrong_type(store: Store, environment: ManualEnvironment) -> None:
    """Pages, reasons, times, steps: refused, and nothing is touched. [API-9]"""
    async with running(store, environment) as runtime:
        await runtime.register_session("ada")
        ada = runtime.session("ada")
        calls: list[Callable[[], Any]] = [
            lambda: ada.inputs(limit="10"),  # type: ignore[arg-type]
            lambda: ada.inputs(limit=None),  # type: ignore[arg-type]
            lambda: ada.inputs(after="x"),  # type: ignore[arg-type]
            lambda: ada.transcript(after="x"),  # type: ignore[arg-type]
            lambda: ada.transcript(after=2**63),
            lambda: ada.inputs(after=-(2**63) - 1),
            lambda: anext(ada.events(2**63)),
            lambda: ada.transcript(limit=1.5),  # type: ignore[arg-type]
            lambda: runtime.sessions(after=7),  # type: ignore[arg-type]
            lambda: ada.retire(drain_timeout="soon"),  # type: ignore[arg-type]
            lambda: ada.retire(drain_timeout=-1.0),
            lambda: ada.retire(drain_timeout=float("nan")),
            lambda: ada.interrupt(7),  # type: ignore[arg-type]
            lambda: ada.interrupt(HALF_PAIR),
            lambda: ada.interrupt(run_id=7),  # type: ignore[arg-type]
            lambda: ada.input(7),  # type: ignore[arg-type]
            lambda: ada.input(["k"]),  # type: ignore[arg-type]
            lambda: ada.receipt(7),  # type: ignore[arg-type]
            lambda: runtime.close(drain_seconds=-1.0),
            lambda: runtime.close(drain_seconds="long"),  # type: ignore[arg-type]
        ]
        for call in calls:
            with pytest.raises(ValidationFailed):
                await soon(call())
        assert await ada.state() == "idle"
        await nothing_is_there(runtime)


@pytest.mark.parametrize(
    "settings",
    [
        {"config": {"max_running": 3}},
        {"config": 7},
        {"profile": {"kinds": {}}},
        {"environment": 7},
        {"agent": "gpt"},
    ],
    ids=lambda value: f"{value!r:.30}",
)
def test_settings_of_a_wrong_type(settings: dict[str, Any]) -> None:
    """A Runtime is not built of what it cannot use. [API-9]"""
    with pytest.raises(ValidationFailed):
        Runtime.ephemeral(**settings)
    assert Runtime.ephemeral(config=Config(), profile=Profile()) is not None


@pytest.mark.parametrize("store", [None, 7, object(), b"turns.db", ["turns.db"]])
def test_what_is_no_store(store: Any) -> None:
    """Neither a store, nor a path, nor a URL. [API-2] [API-9]"""
    with pytest.raises(ValidationFailed, match="store"):
        Runtime(store)


# -- files ----------------------------------------------------------------------------------------


async def used(path: Path) -> str:
    """A store with one finished turn; the input's id."""
    async with Runtime(path, agent=lambda _: FakeExecutor()) as runtime:
        handle = await runtime.session("ada").submit("hello", key="k")
        await soon(handle.wait())
        return handle.input_id


async def refused(path: Path) -> StoreError:
    """The error with which a Runtime refuses a file, which stays as it is."""
    before = content_of(path)
    with pytest.raises(StoreError, match=path.name) as raised:
        await Runtime(path).__aenter__()
    assert content_of(path) == before
    return raised.value


def content_of(path: Path) -> bytes | None:
    return path.read_bytes() if path.is_file() else None


async def test_a_file_that_is_no_database(tmp_path: Path) -> None:
    """Text, noise, or half a header: refused, unchanged, and the error says which. [STO-9]"""
    for name, content in (
        ("text.db", b"dear diary, " * 100),
        ("noise.db", os.urandom(8_192)),
        ("half.db", b"SQLite format 3\x00" + b"\xff" * 50),
    ):
        path = tmp_path / name
        path.write_bytes(content)
        assert str(await refused(path))


async def test_a_directory_is_no_store(tmp_path: Path) -> None:
    """Nor is a file in a folder that does not exist. [STO-9]"""
    assert str(await refused(tmp_path))
    with pytest.raises(StoreError, match="missing"):
        async with Runtime(tmp_path / "missing" / "turns.db"):
            raise AssertionError("it was opened")


async def test_a_foreign_or_newer_database(tmp_path: Path) -> None:
    """Another program's file, and that of a later version: `SchemaMismatch`. [STO-9] [STO-12]"""
    foreign = tmp_path / "foreign.db"
    with sqlite3.connect(foreign) as connection:
        connection.execute("CREATE TABLE recipes (name)")
    connection.close()
    assert isinstance(await refused(foreign), SchemaMismatch)
    newer = tmp_path / "newer.db"
    input_id = await used(newer)
    with sqlite3.connect(newer) as connection:
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        connection.execute(f"PRAGMA user_version = {version + 1}")
    connection.close()
    assert isinstance(await refused(newer), SchemaMismatch)
    with sqlite3.connect(newer) as connection:
        connection.execute(f"PRAGMA user_version = {version}")
    connection.close()
    async with Runtime(newer) as runtime:
        assert await runtime.result("ada", input_id) == RunResult("re: hello")


async def test_a_runtime_that_could_not_open_may_be_entered_later(tmp_path: Path) -> None:
    """A refused store leaves nothing behind: once the file is right, it opens. [STO-9]"""
    path = tmp_path / "turns.db"
    path.write_bytes(b"dear diary, " * 100)
    runtime = Runtime(path)
    for _ in range(2):
        with pytest.raises(StoreError):
            await runtime.__aenter__()
    path.unlink()
    async with runtime:
        assert await runtime.sessions() == []


READ_ONLY = """
import asyncio, os, sys, tempfile
from turnkeeper import Runtime, StoreError

async def main():
    with tempfile.TemporaryDirectory() as name:
        async with Runtime(f"{name}/warm.db"):
            pass  # everything that is imported late is there now
    if os.geteuid() == 0:  # root may write any file
        os.setgid(65_534)
        os.setuid(65_534)
    try:
        async with Runtime(sys.argv[1]) as runtime:
            await runtime.session("ada").submit("more")
    except StoreError as error:
        print("refused:", error)

asyncio.run(main())
"""


def test_a_read_only_file() -> None:
    """Refused with an error that says so; what it holds is still there. [STO-9]"""
    with tempfile.TemporaryDirectory() as name:  # pytest's own folder is closed to others
        folder = Path(name)
        path = folder / "turns.db"
        input_id = asyncio.run(used(path))
        path.chmod(0o444)
        folder.chmod(0o555)
        try:
            run = subprocess.run(
                [sys.executable, "-c", READ_ONLY, str(path)],
                capture_output=True,
                text=True,
                timeout=PATIENCE_SECONDS,
                check=False,
            )
        finally:
            folder.chmod(0o755)
            path.chmod(0o644)
        assert run.stdout.startswith("refused:"), run.stdout + run.stderr
        assert str(path) in run.stdout
        assert "read" in run.stdout
        assert asyncio.run(result_in(path, input_id)) == RunResult("re: hello")


async def result_in(path: Path, input_id: str) -> RunResult | None:
    async with Runtime(path) as runtime:
        return await runtime.result("ada", input_id)


async def test_a_full_disk(tmp_path: Path, environment: ManualEnvironment) -> None:
    """An error to whoever was to write; what was acknowledged stays; room heals it. [STO-10]"""
    store = SqliteStore(tmp_path / "turns.db")
    async with running(store, environment) as runtime:
        ada = runtime.session("ada")
        first = await ada.submit("first", key="first")
        opened = store._open
        assert opened is not None
        connection = opened.engine.database.connection
        (pages,) = connection.execute("PRAGMA page_count").fetchone()
        connection.execute(f"PRAGMA max_page_count = {pages + 1}").fetchall()
        with pytest.raises(CommitFailed, match="full"):
            await soon(asyncio.gather(*[ada.submit("x" * 100_000) for _ in range(3)]))
        assert await ada.input("first") is not None
        acknowledged = [state.input_id for state in await ada.inputs()]
        assert first.input_id in acknowledged
        connection.execute("PRAGMA max_page_count = 1000000").fetchall()
        last = await ada.submit("x" * 100_000, key="last")
        await ada.attach(FakeExecutor())
        assert isinstance(await outcome(last), Completed)
        assert isinstance(await outcome(first), Completed)


FULL_DISK = """
import asyncio, resource, signal, sys
from turnkeeper import Runtime, TurnkeeperError

async def main():
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    acknowledged = []
    try:
        async with Runtime(sys.argv[1]) as runtime:
            ada = runtime.session("ada")
            await ada.submit("first", key="first")
            resource.setrlimit(resource.RLIMIT_FSIZE, (800_000, resource.RLIM_INFINITY))
            try:
                for number in range(20):
                    handle = await ada.submit("x" * 50_000, key=f"{number}")
                    acknowledged.append(handle.input_id)
            except TurnkeeperError as error:
                print("refused:", error)
            resource.setrlimit(
                resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
            )
    finally:
        print("acknowledged:", *acknowledged)

asyncio.run(main())
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no limits of a file's size there")
def test_a_file_that_may_not_grow(tmp_path: Path) -> None:
    """The system refuses the write in the middle: acknowledged inputs are all there. [STO-10]"""
    path = tmp_path / "turns.db"
    run = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(path)],
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )
    assert "refused:" in run.stdout, run.stdout + run.stderr
    told = run.stdout.rpartition("acknowledged:")[2].split()
    assert told
    stored = asyncio.run(inputs_in(path))
    assert set(told) <= stored
    assert len(stored) <= len(told) + 2  # "first", and at most the one nobody was told of


async def inputs_in(path: Path) -> set[str]:
    async with Runtime(path) as runtime:
        return {state.input_id for state in await runtime.inputs("ada")}


async def test_a_damaged_page_is_told(tmp_path: Path) -> None:
    """A file damaged in the middle is an error, never an empty session. [STO-9] [ADM-10]"""
    path = tmp_path / "turns.db"
    await used(path)
    content = bytearray(path.read_bytes())
    content[4_096:] = b"\xa5" * (len(content) - 4_096)
    path.write_bytes(bytes(content))
    with pytest.raises(TurnkeeperError, match="damaged"):
        await known_key(path)


async def known_key(path: Path) -> None:
    async with Runtime(path) as runtime:
        await soon(runtime.submit("ada", "hello", key="k"))
