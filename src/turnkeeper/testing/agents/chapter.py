"""What the chapters of the suite share: which executor they test, and where."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from turnkeeper.config import TurnLimits
from turnkeeper.testing.agents.bed import Bed, Tools, made
from turnkeeper.testing.agents.brain import Brain


class Chapter:
    """Rules about one matter. Each is a method that gets a fresh bed."""

    def make_executor(self, brain: Brain, tools: Tools, limits: TurnLimits | None) -> Any:
        """An executor whose model is `brain`, and whose tools are those of `tools`."""
        raise NotImplementedError

    @pytest.fixture
    async def bed(self, tmp_path: Path) -> AsyncIterator[Bed]:
        """A fresh bed, without a life in it."""
        async with made(tmp_path, self.make_executor) as bed:
            yield bed
