"""The rules that every adapter of an agent framework keeps, as tests to run on yours. Needs pytest.

    from turnkeeper.testing.agents import AgentConformance

    class TestMyAdapter(AgentConformance):
        def make_executor(self, brain, tools, limits):
            lookup, charge = tools.functions()
            wire = durable_tool(tools.guarded(), needs_approval=True)
            tools = [lookup, durable_tool(charge), wire]
            return durable_agent(MyAgent(BridgeTo(brain), tools), limits)

That needs pytest-asyncio with `asyncio_mode = "auto"`. A bridge is a model of the framework that
turns its request into a list of `Said`, asks the brain, and streams the words of its `Reply`, then
its calls. For assertions that show their values, call in your `conftest.py`
`pytest.register_assert_rewrite("turnkeeper.testing.agents")`. The chapters:

    talking   Histories, Conversations, Streams   what a model reads, what a follower sees
    bringing  Bringing                            a conversation that an input brings with it
    lists     Lists                               what a framework may do to its own list
    texting   DoubleTexting                       messages that meet a turn
    tools     ToolCalls                           what a model gets wrong, what a tool raises
              NothingIsLeft                       no tool outlives its run
    approving Approvals                           turns that wait for a person
    ending    Stopping, Limits, Crashes           turns that do not come to their end
    settling  Settled                             calls of unknown outcome that a person settles
    exits     Exits                           agents' code that tries to end the process
    text      Text                            text that UTF-8 cannot hold
    safety    Safety                              many bad days, and what a model reads then
"""

from turnkeeper.testing.agents.approving import Approvals
from turnkeeper.testing.agents.bed import Bed, CrashStore, Tools
from turnkeeper.testing.agents.brain import Brain, Reply, Said
from turnkeeper.testing.agents.bringing import Bringing
from turnkeeper.testing.agents.chapter import Chapter
from turnkeeper.testing.agents.ending import Crashes, Limits, Stopping
from turnkeeper.testing.agents.exits import Exits
from turnkeeper.testing.agents.lists import Lists
from turnkeeper.testing.agents.safety import Safety
from turnkeeper.testing.agents.settling import Settled
from turnkeeper.testing.agents.talking import Conversations, Histories, Streams
from turnkeeper.testing.agents.text import Text
from turnkeeper.testing.agents.texting import DoubleTexting
from turnkeeper.testing.agents.tools import NothingIsLeft, ToolCalls

__all__ = [
    "AgentConformance",
    "Approvals",
    "Bed",
    "Brain",
    "Bringing",
    "Chapter",
    "Conversations",
    "CrashStore",
    "Crashes",
    "DoubleTexting",
    "Exits",
    "Histories",
    "Limits",
    "Lists",
    "NothingIsLeft",
    "Reply",
    "Safety",
    "Said",
    "Settled",
    "Stopping",
    "Streams",
    "Text",
    "ToolCalls",
    "Tools",
]


class AgentConformance(
    Histories,
    Lists,
    Conversations,
    Streams,
    Bringing,
    DoubleTexting,
    ToolCalls,
    NothingIsLeft,
    Approvals,
    Stopping,
    Limits,
    Crashes,
    Settled,
    Exits,
    Text,
    Safety,
):
    """All chapters. Subclass it with a name that begins with `Test`, and give `make_executor`."""
