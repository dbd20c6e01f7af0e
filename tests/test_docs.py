"""Tests of the documentation: link targets and named tests exist, and every Python block is a doctest."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "CHANGELOG.md",
    ROOT / "benchmarks" / "README.md",
    ROOT / "benchmarks" / "NOTES.md",
    ROOT / "tests" / "README.md",
    *sorted((ROOT / "docs").glob("*.md")),
]
LINK = re.compile(r"\]\((?P<target>[^)\s]+)(?: \"(?P<title>[^\"]*)\")?\)")
page_of_each = pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))


def prose(page):
    """Returns the page without its code blocks."""
    return re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.S | re.M)


@cache
def anchors(page):
    """Returns the anchors that GitHub generates for the headings of a page."""
    headings = re.findall(r"^#+ (.*)$", prose(page), re.M)
    return {re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in headings}


@cache
def functions_in(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}


@page_of_each
def test_link_targets_exist(page):
    for link in LINK.finditer(prose(page)):
        path, _, anchor = link["target"].partition("#")
        if "://" in path:
            continue
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link["target"]
        if anchor:
            assert anchor in anchors(target), link["target"]
        if link["title"]:
            assert link["title"] in functions_in(target), link["title"]


@page_of_each
def test_named_tests_exist(page):
    """Pages name tests as ``test_file.py::test_name``, without an ellipsis."""
    text = prose(page)
    named = re.findall(r"([\w/]+\.py)::(\w+)", text)
    assert len(named) == text.count("::"), "write the file and the whole name of each test"
    for file, name in named:
        (path,) = [p for p in (ROOT / "tests").rglob(Path(file).name) if str(p).endswith(file)]
        assert name in functions_in(path), name


@page_of_each
def test_python_blocks_are_doctests(page):
    """pytest runs blocks with ``>>>``, see ``testpaths``. Examples that cannot run must be text blocks."""
    blocks = re.findall(
        r"^```(?:python|py)\n(.*?)^```", page.read_text(encoding="utf-8"), re.S | re.M
    )
    assert all(block.startswith(">>> ") for block in blocks)
    assert not blocks or page == ROOT / "README.md" or page.parent == ROOT / "docs"


@page_of_each
def test_no_placeholder_is_left(page):
    assert not re.findall(
        r"\b(?:MINUTES|T)_[A-Z0-9_]+\b|\bTODO\b", page.read_text(encoding="utf-8")
    )


def test_the_index_links_every_page():
    index = prose(ROOT / "docs" / "index.md")
    linked = {link["target"] for link in LINK.finditer(index)}
    assert {page.name for page in (ROOT / "docs").glob("*.md")} - {"index.md"} <= linked
    assert "docs/index.md" in {link["target"] for link in LINK.finditer(prose(ROOT / "README.md"))}


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 200
