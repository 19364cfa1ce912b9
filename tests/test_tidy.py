"""The source keeps its own habits: layers, lengths, docstrings, a place for each kind of thing."""

import ast
import re
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "src" / "turnkeeper"
MODULES = sorted(PACKAGE.rglob("*.py"))

FILE_LINES = 600
FUNCTION_LINES = 70

LONGER_FILES: dict[str, int] = {
    "worker/actor.py": 695,
    "worker/dispatcher.py": 661,
}
"""Files over the habit, each with the most lines that it may have. A ratchet: figures only fall."""

TASK_MAKERS = {
    "executors/steps.py": "a durable tool goes to its end even if its framework gives it up",
    "worker/tasks.py": "the place that makes tasks",
    "stores/sqlite.py": "an opening or closing goes to its end even if its caller is cancelled",
}
"""Files that may make a task, and why."""

INNER = {"core", "errors", "config", "environment"}
CONTRACTS = {"store", "executor", "turn", "exits"}
LAYERS: dict[str, set[str]] = {
    "errors": set(),
    "config": {"errors"},
    "environment": set(),
    # Ring 1: pure.
    "core": INNER,
    "logs": INNER,
    # Ring 2: the contracts and what implements them.
    "store": INNER,
    "turn": INNER,
    "exits": {"errors"},
    "executor": INNER | {"turn"},
    "stores": INNER | {"store", "stores"},
    "executors": INNER | {"executor", "turn", "exits", "executors", "event_stream"},
    # Ring 3: the asyncio shell, which knows the contracts and no implementation.
    "worker": INNER | CONTRACTS | {"logs", "worker"},
    # On top.
    "verification": INNER | {"store"},
    "runtime": INNER | CONTRACTS | {"stores", "worker", "session"},
    "session": INNER | {"worker", "runtime"},
    "testing": INNER
    | CONTRACTS
    | {"stores", "executors", "worker", "runtime", "session", "testing"},
    # The service and its client, and what they say to each other.
    "wire": INNER,
    "keys": INNER,
    "server": INNER | CONTRACTS | {"logs", "worker", "runtime", "wire", "keys", "server"},
    "event_stream": {"errors"},
    "client": INNER | {"turn", "worker", "wire", "event_stream", "client"},
    "cli": INNER
    | CONTRACTS
    | {
        "stores",
        "executors",
        "worker",
        "runtime",
        "session",
        "verification",
        "wire",
        "client",
        "keys",
        "server",
        "cli",
    },
    "__main__": {"cli"},
    "__init__": INNER
    | CONTRACTS
    | {"stores", "worker", "runtime", "session", "verification", "client"},
}
"""Of each room the rooms that it may import."""

PURE_LIBRARIES = {"core": {"msgspec"}, "errors": set(), "config": {"msgspec"}}
SHELL_MODULES = {"asyncio", "threading", "logging", "socket", "subprocess", "concurrent"}
"""What the core may not know."""


def name_of(path: Path) -> str:
    return str(path.relative_to(PACKAGE))


def room_of(path: Path) -> str:
    """The top-level module or folder that a file belongs to."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text("utf-8"))


def imported(path: Path) -> Iterator[str]:
    """The dotted names of all modules that a file imports, wherever in the file it does."""
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.module is not None, "imports are absolute"
            if node.module == "turnkeeper":
                yield from (f"turnkeeper.{alias.name}" for alias in node.names)
            else:
                yield node.module


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_imports_point_inward(path: Path) -> None:
    """A room imports from its own ring and from those inside it, and from no other."""
    allowed = LAYERS[room_of(path)]
    rooms = {parts[1] for name in imported(path) if (parts := name.split("."))[0] == "turnkeeper"}
    assert rooms - allowed == set()


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_the_core_is_pure(path: Path) -> None:
    """Ring 1 knows its own rooms, msgspec and of the standard library nothing that acts."""
    if room_of(path) not in PURE_LIBRARIES:
        return
    roots = {name.split(".")[0] for name in imported(path)} - {"turnkeeper"}
    outside = {root for root in roots if root not in sys.stdlib_module_names}
    assert outside - PURE_LIBRARIES[room_of(path)] == set()
    assert roots & SHELL_MODULES == set()


def test_files_can_be_read_in_one_sitting() -> None:
    """600 lines are the wall; a longer file is listed, and does not grow."""
    lengths = {name_of(path): len(path.read_text("utf-8").splitlines()) for path in MODULES}
    long = {name: length for name, length in lengths.items() if length > FILE_LINES}
    grown = {name: n for name, n in long.items() if n > LONGER_FILES.get(name, FILE_LINES)}
    assert grown == {}
    assert set(LONGER_FILES) - set(long) == set(), "listed, and short by now: strike them off"


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_a_function_fits_on_a_screen(path: Path) -> None:
    """70 lines is the wall."""
    functions = (ast.FunctionDef, ast.AsyncFunctionDef)
    too_long = {
        node.name: (node.end_lineno or node.lineno) - node.lineno + 1
        for node in ast.walk(tree_of(path))
        if isinstance(node, functions)
        and (node.end_lineno or node.lineno) - node.lineno >= FUNCTION_LINES
    }
    assert too_long == {}


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_a_module_says_what_it_is(path: Path) -> None:
    """Every module has a docstring that is a sentence."""
    text = ast.get_docstring(tree_of(path)) or ""
    assert len(text.split()) > 2, "a module's docstring says what the file decides"


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_nothing_is_left_for_later(path: Path) -> None:
    """What is to be done is no part of the source."""
    marks = re.findall(r"\b(?:TODO|FIXME|XXX|HACK)\b", path.read_text("utf-8"))
    assert marks == []


_SQL = re.compile(
    r"\b(?:SELECT\b.+\bFROM|INSERT\b.+\bINTO|UPDATE\b.+\bSET|DELETE\s+FROM|CREATE\s+TABLE|PRAGMA)\b",
    re.DOTALL,
)


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_sql_lives_with_the_stores(path: Path) -> None:
    """No statement outside stores/."""
    if room_of(path) == "stores":
        return
    texts = [
        node.value
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    ]
    assert [text for text in texts if _SQL.search(text)] == []


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_tasks_are_made_in_one_place(path: Path) -> None:
    """Tasks are made in worker/tasks.py, which names them and joins them."""
    if name_of(path) in TASK_MAKERS or room_of(path) == "testing":
        return
    calls = [
        node.lineno
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.Attribute) and node.attr in {"create_task", "ensure_future"}
    ]
    assert calls == []


@pytest.mark.parametrize("word", ["utils", "common", "helpers", "manager", "types", "misc"])
def test_no_file_is_a_drawer(word: str) -> None:
    """A file is named for what it decides."""
    assert [name_of(path) for path in MODULES if word in path.stem.split("_")] == []


def test_the_glossary_is_in_order() -> None:
    """Words stand in alphabetical order, each once."""
    text = (ROOT / "docs" / "glossary.md").read_text("utf-8")
    words = [word.lower() for word in re.findall(r"^\*\*(.+?)\*\*", text, re.MULTILINE)]
    assert words == sorted(set(words))
