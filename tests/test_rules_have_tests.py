"""Every rule of `docs/reference/semantics.md` is cited by a test, and every citation is a rule."""

import ast
import re
from collections import Counter
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SEMANTICS = ROOT / "docs" / "reference" / "semantics.md"
SOURCES = ROOT / "src" / "turnkeeper"
SUITES = [SOURCES / "testing" / "conformance", SOURCES / "testing" / "agents"]

_DEFINITION = re.compile(r"^\*\*([A-Z]+-\d+)\*\* \S", re.MULTILINE)
_BOLD_START = re.compile(r"^\*\*(.*?)\*\*", re.MULTILINE)
_CITATION = re.compile(r"\[([A-Z]{2,5})-(\d+)(?:\.\.(\d+))?\]")
_DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


def cited_in(text: str) -> set[str]:
    """The ids that a docstring cites: `[ADM-1]`, or `[ADM-1..3]` for three of them."""
    return {
        f"{group}-{number}"
        for group, first, last in _CITATION.findall(text)
        for number in range(int(first), int(last or first) + 1)
    }


@cache
def docstrings(path: Path) -> list[tuple[ast.AST, str]]:
    """Each documented node of a file with its docstring."""
    nodes = [n for n in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(n, _DOCUMENTED)]
    return [(node, text) for node in nodes if (text := ast.get_docstring(node)) is not None]


def defined() -> list[str]:
    return _DEFINITION.findall(SEMANTICS.read_text("utf-8"))


def cited_by_tests() -> set[str]:
    """Ids in the docstrings of test functions; in shipped suites, of any function."""
    cited: set[str] = set()
    for path in sorted((ROOT / "tests").rglob("*.py")):
        for node, text in docstrings(path):
            if isinstance(node, _FUNCTIONS) and node.name.startswith("test"):
                cited |= cited_in(text)
    for path in sorted(path for suite in SUITES for path in suite.rglob("*.py")):
        for node, text in docstrings(path):
            if isinstance(node, _FUNCTIONS):
                cited |= cited_in(text)
    return cited


def test_each_id_is_defined_once() -> None:
    """An id belongs to one rule, and a line that looks like a rule is one."""
    ids = defined()
    assert [name for name, count in Counter(ids).items() if count > 1] == []
    looks_like_one = _BOLD_START.findall(SEMANTICS.read_text("utf-8"))
    assert [name for name in looks_like_one if name not in ids] == []


def test_the_rules_of_a_group_are_numbered_without_gaps() -> None:
    """Within a group the numbers count up from 1."""
    groups: dict[str, list[int]] = {}
    for name in defined():
        group, number = name.rsplit("-", 1)
        groups.setdefault(group, []).append(int(number))
    for group, numbers in groups.items():
        assert numbers == list(range(1, len(numbers) + 1)), group


def test_each_rule_has_a_test() -> None:
    """A rule that no test cites is a wish."""
    missing = sorted(set(defined()) - cited_by_tests())
    assert missing == [], f"{len(missing)} rules are cited by no test: {', '.join(missing)}"


@pytest.mark.parametrize("folder", ["src", "tests", "examples", "benchmarks"])
def test_each_citation_names_a_rule(folder: str) -> None:
    """A docstring that cites an id means a rule that exists."""
    known = set(defined())
    unknown = [
        f"{path.relative_to(ROOT)}: {name}"
        for path in sorted((ROOT / folder).rglob("*.py"))
        for _, text in docstrings(path)
        for name in sorted(cited_in(text) - known)
    ]
    assert unknown == []
