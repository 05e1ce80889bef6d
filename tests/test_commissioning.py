"""deploy/COMMISSIONING.md asks for nothing that limn does not have."""

import re
import shlex

import pytest

from limn.cli import main
from limn.node.config import Config
from tests.conftest import REPOSITORY

PAGE = (REPOSITORY / "deploy" / "COMMISSIONING.md").read_text(encoding="utf-8")


def commands() -> list[str]:
    """Every limn command of the page, in a block or in a line."""
    blocks = re.findall(r"^ {4,}(.+)$", PAGE, re.MULTILINE)
    inline = re.findall(r"`(limn [^`]+)`", PAGE)
    found = []
    for line in blocks + inline:
        for part in re.split(r"&&|;|\bdo\b", line.partition("#")[0]):
            command = part.strip().removesuffix("> baseline.csv").strip()
            if command.startswith("limn "):
                found.append(command)
    return sorted(set(found))


@pytest.mark.parametrize("command", commands())
def test_every_command_parses(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The command line accepts it as it is written there, with its placeholders."""
    words = [word.replace("$p", "FFP") for word in shlex.split(command)[1:]]
    if words in (["--version"], ["release"], ["rois"], ["check"], ["log"]):
        return
    if words[:1] in (["release"], ["check"], ["log"], ["serve"]) and "--config" not in words:
        words += ["--config", "site.toml"]
    try:
        parsed = main.command_parser().parse_args(
            main._joined(words)
        )  # the parser is the command line
    except SystemExit as left:
        msg = f"{command}: {capsys.readouterr().err}"
        raise AssertionError(msg) from left
    assert callable(parsed.run)


def test_the_page_has_commands() -> None:
    """The pattern in `commands` finds them."""
    assert len(commands()) >= 12


def test_every_key_exists() -> None:
    """Every setting that the page names is a key of the config."""
    keys = re.findall(
        r"`(receive|settle|model|planning_system|metrics|retention|engine)\.(\w+)", PAGE
    )
    assert len(keys) >= 6
    for table, key in keys:
        assert key in Config.model_fields[table].annotation.model_fields, f"{table}.{key}"  # type: ignore[union-attr]


def test_every_file_it_points_to_is_there() -> None:
    """Links of the page, and of the others in deploy/."""
    for page in (REPOSITORY / "deploy").glob("*.md"):
        for link in re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8")):
            if "://" not in link:
                assert (page.parent / link).exists(), f"{page.name}: {link}"
