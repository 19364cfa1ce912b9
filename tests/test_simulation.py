"""The simulation: guarantees hold in some hundred lives; it replays, shrinks, and convicts."""

import ast
import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from defects import DEFECTS, PACKAGE, Defect
from patience import PATIENCE_SECONDS
from simulate_defects import found
from simulated_lives import FOUND, Found, does

from turnkeeper import NonRetryable, Turn, ValidationFailed, agent
from turnkeeper.testing.simulation import effect, simulate
from turnkeeper.testing.simulation.generate import generate
from turnkeeper.testing.simulation.verdicts import Verdict, judge, judge_seed, report, shortened

pytest_plugins = ["turnkeeper.testing.simulation.fixture"]

SEEDS = 300
PIECE = 25
CHECKING = PACKAGE / "testing" / "simulation" / "checking"


def said(verdict: Verdict) -> list[str]:
    return [str(violation) for violation in verdict.violations]


@pytest.mark.parametrize("first", range(0, SEEDS, PIECE))
def test_every_guarantee_holds(first: int) -> None:
    """In each of these lives, whatever fails in it. `make simulate` lives 10,000 of them."""
    for seed in range(first, first + PIECE):
        assert said(judge_seed(seed)) == [], f"seed {seed}"


@pytest.mark.parametrize("store", ["memory", "sqlite"])
@pytest.mark.parametrize("finding", FOUND, ids=lambda finding: f"seed {finding.seed}")
def test_what_was_found_stays_away(finding: Found, store: str) -> None:
    """Each finding's life holds every guarantee since it was fixed."""
    assert said(judge(finding.life(store))) == [], finding.what


DIGESTS = (
    "from turnkeeper.testing.simulation.verdicts import judge_seed\n"
    "print([judge_seed(seed).digest for seed in range(12)])"
)


def test_a_seed_is_the_same_life_each_time() -> None:
    """Same actions, same facts, same rows: in another process, with other hashes."""
    printed = set()
    for hashes in ("1", "2"):
        environment = os.environ | {"PYTHONHASHSEED": hashes, "PYTHONPATH": str(PACKAGE.parent)}
        ended = subprocess.run(
            [sys.executable, "-c", DIGESTS],
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        )
        printed.add(ended.stdout)
    assert len(printed) == 1
    assert str(generate(7)) == str(generate(7))


def test_the_checker_shares_no_code_with_the_product() -> None:
    """It imports itself, the standard library, and a library that encodes; and by no other way."""
    own = "turnkeeper.testing.simulation.checking"
    paths = sorted(CHECKING.rglob("*.py"))
    assert len(paths) > 5
    for path in paths:
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0, path.name
                names = [node.module or ""]
            elif isinstance(node, ast.Name):
                assert node.id not in ("__import__", "eval", "exec", "open"), path.name
            for name in names:
                known = name.partition(".")[0] in sys.stdlib_module_names | {"msgspec"}
                loads = name in ("importlib", "sys", "runpy", "pkgutil")
                assert name.startswith(own) or (known and not loads), f"{path.name}: {name}"


# -- planted defects ------------------------------------------------------------------------------


@pytest.mark.parametrize("defect", DEFECTS, ids=lambda defect: defect.name)
def test_a_planted_defect_still_applies(defect: Defect) -> None:
    """Its text stands once, and what it makes of the file is a program."""
    source = (PACKAGE / defect.file).read_text("utf-8")
    ast.parse(defect.applied(source))


def test_there_are_enough_defects_everywhere() -> None:
    """At least 25, over core, worker and stores."""
    assert len({defect.name for defect in DEFECTS}) == len(DEFECTS) >= 25
    assert {defect.file.split("/")[0] for defect in DEFECTS} == {"core", "worker", "stores"}


def test_a_defect_is_convicted() -> None:
    """The whole way, once: a copy is made, the defect planted, and found."""
    defect = next(d for d in DEFECTS if d.name == "acknowledged before the commit")
    assert found(defect, seeds=100) is not None


# -- killed ---------------------------------------------------------------------------------------


