"""The verb `verify`: its verdict, what it says of each finding, and repairs after a backup."""

import sys
from pathlib import Path

import apsw
import pytest
from command_line import call, leave_behind

from turnkeeper.cli.exits import Exit

FINDING = {"code", "session_id", "row", "what", "repair", "pending", "advice"}


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "store.db"
    monkeypatch.setenv("TURNKEEPER_STORE", str(path))
    leave_behind(path, "idle-ada", "retired-bob")
    return path


def change(store: Path, statement: str) -> None:
    connection = apsw.Connection(str(store))
    connection.execute(statement)
    connection.close()


def test_a_sound_store_is_said_to_be_sound(store: Path) -> None:
    """Exit code 0, and how much was read. [CLI-2] [VER-1]"""
    assert store.exists()
    ended = call("verify")
    assert (ended.code, ended.err) == (Exit.DONE, "")
    assert ended.out.startswith("sound: 2 sessions, 4 inputs, ")
    document = call("verify", "--json").document
    further = {"further", "further_pending"}
    assert set(document) == {"sound", "checked", "findings", "repair", *further}
    assert (document["sound"], document["findings"], document["repair"]) == (True, [], None)


def test_what_does_not_hold_is_named(store: Path) -> None:
    """Exit code 1; each finding with its row, and what to do about it. [CLI-2] [VER-1]"""
    change(store, "UPDATE input SET attempt_count = 9 WHERE number = 1 AND session = 1")
    ended = call("verify")
    assert ended.code == Exit.FAILED
    assert "NOT sound" in ended.out
    assert "damaged_row  session 'idle-ada': input " in ended.out
    assert "restore the row from a backup" in ended.out
    document = call("verify", "--json").document
    assert not document["sound"]
    assert all(set(finding) == FINDING for finding in document["findings"])


def test_what_a_crash_left_is_counted(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As no damage, and what is not named all the same. [CLI-2] [VER-1] [VER-5]"""
    leave_behind(store, "running-eva", "running-joe")
    monkeypatch.setattr(sys.modules["turnkeeper.verification"], "PENDING_MAX", 1)
    ended = call("verify")
    assert ended.code == Exit.DONE
    assert ended.out.count("stale_owner") == 1
    assert "and 1 further ones that the next claims put in order" in ended.out
    assert call("verify", "--json").document["further_pending"] == 1


def test_a_repair_begins_with_a_backup(store: Path, tmp_path: Path) -> None:
    """The copy is what was there before; afterwards the store is sound. [VER-6]"""
    change(store, "UPDATE session SET active = 5 WHERE key = 1")
    ended = call("verify")
    assert (ended.code, "--repair BACKUP" in ended.err) == (Exit.FAILED, True)
    copy = tmp_path / "before.db"
    ended = call("verify", "--repair", str(copy))
    assert (ended.code, "1 repaired, 0 left" in ended.err) == (Exit.DONE, True)
    assert call("verify", "--store", str(copy)).code == Exit.FAILED
    assert call("verify").code == Exit.DONE
    change(store, "UPDATE session SET active = 5 WHERE key = 1")
    ended = call("verify", "--repair", str(copy))
    assert (ended.code, "replaces nothing" in ended.err) == (Exit.STORE, True)
    assert call("verify").code == Exit.FAILED


def test_a_sound_store_is_not_repaired(store: Path, tmp_path: Path) -> None:
    """There is nothing to do, and no backup is made. [VER-6]"""
    assert store.exists()
    assert call("verify", "--repair", str(tmp_path / "before.db")).code == Exit.DONE
    assert not (tmp_path / "before.db").exists()
