"""What the pages name is there: links, files, tests, rules."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SOURCES = ROOT / "src" / "turnkeeper"
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])

_LINK = re.compile(r"\]\(([^)#:]+?)(?:#[^)]*)?\)")
_PATH = re.compile(r"`((?:[a-z_0-9]+/)*[a-z_0-9]+\.(?:py|sql|md)|(?:[a-z_0-9]+/)+)`")
_TEST = re.compile(r"`(test_[a-z_]+\.py)`")
_RULE = re.compile(r"\b((?:[A-Z]{2,5})-\d+)\b")


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_somewhere(page: Path) -> None:
    """A link inside the repository names something that is there."""
    links = _LINK.findall(page.read_text("utf-8"))
    assert [link for link in links if not (page.parent / link).exists()] == []


@pytest.mark.parametrize("page", ["README.md", "ARCHITECTURE.md"])
def test_named_files_exist(page: str) -> None:
    """A file or folder that a page names is in the repository or in the package."""
    named = set(_PATH.findall((ROOT / page).read_text("utf-8")))
    folders = (ROOT, ROOT / "tests", SOURCES, SOURCES / "stores")
    assert [name for name in sorted(named) if not any((f / name).exists() for f in folders)] == []


def test_the_readme_names_every_test_of_a_guarantee() -> None:
    """The table of guarantees names tests, and each row at least one."""
    text = (ROOT / "README.md").read_text("utf-8")
    rows = re.findall(r"^\| .+ \| (.+) \|$", text, re.MULTILINE)[1:]
    assert len(rows) > 5
    assert [row for row in rows if not _TEST.search(row)] == []


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_cited_rules_exist(page: Path) -> None:
    """A rule that a page cites is one of the semantics."""
    semantics = (ROOT / "docs" / "reference" / "semantics.md").read_text("utf-8")
    rules = set(re.findall(r"^\*\*([A-Z]+-\d+)\*\*", semantics, re.MULTILINE))
    families = {rule.partition("-")[0] for rule in rules}
    cited = {r for r in _RULE.findall(page.read_text("utf-8")) if r.partition("-")[0] in families}
    assert cited - rules == set()


def test_every_guarantee_that_is_checked_is_explained() -> None:
    """The checker's names and the page's are the same, and what the page names is there."""
    folder = SOURCES / "testing" / "simulation" / "checking"
    source = "".join(path.read_text("utf-8") for path in folder.glob("*.py"))
    checked = set(re.findall(r'Violation\(\s*"([^"]+)"', source))
    page = (ROOT / "docs" / "explanation" / "guarantees.md").read_text("utf-8")
    rows = re.findall(r"^\| ([a-z, ]+) \| [A-Z]", page, re.MULTILINE)
    explained = {name for row in rows for name in row.split(", ")}
    explained |= set(re.findall(r"\*\*(the\s+agent[^*]+)\*\*", page.replace("\n", " ")))
    assert checked == explained
    assert len(checked) > 25
    tests = set(_TEST.findall(page))
    assert [name for name in sorted(tests) if not (ROOT / "tests" / name).exists()] == []
    targets = set(re.findall(r"`?make ([a-z-]+)", page))
    makefile = (ROOT / "Makefile").read_text("utf-8")
    assert [t for t in sorted(targets) if not re.search(rf"^{t}:", makefile, re.MULTILINE)] == []


def test_decisions_are_numbered_once() -> None:
    """A decision's number is in its file's name and its title, and belongs to one decision."""
    pages = sorted((ROOT / "docs" / "decisions").glob("*.md"))
    numbers = [page.name[:4] for page in pages]
    assert len(set(numbers)) == len(numbers)
    titles = [page.read_text("utf-8").splitlines()[0] for page in pages]
    assert [t for t, n in zip(titles, numbers, strict=True) if not t.startswith(f"# {n} ")] == []