def simulating(*arguments: str) -> "subprocess.Popen[str]":
    """A long campaign in processes of its own, all of which write to one pipe."""
    return subprocess.Popen(
        [sys.executable, "-m", "turnkeeper.testing.simulation", "--seeds", "60", *arguments],
        env=os.environ | {"PYTHONPATH": str(PACKAGE.parent)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def all_ended(simulation: "subprocess.Popen[str]") -> bool:
    """Whether the campaign and all that it has started end: then nobody holds the pipe."""
    try:
        simulation.communicate(timeout=PATIENCE_SECONDS)
    except subprocess.TimeoutExpired:
        os.killpg(simulation.pid, signal.SIGKILL)
        return False
    return True


def test_a_killed_campaign_leaves_no_process() -> None:
    """Killed in the middle, it cannot tell its processes: they see it by themselves."""
    simulation = simulating("--stop", "--processes", "2")
    assert simulation.stdout is not None
    assert "lives in" in simulation.stdout.readline()
    simulation.kill()
    assert all_ended(simulation)


def test_an_attached_campaign_ends_with_its_input() -> None:
    """So does what convicts defects: who started it may be killed."""
    simulation = simulating("--stop", "--processes", "1", "--attached")
    assert simulation.stdout is not None
    assert "lives in" in simulation.stdout.readline()
    assert all_ended(simulation)  # `communicate` closes its input
    assert simulation.returncode == 1


# -- a user's own agent ----------------------------------------------------------------------------


class Till:
    """A payment service outside: slow, and it remembers nothing."""

    async def charge(self, order: str) -> str:
        await asyncio.sleep(0.2)
        effect(f"charge {order}")
        return "paid"


till = Till()


@agent
async def careless(turn: Turn) -> str:
    await till.charge(turn.inputs[0].id)
    await till.charge(f"tip for {turn.inputs[0].id}")
    return "thank you"


@agent
async def careful(turn: Turn) -> str:
    await turn.once("charge", till.charge, turn.inputs[0].id)
    await turn.once("tip", till.charge, f"tip for {turn.inputs[0].id}")
    return "thank you"


def test_a_careless_agent_is_convicted_by_its_shortest_history() -> None:
    """It charges outside of `once`: a cut in the middle of its turn charges twice."""
    simulation = simulate(careless, seeds=60)
    assert not simulation.passed
    assert simulation.broken == ("the agent's effects are made once",)
    assert simulation.convicted is not None
    assert len(simulation.convicted.life.actions) <= 8
    told = str(simulation)
    assert "The actions:" in told
    assert told.count("makes the effect 'charge L") + told.count("makes the effect 'charge tip") > 1
    assert "crash" in told


def test_a_careful_agent_passes(simulate) -> None:  # type: ignore[no-untyped-def] # noqa: ANN001
    """The fixture gives the same, and lets a good agent pass."""
    assert simulate(careful, seeds=40).passed


def test_an_agent_that_asks_passes() -> None:
    """Callers answer what it asks, or do not: who waits for a person at the end is at rest."""
    told = set()

    @agent
    async def cautious(turn: Turn) -> str:
        if turn.approval is None:
            turn.wait_for_approval("Charge?", details=turn.inputs[0].id)
        told.add(turn.approval.decision)
        if turn.approval.approved:
            await turn.once("charge", till.charge, str(turn.approval.details))
        return "thank you"

    simulation = simulate(cautious, seeds=60)
    assert simulation.passed, str(simulation)
    assert told == {"approved", "denied"}


def test_the_fixture_fails_the_test(simulate) -> None:  # type: ignore[no-untyped-def] # noqa: ANN001
    """With the report in it."""

    @agent
    async def hopeless(_turn: Turn) -> str:
        raise NonRetryable("no")

    with pytest.raises(pytest.fail.Exception, match="the agent completes its turns"):
        simulate(hopeless, seeds=20)


def test_real_io_is_refused() -> None:
    """An agent that goes to a thread is told so, instead of an unrepeatable life."""

    @agent
    async def threaded(_turn: Turn) -> str:
        return await asyncio.to_thread(lambda: "no")

    simulation = simulate(threaded, seeds=20)
    assert "no real I/O" in str(simulation)


def test_simulate_wants_an_agent_and_words() -> None:
    """Nothing to run, or nothing to say, is refused."""
    with pytest.raises(ValidationFailed):
        simulate(None)
    with pytest.raises(ValidationFailed):
        simulate(careful, texts=())


# -- reports and shortening ------------------------------------------------------------------------


def test_a_report_of_a_good_life_says_so() -> None:
    """And a good life is not shortened."""
    verdict = judge_seed(0)
    assert report(verdict) == "seed 0: every guarantee held"
    assert shortened(verdict) is verdict


def test_the_program_replays_a_seed() -> None:
    """`--replay` tells one life, and its exit code is the verdict."""
    command = [sys.executable, "-m", "turnkeeper.testing.simulation", "--replay", "3"]
    environment = os.environ | {"PYTHONPATH": str(Path(PACKAGE).parent)}
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout) == (0, "seed 3: every guarantee held\n")


def test_actions_read_as_sentences() -> None:
    """When, who, what, and with what."""
    action = does("submit", 0.5, label="L0", script="ok")
    assert str(action).split() == ["+0.5s", "p0", "s0", "submit", "label='L0'", "script='ok'"]
