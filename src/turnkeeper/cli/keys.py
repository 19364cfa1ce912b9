"""The verb `keys`: the keys of a server are listed, made and revoked."""

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from turnkeeper.cli.exits import Exit, Failure
from turnkeeper.cli.output import Column, note, say, table, when, write_json
from turnkeeper.cli.place import DEFAULTS, Shared
from turnkeeper.environment import SystemClock
from turnkeeper.keys import KeyRecord, Scope, load_keys, make_key, revoke_key


def keys(
    file: Annotated[Path, Parameter(help="The file of keys.")],
    /,
    *,
    make: Annotated[
        str | None, Parameter(help="Make a key, for whom this names.", metavar="NAME")
    ] = None,
    scope: Annotated[
        tuple[Literal["submit", "read", "operate", "system"], ...],
        Parameter(
            help="What the new key may do; give it more than once for more.",
            negative=(),
            show_default=False,
        ),
    ] = (),
    revoke: Annotated[str | None, Parameter(help="Take a key's rights away.", metavar="ID")] = None,
    shared: Shared = DEFAULTS,
) -> None:
    """List, make or revoke keys."""
    if make is not None and revoke is not None:
        raise Failure("either --make or --revoke", Exit.USAGE)
    if scope and make is None:
        raise Failure("--scope goes with --make", Exit.USAGE)
    now_ms = SystemClock().now_ms()
    if make is not None:
        key, record = make_key(file, make, [Scope(name) for name in scope], now_ms)
        if shared.json:
            write_json({"id": record.id, "key": key, "scopes": record.scopes})
        else:
            say(key)
            note(f"this is key {record.id}; it is shown this once, and {file} has its hash alone")
    elif revoke is not None:
        record = revoke_key(file, revoke, now_ms)
        if shared.json:
            write_json(_document(record))
        else:
            say(f"key {record.id} ({record.name}) is revoked")
    else:
        _show(load_keys(file), shared)


def _show(found: tuple[KeyRecord, ...], shared: Shared) -> None:
    if shared.json:
        write_json({"keys": [_document(record) for record in found]})
        return
    columns = [
        Column("ID", whole=True),
        Column("NAME"),
        Column("SCOPES", whole=True),
        Column("MADE", whole=True),
        Column("REVOKED", whole=True),
    ]
    rows = [
        (
            record.id,
            record.name,
            ", ".join(record.scopes),
            when(record.created_at_ms),
            "" if record.revoked_at_ms is None else when(record.revoked_at_ms),
        )
        for record in found
    ]
    table(columns, rows, "no keys")


def _document(record: KeyRecord) -> dict[str, object]:
    """A key without its hash."""
    return {
        "id": record.id,
        "name": record.name,
        "scopes": record.scopes,
        "created_at_ms": record.created_at_ms,
        "revoked_at_ms": record.revoked_at_ms,
    }
