"""The rules that every store of Turnkeeper keeps, as tests to run on yours. Needs pytest.

    from turnkeeper.testing.conformance import StoreConformance

    class TestMyStore(StoreConformance):
        def make_store(self, directory):
            return MyStore(directory / "my.db")

That needs pytest-asyncio with `asyncio_mode = "auto"`. For assertions that show their values, call
`pytest.register_assert_rewrite("turnkeeper.testing.conformance")` in your `conftest.py`. Without
pytest's runner, `broken_rules(make_store)` runs the same rules and returns those that are broken.

The suite goes through the contract alone. Its chapters:

    identity    IdentityAndKeys, Numbering, TheRow                    what a commit writes
    committing  Atomicity, Fencing, Replay, Inbox, Bounds, Crowd      who may write
    reading     Inputs, Paging                                        what is read back
    turns       Transcript, Receipts, Steps, Snapshots                what turns leave behind
    happenings  Events, History                                       what can be followed
    owning      Life, Claims, Workers                                 whose a session is
    delivering  Deliveries, Looks                                     what others put in
    keeping     Pruning, Backups                                      what an operator does
    inspecting  Inspections                                           what a verification reads
"""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from turnkeeper.store import Store
from turnkeeper.testing.conformance.chapter import Chapter, MakeStore, opened
from turnkeeper.testing.conformance.committing import (
    Atomicity,
    Bounds,
    Crowd,
    Fencing,
    Inbox,
    Replay,
)
from turnkeeper.testing.conformance.delivering import Deliveries, Looks
from turnkeeper.testing.conformance.happenings import Events, History
from turnkeeper.testing.conformance.identity import IdentityAndKeys, Numbering, TheRow
from turnkeeper.testing.conformance.inspecting import Inspections
from turnkeeper.testing.conformance.keeping import Backups, Pruning
from turnkeeper.testing.conformance.owning import Claims, Life, Workers
from turnkeeper.testing.conformance.reading import Inputs, Paging
from turnkeeper.testing.conformance.turns import Receipts, Snapshots, Steps, Transcript

__all__ = [
    "CHAPTERS",
    "Atomicity",
    "Backups",
    "Bounds",
    "Chapter",
    "Claims",
    "Crowd",
    "Deliveries",
    "Events",
    "Fencing",
    "History",
    "IdentityAndKeys",
    "Inbox",
    "Inputs",
    "Inspections",
    "Life",
    "Looks",
    "Numbering",
    "Paging",
    "Pruning",
    "Receipts",
    "Replay",
    "Snapshots",
    "Steps",
    "StoreConformance",
    "TheRow",
    "Transcript",
    "Workers",
    "broken_rules",
]


class StoreConformance(
    IdentityAndKeys,
    Numbering,
    TheRow,
    Atomicity,
    Fencing,
    Replay,
    Inbox,
    Bounds,
    Crowd,
    Inputs,
    Paging,
    Transcript,
    Receipts,
    Steps,
    Snapshots,
    Events,
    History,
    Life,
    Claims,
    Workers,
    Deliveries,
    Looks,
    Pruning,
    Backups,
    Inspections,
):
    """All chapters. Subclass it with a name that begins with `Test`, and give it `make_store`."""


CHAPTERS: tuple[type[Chapter], ...] = StoreConformance.__bases__
"""Each chapter alone, for `broken_rules`."""

RULE_TIMEOUT_SECONDS = 60.0


async def broken_rules(
    make_store: MakeStore, chapters: Sequence[type[Chapter]] = CHAPTERS
) -> dict[str, BaseException]:
    """Run the rules on stores that `make_store` makes in fresh directories.

    Gives, of each broken rule, its name as `Chapter.test_rule` and how it failed.
    """
    broken: dict[str, BaseException] = {}
    for chapter in chapters:
        for rule in [name for name in vars(chapter) if name.startswith("test_")]:
            with TemporaryDirectory() as directory:
                failure = await _failure(chapter, rule, make_store(Path(directory)))
            if failure is not None:
                broken[f"{chapter.__name__}.{rule}"] = failure
    return broken


async def _failure(chapter: type[Chapter], rule: str, unopened: Store) -> BaseException | None:
    try:
        async with asyncio.timeout(RULE_TIMEOUT_SECONDS), opened(unopened) as store:
            await getattr(chapter(), rule)(store)
    except (asyncio.CancelledError, KeyboardInterrupt, SystemExit):
        raise
    except BaseException as failure:  # noqa: BLE001  pytest's failures are no `Exception`s
        return failure
    return None
