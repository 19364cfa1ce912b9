"""Pages of rows of which a filter may leave some out.

Decides how much one request looks at: what it asks for, or with a filter 1,000 rows at most.
"""

from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from turnkeeper.config import PAGE_DEFAULT, PAGE_MAX

Row = TypeVar("Row")
Place = TypeVar("Place", int, str)


async def page_of(
    load: Callable[[Place, int], Awaitable[Sequence[Row]]],
    place_of: Callable[[Row], Place],
    after: Place,
    limit: int,
    wanted: Callable[[Row], bool] | None = None,
) -> tuple[list[Row], Place | None]:
    """At most `limit` rows past `after`, and where the next page begins; None at the end. [SRV-4]

    `load` gives rows past a place, at most so many.
    """
    if wanted is None:
        rows = list(await load(after, limit))
        return rows, place_of(rows[-1]) if len(rows) == limit else None
    chosen: list[Row] = []
    for _ in range(PAGE_MAX // PAGE_DEFAULT):
        looked_at = await load(after, PAGE_DEFAULT)
        for row in looked_at:
            after = place_of(row)
            if wanted(row):
                chosen.append(row)
                if len(chosen) == limit:
                    return chosen, after
        if len(looked_at) < PAGE_DEFAULT:
            return chosen, None
    return chosen, after
