"""The OpenAPI document, and the pages that show it. They load nothing from outside. [SRV-13]"""

import base64
import gzip
import hashlib
from functools import cache
from importlib.resources import files

from starlette.responses import Response

from turnkeeper.server import openapi
from turnkeeper.server.calls import Call, Operation, Reply

_PAGE = """\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Turnkeeper: the HTTP API</title>
<link rel="icon" href="data:,">
<script type="module" src="docs/rapidoc.js"></script>
</head>
<body>
<rapi-doc spec-url="openapi.json" load-fonts="false" render-style="read" show-header="false"
 allow-spec-url-load="false" allow-spec-file-load="false" schema-style="table"></rapi-doc>
</body>
</html>
"""

_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'unsafe-inline'; img-src data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""A page under it can load nothing but this server's own files, whatever its script wants."""


async def document(_call: Call) -> Response:
    """The OpenAPI document."""
    return Response(openapi.document(), media_type="application/json")


@cache
def _script() -> bytes:
    return (files("turnkeeper.server") / "static" / "rapidoc-min.js.gz").read_bytes()


async def _page(_call: Call) -> Response:
    return Response(_PAGE, media_type="text/html", headers={"Content-Security-Policy": _POLICY})


async def _rapidoc(call: Call) -> Response:
    packed = _script()
    digest = base64.urlsafe_b64encode(hashlib.sha256(packed).digest())[:16].decode()
    headers = {
        "Cache-Control": "public, max-age=3600",
        "ETag": f'"{digest}"',
        "Vary": "Accept-Encoding",
    }
    if "gzip" in ", ".join(call.headers("Accept-Encoding")):
        headers["Content-Encoding"] = "gzip"
    else:
        packed = gzip.decompress(packed)
    return Response(packed, media_type="text/javascript", headers=headers)


PAGES = tuple(
    Operation(
        method="GET",
        path=path,
        name="showDocs",
        summary="The viewer.",
        tag="Server",
        handler=handler,
        scopes=None,
        replies={200: Reply(summary="A page.", media="text/html")},
    )
    for path, handler in (("/v1/docs", _page), ("/v1/docs/rapidoc.js", _rapidoc))
)
"""The viewer: RapiDoc, from this package. It is for people, and no part of the description."""
