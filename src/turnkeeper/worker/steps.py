"""Durable steps of one run: begun before they are called, recorded when they have ended.

Decides what a step that an earlier run began means for this one.
"""

import asyncio
import hashlib
import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import msgspec

from turnkeeper import config
from turnkeeper.core import steps as shown
from turnkeeper.core import values
from turnkeeper.core.ids import is_unicode
from turnkeeper.core.records import DIGEST_BYTES, StepRecord
from turnkeeper.errors import OutcomeUnknown, ResultNotKept, StepMismatch, ValidationFailed
from turnkeeper.turn import NOT_DONE

if TYPE_CHECKING:
    from turnkeeper.worker.run import Run

MAX_STEPS = 1_000
"""Durable steps that one turn may have."""


class StepBook:
    """What is known of a turn's steps, read when the first one is asked for."""

    def __init__(self, run: "Run") -> None:
        self._run = run
        self._known: dict[str, StepRecord] | None = {} if run.start.first_attempt else None
        self._under_way: dict[str, asyncio.Lock] = {}
        self._beginning = 0
        """New ones whose beginning is being recorded."""
        self._unknown: StepRecord | None = None
        """A step that this run could not take, since its outcome is unknown."""

    def unknown(self) -> list[StepRecord]:
        """All steps that an operator has to settle, if the run has met one of them. [DEAD-6]"""
        met, left = self._unknown, self.unsettled()
        if met is None:
            return []
        return left if met in left else [met, *left]

    def unsettled(self) -> list[StepRecord]:
        """All steps that began and have no result, and that no later run can settle."""
        known = (self._known or {}).values()
        return [step for step in known if shown.is_unknown(step) and not step.settles]

    async def once(
        self,
        key: str,
        fn: Callable[..., Any],
        args: tuple[Any, ...],
        *,
        idempotent: bool,
        reconcile: Callable[..., Any] | None,
        shown_as: str | None = None,
    ) -> Any:
        """The step's result: recorded, reconciled, or of the call that is made now. [STEP-1..6]"""
        arguments = _arguments_digest(key, args)
        words = _words(fn, args, shown_as)
        # Who asks for a step that this run is calling just now waits for its result.
        async with self._under_way.setdefault(key, asyncio.Lock()):
            return await self._once(
                key, arguments, words, fn, args, idempotent=idempotent, reconcile=reconcile
            )

    async def _once(
        self,
        key: str,
        arguments: bytes,
        words: str,
        fn: Callable[..., Any],
        args: tuple[Any, ...],
        *,
        idempotent: bool,
        reconcile: Callable[..., Any] | None,
    ) -> Any:
        known = await self._load()
        record = known.get(key)
        if record is None or not record.arguments:
            if record is None and len(known) + self._beginning >= MAX_STEPS:
                raise ValidationFailed(f"a turn has at most {MAX_STEPS} steps")
            settles = idempotent or reconcile is not None
            await self._begin(key, shown.packed(arguments, words), settles=settles)
        elif record.arguments[:DIGEST_BYTES] != arguments:
            raise StepMismatch(self._run.actor.session_id, key)
        elif record.done:
            return self._told(key, decode_result(await self._result(record)))
        else:
            value = await self._settle(record, args, idempotent=idempotent, reconcile=reconcile)
            if value is not NOT_DONE:
                return await self._finish(key, arguments, value)
        return await self._finish(key, arguments, await _call(fn, args))

    async def _settle(
        self,
        record: StepRecord,
        args: tuple[Any, ...],
        *,
        idempotent: bool,
        reconcile: Callable[..., Any] | None,
    ) -> Any:
        """What an earlier run's unfinished step came to, as far as anyone can say. [STEP-4]"""
        if reconcile is not None:
            return await _call(reconcile, args)
        if idempotent:
            return NOT_DONE
        self._unknown = record
        raise OutcomeUnknown(self._run.actor.session_id, record.key, shown.in_words(record))

    async def _result(self, record: StepRecord) -> bytes | None:
        if not record.apart:
            return record.result
        actor = self._run.actor
        stored = await actor.services.store.load_step_result(
            actor.session_id, record.turn_id, record.key
        )
        self._run.require_alive()
        return stored

    async def _load(self) -> dict[str, StepRecord]:
        if self._known is None:
            actor = self._run.actor
            steps = await actor.services.store.load_steps(actor.session_id, self._run.start.turn_id)
            self._run.require_alive()
            self._known = {step.key: step for step in steps}
        return self._known

    async def _begin(self, key: str, arguments: bytes, *, settles: bool) -> None:
        record = StepRecord(
            turn_id=self._run.start.turn_id, key=key, arguments=arguments, settles=settles
        )
        self._beginning += 1
        try:
            await self._record(record)
        finally:
            self._beginning -= 1

    async def _finish(self, key: str, arguments: bytes, value: Any) -> Any:
        result = values.pack(value)
        if len(result) > config.RESULT_MAX_BYTES:
            # It was done, and is not done again: that it was is recorded all the same.
            result = values.not_kept(len(result), config.RESULT_MAX_BYTES)
        await self._record(
            StepRecord(
                turn_id=self._run.start.turn_id,
                key=key,
                arguments=arguments,
                done=True,
                result=result,
            )
        )
        return self._told(key, decode_result(result))

    def _told(self, key: str, result: Any) -> Any:
        """Return a recorded result. Raises `ResultNotKept` for one that was too long. [STEP-8]"""
        if type(result) is values.NotKept:
            raise ResultNotKept(self._run.actor.session_id, key, result.size, result.limit)
        return result

    async def _record(self, record: StepRecord) -> None:
        self._run.require_alive()
        await self._run.actor.record_step(self._run, record)
        if self._known is not None:
            self._known[record.key] = record.without_long_result()
        self._run.require_alive()


