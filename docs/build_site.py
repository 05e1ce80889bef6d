"""Builds the documentation as a site: the repository's own pages, every command's help, the API.

python docs/build_site.py OUT        (make docs)

The pages stay where they are in the repository, so that their links work there and on the site. The
build fails for a link that leads nowhere.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import limn
from limn.cli.main import command_parser

ROOT = Path(__file__).parent.parent
# What pages show or link to.
SHOWN = (".md", ".png", ".csv", ".tex", ".toml", ".cff", ".json", ".yml", ".service", ".ps1", ".py")
NO_PAGES = ("tests", "bench", ".github")
HELP_WIDTH = 100


def help_page() -> str:
    """The help of every command, as the terminal prints it."""
    lines = [
        "# Every command's help",
        "",
        "What `limn COMMAND --help` prints. [What each command is for](commands.md).",
    ]
    for name, text in sorted(_helps(command_parser(), "limn")):
        lines += ["", f"## {name}", "", "```text", text.rstrip(), "```"]
    return "\n".join(lines) + "\n"


def _helps(parser: argparse.ArgumentParser, name: str) -> Iterator[tuple[str, str]]:
    yield name, parser.format_help()
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for command, each in action.choices.items():
                yield from _helps(each, f"{name} {command}")


def api_page() -> str:
    """What `import limn` gives, from the docstrings."""
    members = [name for name in limn.__all__ if name not in ("LimnError", "__version__")]
    return (
        "# limn from Python: reference\n\n[With examples](python.md).\n\n"
        f"::: limn.api\n    options:\n      members: [{', '.join(members)}]\n"
        "::: limn.domain.errors.LimnError\n"
    )


def stage(folder: Path) -> None:
    """Copy the pages, and what they show, to a folder of their own."""
    tracked = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True
    ).stdout.decode()
    for name in filter(None, tracked.split("\0")):
        path = Path(name)
        plain = path.suffix in SHOWN or path.name in ("LICENSE", "Makefile")
        if plain and path.parts[0] not in NO_PAGES:
            target = folder / path
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / path, target)
    (folder / "docs" / "help.md").write_text(help_page(), encoding="utf-8")
    (folder / "docs" / "api.md").write_text(api_page(), encoding="utf-8")


def build(out: Path) -> int:
    """Build the site; returns the exit status of mkdocs."""
    # argparse takes the width of its help from there.
    os.environ["COLUMNS"] = str(HELP_WIDTH)
    with tempfile.TemporaryDirectory(prefix="limn-site-") as temporary:
        pages = Path(temporary, "pages")
        stage(pages)
        config = Path(temporary, "mkdocs.yml")
        text = (ROOT / "docs" / "site.yml").read_text(encoding="utf-8")
        for name, folder in (("SOURCES", ROOT / "src"), ("EXTENSIONS", ROOT / "docs")):
            text = text.replace(name, str(folder))
        config.write_text(text, encoding="utf-8")
        command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet"]
        return subprocess.run(
            [*command, "-f", str(config), "-d", str(out.resolve())], check=False
        ).returncode


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    sys.exit(build(parser.parse_args().out))
