"""What callers ask of a Runtime, verb by verb, and what they are told.

Decides how an action becomes a call. What a call came to is written down by the world.
"""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from turnkeeper.core.inputs import (
    ExternalEventInput,
    FlowStepInput,
    Input,
    PeerInput,
    PeerRequest,
    ProgressPhase,
    ProjectedInput,
    PromptInput,
    ResponseProgress,
    ResponseTerminal,
    SystemGeneratedInput,
    TerminalStatus,
    ToolCallbackInput,
    Visibility,
)
from turnkeeper.core.runs import ApplyOutput, Message, RunResult
from turnkeeper.environment import from_ms
from turnkeeper.errors import EventsPruned
from turnkeeper.testing.simulation.actions import Action
from turnkeeper.testing.simulation.processes import Process
from turnkeeper.turn import NOT_DONE

if TYPE_CHECKING:
    from turnkeeper.runtime import Runtime
    from turnkeeper.testing.simulation.world import World

Told = dict[str, Any]


def made_input(process: Process, action: Action) -> Input:
    """The input that a submission's facts describe."""
    facts = action.facts
    now = from_ms(process.clock.now_ms())
    text = str(facts.get("text", f"{facts['label']}|{facts.get('script')}"))
    header: dict[str, Any] = {"id": process.environment.new_id(), "timestamp": now}
    renamed = {"key": "idempotency_key", "supersedes": "supersession_key"}
    for name in ("key", "supersedes", "priority", "durability", "when_busy"):
        if name in facts:
            header[renamed.get(name, name)] = facts[name]
    if "hidden" in facts:
        header["visibility"] = Visibility(transcript_eligible=False)
    if "not_before" in facts:
        header["not_before"] = now + timedelta(seconds=float(facts["not_before"] or 0))
    if "expires" in facts:
        header["expires_at"] = now + timedelta(seconds=float(facts["expires"] or 0))
    return _KINDS[str(facts.get("kind", "prompt"))](text, header)


_KINDS: dict[str, Callable[[str, dict[str, Any]], Input]] = {
    "prompt": lambda text, header: PromptInput(text, **header),
    "peer_message": lambda text, header: PeerInput(text, **header),
    "peer_request": lambda text, header: PeerInput(text, PeerRequest("r", "ask"), **header),
    "progress": lambda text, header: PeerInput(
        text, ResponseProgress("r", ProgressPhase.IN_PROGRESS), **header
    ),
    "terminal": lambda text, header: PeerInput(
        text, ResponseTerminal("r", TerminalStatus.COMPLETED), **header
    ),
    "callback": lambda text, header: ToolCallbackInput("tool", text, **header),
    "flow_step": lambda text, header: FlowStepInput("step", text, **header),
    "event": lambda text, header: ExternalEventInput("event", text, **header),
    "notice": lambda text, header: SystemGeneratedInput("generator", text, **header),
    "projected": lambda text, header: ProjectedInput("rule", "event", text, **header),
}


