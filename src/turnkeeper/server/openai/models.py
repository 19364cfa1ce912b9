"""`/v1/models`: what chat clients ask for first, to have something to choose from."""

from starlette.responses import Response

from turnkeeper.server.calls import SUBMIT_OR_READ, Call, Operation, answer, json_reply
from turnkeeper.server.openai.shapes import MODEL, Model, ModelList


async def page(_call: Call) -> Response:
    """The one model: the agent. A request may name it as it likes. [SRV-18]"""
    return answer(ModelList(data=[Model(id=MODEL)]))


OPERATIONS = (
    Operation(
        method="GET",
        path="/v1/models",
        name="listModels",
        summary="OpenAI's models: the one that there is, which is the agent.",
        details="Whatever a request calls its model, the agent answers.",
        tag="OpenAI",
        handler=page,
        scopes=SUBMIT_OR_READ,
        replies={200: json_reply(ModelList, "The models.")},
    ),
)
"""The row of the table."""
