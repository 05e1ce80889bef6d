"""What the pages of the repository say of each other and of the code is true."""

import argparse
import re
import shlex
import tomllib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from limn.cli import main
from tests.conftest import REPOSITORY

DECISIONS = REPOSITORY / "docs" / "decisions"
INDEX = DECISIONS / "README.md"
DESIGN = (REPOSITORY / "DESIGN.md").read_text(encoding="utf-8")
LONGEST_README = 80
# Folders that hold no page or module of ours.
OUTSIDE = {".venv", ".git", "node_modules", "demo-out", "study-out"}
PAGES = sorted(
    path
    for path in REPOSITORY.rglob("*.md")
    if not OUTSIDE & set(path.relative_to(REPOSITORY).parts)
)
ENTRY = re.compile(r"^## (D-\d{3}) (.+)\n\nStatus: (.+)$", re.MULTILINE)
STATUS = re.compile(r"(in force|replaced by D-\d{3}|note)(; .+)?")


def files(*folders: str) -> Iterator[Path]:
    """Every text file of ours in these folders that may cite a decision."""
    for folder in folders:
        for path in (REPOSITORY / folder).rglob("*"):
            if path.suffix in {".py", ".md", ".toml"}:
                yield path


def decided() -> list[tuple[str, str, str, str]]:
    """Number, title, room and status of every decision."""
    found = []
    for path in sorted(DECISIONS.glob("*.md")):
        if path != INDEX:
            text = path.read_text(encoding="utf-8")
            entries = ENTRY.findall(text)
            assert len(entries) == len(re.findall(r"^## ", text, re.MULTILINE)), path.name
            found += [(number, title, path.stem, status) for number, title, status in entries]
    return sorted(found)


def test_each_decision_stands_once() -> None:
    """No number is used twice, none of the first 113 is missing; each has a status."""
    numbers = [number for number, *_ in decided()]
    assert len(set(numbers)) == len(numbers)
    assert numbers[:113] == [f"D-{k:03}" for k in range(1, 114)]
    for number, _, _, status in decided():
        assert STATUS.fullmatch(status), f"{number}: {status}"


def test_the_index_lists_the_decisions() -> None:
    """A line for each, in the order of the numbers, with its title, room and status."""
    lines = re.findall(
        r"^\| (D-\d{3}) \| (.+) \| \[(\w+)\]\(\3\.md\) \| (.+) \|$",
        INDEX.read_text(encoding="utf-8"),
        re.MULTILINE,
    )
    assert lines == decided()


def test_every_decision_that_is_cited_exists() -> None:
    """In code, tests and pages."""
    known = {number for number, *_ in decided()}
    cited = Counter[str]()
    for path in [*files("src", "tests", "docs", "deploy", "config", "bench"), *PAGES]:
        for number in re.findall(r"\bD-\d{3}\b", path.read_text(encoding="utf-8")):
            assert number in known, f"{path.relative_to(REPOSITORY)} cites {number}"
            cited[number] += 1
    assert cited["D-028"] > 2, "the pattern finds what stands in the code"


def test_every_principle_that_is_cited_exists() -> None:
    """P1 to P10 of DESIGN.md."""
    principles = re.findall(r"^- \*\*(P\d+)\b", DESIGN, re.MULTILINE)
    assert principles == [f"P{k}" for k in range(1, 11)]
    cited = set()
    for path in files("src"):
        cited |= set(re.findall(r"\((P\d+)\)|\b(P\d+) in DESIGN", path.read_text(encoding="utf-8")))
    named = {first or second for first, second in cited}
    assert named
    assert named <= set(principles)


def slugs(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    kept = (re.sub(r"[^\w\- ]", "", heading.lower()) for heading in headings)
    return {each.replace(" ", "-") for each in kept}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(REPOSITORY)))
def test_links_lead_to_what_is_there(page: Path) -> None:
    """Relative links of a page, to files and to headings."""
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if "://" in link:
            continue
        path, _, heading = link.partition("#")
        target = page.parent / path if path else page
        assert target.exists(), link
        if heading:
            assert heading in slugs(target), link


def test_every_test_that_is_named_exists() -> None:
    """A page that names a test as proof names one that runs."""
    tests = (REPOSITORY / "tests").rglob("test_*.py")
    functions = set(
        re.findall(r"^def (test_\w+)\(", "\n".join(map(Path.read_text, tests)), re.MULTILINE)
    )
    named = set()
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        named |= set(re.findall(r"`(test_\w+)`", text))
    assert len(named) > 10
    assert named <= functions


