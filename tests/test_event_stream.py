"""The reader of server-sent events, over every way in which bytes may arrive."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from itertools import pairwise

import httpx2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from turnkeeper.event_stream import EventTooLarge, server_sent_events

REQUEST = httpx2.Request("GET", "http://server/events")
SEPARATORS = "\u2028\u2029\u0085\x0b\x0c\x1c\x1d\x1e"
"""What `str.splitlines` splits at and the standard does not."""

Seen = tuple[str, str, str]


def read(
    pieces: Sequence[bytes], *, max_bytes: int = 10_000, unfinished: bool = False
) -> list[Seen]:
    async def body() -> AsyncGenerator[bytes, None]:
        for piece in pieces:
            yield piece

    async def go() -> list[Seen]:
        events = server_sent_events(body(), REQUEST, max_bytes=max_bytes, unfinished=unfinished)
        return [(event.event, event.data, event.id) async for event in events]

    return asyncio.run(go())


def split(stream: bytes, places: Sequence[int]) -> list[bytes]:
    cuts = sorted({0, len(stream), *(place % (len(stream) + 1) for place in places)})
    return [stream[a:b] for a, b in pairwise(cuts)]


TEXT = st.text(
    st.one_of(st.sampled_from(f"{SEPARATORS} :aé\U0001f600\x00"), st.characters(codec="utf-8")),
    max_size=12,
).map(lambda text: text.replace("\r", "").replace("\n", ""))


@given(
    events=st.lists(
        st.tuples(
            st.sampled_from(["", "delta", "error"]),
            st.lists(TEXT, min_size=1, max_size=3),
            st.sampled_from([None, "7", "é"]),
            st.sampled_from(["", ": ping", "retry: 5", "unknown: x", "data2"]),
        ),
        max_size=4,
    ),
    end=st.sampled_from(["\n", "\r\n", "\r"]),
    mark=st.sampled_from(["", "\ufeff"]),
    places=st.lists(st.integers(0, 10_000), max_size=8),
    space=st.sampled_from([" ", ""]),
)
def test_events_are_split_at_line_ends_only(
    events: list[tuple[str, list[str], str | None, str]],
    end: str,
    mark: str,
    places: list[int],
    space: str,
) -> None:
    """[SRV-25] Whatever is in the data, wherever the bytes are split, whichever the line end."""
    lines: list[str] = []
    expected: list[Seen] = []
    last_id = ""
    for kind, data, number, further in events:
        if kind:
            lines.append(f"event:{space}{kind}")
        # A value that begins with a space needs the one that is taken off.
        lines += [
            f"data: {line}" if line.startswith(" ") else f"data:{space}{line}" for line in data
        ]
        if number is not None:
            lines.append(f"id: {number}")
            last_id = number
        if further:
            lines.append(further)
        lines.append("")
        if "\n".join(data):
            expected.append((kind or "message", "\n".join(data), last_id))
    stream = (mark + "".join(line + end for line in lines)).encode()
    assert read(split(stream, places)) == expected
    assert read([stream[n : n + 1] for n in range(len(stream))]) == expected


def test_every_place_to_split_a_stream() -> None:
    """[SRV-25] Also inside a character, a CRLF and the byte order mark."""
    stream = "\ufeff: hi\r\ndata: a\u2028\U0001f600\u0085\r\ndata: b\r\rid: 4\ndata:c\n\n".encode()
    expected = [("message", "a\u2028\U0001f600\u0085\nb", ""), ("message", "c", "4")]
    for first in range(len(stream) + 1):
        for second in range(first, len(stream) + 1):
            pieces = [stream[:first], stream[first:second], stream[second:]]
            assert read(pieces) == expected


def test_an_event_without_its_blank_line() -> None:
    """[SRV-25] It is dropped, as the standard says, except where its reader asks for it."""
    assert read([b"data: a\n\ndata: b"]) == [("message", "a", "")]
    assert read([b"data: a\n\ndata: b"], unfinished=True)[1:] == [("message", "b", "")]
    assert read([b"data: a\n\n"], unfinished=True) == [("message", "a", "")]


@pytest.mark.parametrize("stream", [b"data: " + b"x" * 200, b"data: x\n" * 40 + b"\n"])
def test_an_event_past_the_bound(stream: bytes) -> None:
    """[SRV-25] One long line, or many, is an error that names the bound; what fits is read."""
    with pytest.raises(EventTooLarge, match=r"http://server/events .* more than 100 bytes"):
        read([stream[n : n + 7] for n in range(0, len(stream), 7)], max_bytes=100)
    fitting = b"data: x\n\n" * 40
    assert len(read([fitting], max_bytes=100)) == 40


def test_bytes_that_are_no_text() -> None:
    """[SRV-25] They become U+FFFD, and the stream goes on."""
    assert read([b"data: a\xff\n\n", b"data: b\n\n"]) == [
        ("message", "a\ufffd", ""),
        ("message", "b", ""),
    ]
