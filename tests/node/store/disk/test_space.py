"""The data folder before a start: who may write there, and whose files lie in it."""

import os
from contextlib import nullcontext
from pathlib import Path

import pytest

from limn.domain.errors import ConfigWrong
from limn.node.config import Config, load_config
from limn.node.store.disk.space import try_writing

TEXT = """
data_dir = "data"
model.bundle = "b"
[[destination]]
kind = "folder"
name = "tps"
folder = "out"
"""


@pytest.fixture
def config(tmp_path: Path) -> Config:
    """A site that has not started yet."""
    (tmp_path / "limn.toml").write_text(TEXT)
    return load_config(tmp_path / "limn.toml")


@pytest.mark.skipif(os.name != "posix", reason="POSIX modes")
@pytest.mark.parametrize("mode", [0o777, 0o1777, 0o702])
def test_a_data_folder_that_everybody_may_change_is_refused(config: Config, mode: int) -> None:
    """As a config is; the message has the command that mends it."""
    config.data_dir.mkdir()
    config.data_dir.chmod(mode)
    with pytest.raises(ConfigWrong, match=rf"data_dir {config.data_dir}.*chmod o-w"):
        try_writing(config)
    config.data_dir.chmod(0o770)
    try_writing(config)


@pytest.mark.skipif(os.name != "posix", reason="POSIX modes")
def test_a_spool_that_everybody_may_change_is_refused(config: Config) -> None:
    """The folders inside too."""
    config.spool_dir.mkdir(parents=True)
    config.spool_dir.chmod(0o777)
    with pytest.raises(ConfigWrong, match=f"{config.spool_dir} can be changed by anybody"):
        try_writing(config)


@pytest.mark.parametrize("name", ["limn.lock", "journal.sqlite", "scans/scan-00001", "tls/key.pem"])
def test_a_file_of_another_user_is_named(
    config: Config, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """`limn serve` ran once as root; the user that runs it now can't use what root made."""
    others = config.data_dir / name
    others.parent.mkdir(parents=True, exist_ok=True)
    others.touch()
    allowed = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: path != others and allowed(path, mode))
    with pytest.raises(ConfigWrong, match=rf"{others} can't be read.*chown -R USER") as found:
        try_writing(config)
    assert others.owner() in str(found.value)


def test_read_only_files_of_the_site_are_no_fault(
    config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bundle or a config that lies in the data folder belongs to the site."""
    config.data_dir.mkdir()
    (config.data_dir / "limn.toml").touch()
    allowed = os.access
    monkeypatch.setattr(
        os, "access", lambda path, mode: Path(path).name != "limn.toml" and allowed(path, mode)
    )
    try_writing(config)


@pytest.mark.skipif(os.name != "posix", reason="POSIX modes")
@pytest.mark.parametrize("name", ["journal.sqlite", "numbers", "scans.csv", "watched.sqlite"])
def test_a_file_that_everybody_may_change_is_refused(config: Config, name: str) -> None:
    """The journal says where structure sets go; the others what a lost one knew."""
    config.data_dir.mkdir()
    (config.data_dir / name).touch()
    (config.data_dir / name).chmod(0o666)
    with pytest.raises(ConfigWrong, match=rf"file .*{name} can be changed by anybody"):
        try_writing(config)


@pytest.mark.skipif(os.name != "posix", reason="POSIX modes")
@pytest.mark.parametrize(("mode", "is_refused"), [(0o777, True), (0o1777, False), (0o755, False)])
def test_a_data_folder_that_anybody_may_replace_is_refused(
    config: Config, mode: int, is_refused: bool
) -> None:
    """In a folder above it that everybody may change, unless it is sticky as /tmp is."""
    config.data_dir.parent.chmod(mode)
    refusal = pytest.raises(ConfigWrong, match="in the place of data_dir")
    with refusal if is_refused else nullcontext():
        try_writing(config)