ROOMS = "bundles|cli|dicom|domain|lab|node|phantom|segment"
# What does not exist because a contributor is to write it.
PLACEHOLDER = "NAME"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(REPOSITORY)))
def test_modules_and_files_that_are_named_exist(page: Path) -> None:
    """As `tests/test_docs.py` from the repository's root, as `node/store` below src/limn."""
    text = page.read_text(encoding="utf-8")
    named = re.findall(r"`((?:src|tests|bench|config|deploy)/[\w./-]+\.\w+)`", text)
    named += [f"src/limn/{module}" for module in re.findall(rf"`((?:{ROOMS})/[\w./]*\w)/?`", text)]
    for path in named:
        found = REPOSITORY / path
        assert PLACEHOLDER in path or found.exists() or Path(f"{found}.py").exists(), path


def layers(contract: str) -> list[set[str]]:
    """The floors of a contract in pyproject.toml, the highest first."""
    table = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))
    (found,) = (
        each["layers"]
        for each in table["tool"]["importlinter"]["contracts"]
        if each.get("containers") == [contract]
    )
    return [set(floor.split(" | ")) for floor in found]


@pytest.mark.parametrize(
    ("heading", "contract"),
    [("## The house", "limn"), ("## The node", "limn.node"), ("## The lab", "limn.lab")],
)
def test_the_design_has_the_rooms_of_the_contracts(heading: str, contract: str) -> None:
    """Each room on its floor, as import-linter checks it."""
    section = DESIGN.partition(f"\n{heading}\n")[2].partition("\n## ")[0]
    stated: dict[int, set[str]] = {}
    for floor, rooms in re.findall(r"^\| (\d+) \| (.+?) \|", section, re.MULTILINE):
        names = {name.removesuffix(".py") for name in re.findall(r"`([\w.]+)/?`", rooms)}
        stated.setdefault(int(floor), set()).update(names)
    floors = layers(contract)
    assert stated == {len(floors) - k: rooms for k, rooms in enumerate(floors)}


def test_three_rooms_of_the_node_know_networks() -> None:
    """As DESIGN.md says: contour, batch and shadow import segment, and no room imports phantom."""
    node = REPOSITORY / "src" / "limn" / "node"
    importing: dict[str, set[str]] = {"segment": set(), "phantom": set()}
    for path in node.rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        for room, rooms in importing.items():
            if re.search(rf"^\s*(from|import) limn\.{room}\b", text, re.MULTILINE):
                rooms.add(path.relative_to(node).parts[0])
    assert importing == {"segment": {"contour", "batch", "shadow"}, "phantom": set()}


def commands(parser: argparse.ArgumentParser, words: tuple[str, ...]) -> Iterator[str]:
    """Every command of the command line, with the words before it."""
    below = [a for a in parser._actions if isinstance(a, argparse._SubParsersAction)]
    for action in below:
        for word, each in action.choices.items():
            yield from commands(each, (*words, word))
    if not below:
        yield " ".join(words)


def test_every_command_is_explained() -> None:
    """Each stands in docs/commands.md."""
    page = (REPOSITORY / "docs" / "commands.md").read_text(encoding="utf-8")
    page = page.replace("`limn models list`", "`limn models list `")
    every = list(commands(main.command_parser(), ("limn",)))
    assert len(every) > 20
    assert [each for each in every if f"`{each} " not in page and f"`{each}`" not in page] == []


def test_the_commands_of_the_pages_are_limn_s() -> None:
    """Each line of a block that begins with limn has options and a command that exist."""
    tried = 0
    for page in PAGES:
        text = page.read_text(encoding="utf-8").replace("\\\n", " ")
        for line in re.findall(r"^ {4,}limn (.+)$", text, re.MULTILINE):
            words = shlex.split(line.partition(" > ")[0], comments=True)
            # It ends the test with the parser's words.
            main.command_parser().parse_args(words)
            tried += 1
    assert tried > 30


def test_every_flag_that_is_explained_is_written() -> None:
    """No row of docs/flags.md speaks of a flag that the code does not have."""
    rows = re.findall(
        r"^\| (`.+?`) \|",
        (REPOSITORY / "docs" / "flags.md").read_text(encoding="utf-8"),
        re.MULTILINE,
    )
    explained = {re.split("[:`]", name)[1] for row in rows for name in row.split(", ")}
    written = set()
    for part in (
        "dicom/series.py",
        "node/commissioning.py",
        "node/contour",
        "node/deliver",
        "node/operate/reruns",
        "segment/engine/fallback.py",
        "segment/judge",
        "segment/draw/hounsfield.py",
        "segment/draw/roi_set.py",
        "segment/draw/delineate.py",
    ):
        path = REPOSITORY / "src" / "limn" / part
        for each in path.rglob("*.py") if path.is_dir() else [path]:
            text = each.read_text(encoding="utf-8")
            written |= {name for name in explained if re.search(rf'["\s]{name}[:"]', text)}
    assert written == explained
    assert {"gap", "mirrored", "gpu-failed", "held", "again"} <= explained


def test_the_readme_is_short() -> None:
    """A newcomer reads it to its end."""
    lines = (REPOSITORY / "README.md").read_text(encoding="utf-8").splitlines()
    assert len(lines) <= LONGEST_README
