"""Lists in pages: none left out, none twice, and never more looked at than one request may."""

from collections.abc import Callable

import pytest

from turnkeeper.config import PAGE_MAX
from turnkeeper.server.pages import page_of


class Rows:
    """Rows 1 to `count`, and how many of them were looked at."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.looked_at = 0

    async def load(self, after: int, limit: int) -> list[int]:
        rows = list(range(after + 1, min(after + limit, self.count) + 1))
        self.looked_at += len(rows)
        return rows


@pytest.mark.parametrize("count", [0, 1, 99, 100, 101, 1_000, 2_500])
@pytest.mark.parametrize("limit", [1, 100, 1_000])
@pytest.mark.parametrize(
    "wanted",
    [None, lambda n: n > 0, lambda n: n % 7 == 0, lambda n: n > 2_400, lambda n: n < 0],
    ids=["all", "each", "seventh", "last", "none"],
)
async def test_pages_together_are_the_list(
    count: int, limit: int, wanted: Callable[[int], bool] | None
) -> None:
    """[SRV-4] Whatever the filter leaves out; a short page before the end says where to go on."""
    rows = Rows(count)
    found: list[int] = []
    after: int | None = 0
    while after is not None:
        rows.looked_at = 0
        page, following = await page_of(rows.load, lambda n: n, after, limit, wanted)
        assert len(page) <= limit
        assert rows.looked_at <= (limit if wanted is None else PAGE_MAX)
        assert following is None or following > after
        found += page
        after = following
    assert found == [n for n in range(1, count + 1) if wanted is None or wanted(n)]
