"""Copies of rows that share nothing with those who hand them in or take them out.

Decides which values have a stored form: what has none is refused before anything is written.
"""

import copy

import msgspec

from turnkeeper.core.bodies import decode_body, encode_body
from turnkeeper.core.inputs import PromptInput
from turnkeeper.core.records import Commit, InputRecord, StoredReceipt
from turnkeeper.core.runs import RunResult
from turnkeeper.errors import CommitFailed


def owned(record: InputRecord) -> InputRecord:
    """A copy that shares nothing changeable: JSON goes through its stored form."""
    own: InputRecord = copy.copy(record)
    item = record.input
    if item is None or (type(item) is PromptInput and item.turn_metadata is None):
        return own
    own.input = decode_body(encode_body(item), record.input_id, record.key)
    return own


_result_encoder = msgspec.msgpack.Encoder()
_result_decoder = msgspec.msgpack.Decoder(RunResult)


def owned_result(result: RunResult | None) -> RunResult | None:
    """A result that shares no JSON with anybody."""
    if result is None or (result.structured_output is None and result.usage is None):
        return result
    return _result_decoder.decode(_result_encoder.encode(result))


def stored_forms(
    commit: Commit,
) -> tuple[list[InputRecord], list[InputRecord], StoredReceipt | None]:
    """Copies of what is to be kept, made before the first write: a value that has no stored form
    is refused with all of its commit.
    """
    try:
        kept = None
        if commit.receipt is not None:
            kept = StoredReceipt(commit.receipt, owned_result(commit.result))
        return (
            [owned(record) for record in commit.new_inputs],
            [owned(record) for record in commit.input_updates],
            kept,
        )
    except (TypeError, ValueError, OverflowError, msgspec.MsgspecError) as cause:
        raise CommitFailed(
            f"a value in this commit has no stored form: {cause}", applied=False, permanent=True
        ) from cause