def _arguments_digest(key: str, args: tuple[Any, ...]) -> bytes:
    if not isinstance(key, str) or not 1 <= len(key) <= config.KEY_MAX_CHARACTERS:
        raise ValidationFailed(
            f"a step's key is text of 1 to {config.KEY_MAX_CHARACTERS} characters, not {key!r:.50}"
        )
    if not is_unicode(key):
        raise ValidationFailed(f"a step's key is valid text, not {key!r:.50}")
    try:
        packed = msgspec.msgpack.encode(args)
    except (TypeError, ValueError, OverflowError, RecursionError):
        try:
            packed = values.pack_exact(args)
        except TypeError as error:
            raise TypeError(f"the arguments of step {key!r} cannot be recorded: {error}") from None
    return hashlib.sha256(packed).digest()


def _words(fn: Callable[..., Any], args: tuple[Any, ...], shown_as: str | None) -> str:
    if shown_as is None:
        return shown.call_in_words(str(getattr(fn, "__name__", type(fn).__name__)), args)
    if not isinstance(shown_as, str):
        raise ValidationFailed(f"shown_as is text, not {shown_as!r:.50}")
    return shown.cut(shown_as, shown.CALL_MAX)


def encode_result(value: Any) -> bytes:
    """A step's result as an operator tells it. Raises `ValidationFailed` if it cannot be stored."""
    try:
        result = values.pack_exact(value)
    except TypeError as error:
        raise ValidationFailed(f"a step's result cannot be recorded: {error}") from None
    if len(result) > config.RESULT_MAX_BYTES:
        raise ValidationFailed(
            f"a step's result is {len(result)} bytes; the limit is {config.RESULT_MAX_BYTES}"
        )
    return result


def decode_result(result: bytes | None) -> Any:
    """A step's result as every run gets it, the first one included."""
    return None if result is None else values.unpack(result)


async def _call(fn: Callable[..., Any], args: tuple[Any, ...]) -> Any:
    value = fn(*args)
    return await value if inspect.isawaitable(value) else value