class Callers:
    """One caller in a process."""

    def __init__(self, world: "World", process: Process, call: int) -> None:
        self._world = world
        self._process = process
        self._call = call
        assert process.runtime is not None
        self._runtime: Runtime = process.runtime
        self.offered: str | None = None
        """The input that this call has handed in."""

    async def do(self, action: Action) -> Told:
        """Make the call that `action` stands for; what it came to."""
        patience = action.facts.get("patience")
        call = getattr(self, action.verb)(action)
        if patience is not None:
            return await asyncio.wait_for(call, float(patience))
        return await call  # type: ignore[no-any-return]

    # -- inputs ------------------------------------------------------------------------------------

    async def submit(self, action: Action) -> Told:
        item = made_input(self._process, action)
        self.offered = item.id
        completion = await self._runtime.submit(action.session, item)
        for _ in range(int(action.facts.get("waiters") or 1)):
            self._world.wait(self._process, completion)
        return {"input": completion.input_id, "own": item.id}

    async def again(self, action: Action) -> Told:
        """The same submission once more, as a retried webhook would."""
        first = self._world.submission(action.facts["label"])
        if first is None or "key" not in first.facts:
            return {"skipped": True}
        facts = dict(first.facts)
        if not action.facts["same"]:
            facts["text" if "text" in facts else "script"] = "ok,ok"
        item = made_input(self._process, Action(verb="submit", session=first.session, facts=facts))
        self.offered = item.id
        outcome, completion = await self._runtime.accept_input_with_completion(first.session, item)
        if completion is not None:
            self._world.wait(self._process, completion)
        if outcome.is_deduplicated:
            return {
                "duplicate_of": outcome.existing_id,  # type: ignore[union-attr]
                "matches": outcome.payload_matches,  # type: ignore[union-attr]
                "same": facts == first.facts,
            }
        return {"input": item.id, "own": item.id}

    async def one_turn(self, action: Action) -> Told:
        """A caller's own function as the turn."""
        item = made_input(self._process, action)
        label = action.facts["label"]
        self.offered = item.id

        async def operation(run_id: str, primitive: Any) -> tuple[Any, ApplyOutput]:
            number = self._world.attempt(str(label))
            self._world.note(
                "run_begun",
                process=self._process.id,
                session=action.session,
                run=run_id,
                label=label,
                attempt=number,
                epoch=None,
                inputs=list(primitive.contributing_input_ids),
                continuation=primitive.continuation,
                appends=[message.content for message in primitive.appends],
                notices=[message.content for message in primitive.context_appends],
            )
            said = f"{label}/a{number}/1"
            ended = {"process": self._process.id, "session": action.session, "run": run_id}
            try:
                await asyncio.sleep(0.3)
            except asyncio.CancelledError:
                self._world.note("run_cancelled", **ended)
                raise
            self._world.note("returning", said=said, result=said, **ended)
            self._world.note("run_returned", **ended)
            output = ApplyOutput(appends=(Message("assistant", said),), run_result=RunResult(said))
            return said, output

        value = await self._runtime.accept_input_and_run(action.session, item, operation)
        return {"input": item.id, "own": item.id, "value": value}

    async def handle(self, action: Action) -> Told:
        input_id = self._input(action)
        if input_id is None:
            return {"skipped": True}
        completion = await self._runtime.handle(action.session, input_id)
        self._world.wait(self._process, completion)
        return {"input": completion.input_id}

    async def cancel(self, action: Action) -> Told:
        input_id = self._input(action)
        if input_id is None:
            return {"skipped": True}
        report = await self._runtime.cancel_input(action.session, input_id)
        return {"input": input_id, "effect": report.effect.value}

    async def requeue(self, action: Action) -> Told:
        input_id = self._input(action)
        if input_id is None:
            return {"skipped": True}
        if action.facts.get("last"):
            input_id = await self._last_life(action.session, input_id)
        # Where a step's end is unknown, the operator says how it ended.
        steps = await self._words(action, input_id) if action.facts["told"] else {}
        asks = [self._runtime.requeue_input(action.session, input_id, steps=steps)]
        if action.facts["twice"]:
            asks.append(self._runtime.requeue_input(action.session, input_id, steps=steps))
        answers = await asyncio.gather(*asks, return_exceptions=True)
        told = [answer for answer in answers if not isinstance(answer, BaseException)]
        if not told:
            assert isinstance(answers[0], BaseException)
            raise answers[0]
        for accepted in told:
            self._world.wait(
                self._process, await self._runtime.handle(action.session, accepted.input_id)
            )
        return {"old": input_id, "successors": [accepted.input_id for accepted in told]}

    async def _last_life(self, session: str, input_id: str) -> str:
        """The last successor of an input, or itself."""
        while True:
            record = await self._runtime.worker.store.find_input(session, input_id=input_id)
            if record is None or record.requeued_as is None:
                return input_id
            input_id = record.requeued_as

    async def _words(self, action: Action, input_id: str) -> dict[str, Any]:
        """An operator's words on each step of unknown outcome: its result, or that it was not done.

        The letters of the fact `words` say which, in turn: `d` done, `n` not done.
        """
        session, letters = action.session, str(action.facts.get("words", "n"))
        store = self._runtime.worker.store
        record = await store.find_input(session, input_id=input_id)
        if record is None or record.turn_id is None:
            return {}
        steps = await store.load_steps(session, record.turn_id)
        unknown = [step.key for step in steps if not step.done and step.arguments]
        words: dict[str, Any] = {}
        for place, key in enumerate(unknown):
            done = letters[place % len(letters)] == "d"
            words[key] = f"{key}, said by {self._call}" if done else NOT_DONE
            self._world.note(
                "settles",
                call=self._call,
                session=session,
                turn=record.turn_id,
                old=input_id,
                step=key,
                value=words[key] if done else None,
            )
        return words

    async def answer(self, action: Action) -> Told:
        """Say yes or no to what a label, or anybody in the session, has asked.

        A caller may have looked what is open, or know of it from before.
        """
        session, place = action.session, str(action.facts.get("label", action.session))
        if action.facts["fresh"]:
            await self._look(session)
        known = self._world.approvals_of(place)
        if not known:
            return {"skipped": True}
        approval = known[-min(len(known), 1 + int(action.facts.get("older") or 0))]
        yes = bool(action.facts["approved"])
        facts = {"call": self._call, "process": self._process.id, "session": session}
        facts["approval"] = approval
        self._world.note("answers", approved=yes, **facts)
        report = await self._runtime.answer_approval(
            session, approval, approved=yes, comment=f"call {self._call}"
        )
        decision = None if report.decision is None else report.decision.value
        counts = {"effect": report.effect.value, "decision": decision, "by": report.input_id}
        self._world.note("answered", **facts, **counts)
        self._world.wait(self._process, await self._runtime.handle(session, report.input_id))
        return {}

    async def _look(self, session: str) -> None:
        facts = {"call": self._call, "process": self._process.id, "session": session}
        self._world.note("looks", **facts)
        found = await self._runtime.approvals(session)
        self._world.note("listed", approvals=[one.approval_id for one in found], **facts)
        for one in found:
            self._world.knows(session, one.question, one.approval_id)

    def _input(self, action: Action) -> str | None:
        return self._world.input_of(str(action.facts["label"]))

    # -- control -----------------------------------------------------------------------------------

    async def interrupt(self, action: Action) -> Told:
        named = self._world.newest_run(action.session) if action.facts["named"] else None
        report = await self._runtime.interrupt_current_run(
            action.session, "stop it", run_id=named, requeue=bool(action.facts["requeue"])
        )
        return {"run": report.run_id, "effect": report.effect.value}

    async def retire(self, action: Action) -> Told:
        drain: Any = action.facts.get("drain")
        report = await self._runtime.retire_runtime(action.session, drain_timeout=drain)
        return {"abandoned": report.inputs_abandoned}

    async def reset(self, action: Action) -> Told:
        report = await self._runtime.reset_runtime(action.session)
        return {"abandoned": report.inputs_abandoned}

    async def stop(self, action: Action) -> Told:
        report = await self._runtime.stop_runtime(action.session)
        return {"abandoned": report.inputs_abandoned, "deferred": report.deferred}

    async def destroy(self, action: Action) -> Told:
        report = await self._runtime.destroy_runtime(action.session)
        return {"abandoned": report.inputs_abandoned, "deferred": report.deferred}

    async def respawn(self, action: Action) -> Told:
        report = await self._runtime.respawn_runtime(action.session)
        return {"transferred": report.inputs_transferred}

    async def pause(self, action: Action) -> Told:
        await self._runtime.pause_runtime(action.session)
        return {}

    async def resume(self, action: Action) -> Told:
        await self._runtime.resume_runtime(action.session)
        return {}

    async def unregister(self, action: Action) -> Told:
        await self._runtime.unregister_session(action.session)
        return {}

    async def register(self, action: Action) -> Told:
        await self._runtime.register_session(action.session)
        return {}

    async def recover(self, action: Action) -> Told:
        await self._runtime.recover_runtime(action.session)
        return {}

    async def attach(self, action: Action) -> Told:
        agent = self._world.agent_of(self._process, action.session)
        await self._runtime.ensure_session_with_executor(action.session, agent)
        return {}

    async def detach(self, action: Action) -> Told:
        await self._runtime.detach(action.session)
        return {}

    # -- reading -----------------------------------------------------------------------------------

    async def follow(self, action: Action) -> Told:
        """Follow a session's events to the end of this Runtime, past those that were pruned."""
        after = 0
        while True:
            try:
                await self._follow(action.session, after)
            except EventsPruned as pruned:
                after = pruned.first - 1
            else:
                return {}

    async def _follow(self, session: str, after: int) -> None:
        follower = self._world.new_follower()
        facts = {"process": self._process.id, "session": session, "follower": follower}
        self._world.note("follows", after=after, **facts)
        async for envelope in self._runtime.events(session, after=after):
            self._world.note(
                "followed", sequence=envelope.sequence, code=envelope.event.code, **facts
            )

    async def prune(self, action: Action) -> Told:
        """Of the whole store, as an operator does beside live work."""
        before_ms = self._process.clock.now_ms() - round(float(action.facts["age"] or 0) * 1_000)
        self._world.note("prunes", process=self._process.id, before_ms=before_ms)
        report = await self._runtime.worker.store.prune(before_ms)
        return {"events": report.events, "bodies": report.bodies}

    async def read(self, action: Action) -> Told:
        state = await self._runtime.session_state(action.session)
        await self._runtime.health()
        active = await self._runtime.list_active_inputs(action.session)
        return {"state": state.state.value, "active": len(active)}


INSIDE: dict[str, Callable[["Runtime", str], Awaitable[Any]]] = {
    "submit": lambda runtime, session: runtime.submit(session, "inner"),
    "retire": lambda runtime, session: runtime.retire_runtime(session),
    "stop": lambda runtime, session: runtime.stop_runtime(session),
    "respawn": lambda runtime, session: runtime.respawn_runtime(session),
    "unregister": lambda runtime, session: runtime.unregister_session(session),
}
"""What a turn does from inside; `wait` besides, which must be refused."""
