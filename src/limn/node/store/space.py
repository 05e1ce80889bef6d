"""Whether a folder can be written, and whether its disk has room."""

from __future__ import annotations

import shutil
import tempfile

from limn.domain.errors import ConfigWrong
from limn.node.config import Config
from limn.node.permissions import make_private_folder

# What journal, certificates and log need at the first start.
LEAST_BYTES = 2**20


def try_writing(config: Config) -> None:
    """Write as much to the data folder as a start needs.

    Raises
    ------
    ConfigWrong
        If the folder can't be made or written, or its disk is full.
    """
    folder = config.data_dir
    try:
        make_private_folder(folder)
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"\0" * LEAST_BYTES)
            file.flush()
    except OSError as error:
        msg = (
            f"data_dir {folder} can't be written ({error.strerror}); free some space, or give the "
            "user that runs limn the right to write there"
        )
        raise ConfigWrong(msg) from error


def shortage(config: Config) -> str:
    """What the free space no longer allows, and the remedy; empty if there is room."""
    free_mb = shutil.disk_usage(config.data_dir).free // 2**20
    found = f"{config.data_dir} has {free_mb} MB free"
    if free_mb < config.receive.min_free_mb:
        return (
            f"{found}, receive.min_free_mb is {config.receive.min_free_mb}: no scan is taken "
            "(0xA700); free some space"
        )
    if free_mb < config.receive.refuse_free_mb:
        return (
            f"{found}, new associations are refused below {config.receive.refuse_free_mb} "
            "(receive.refuse_below_mb); free some space"
        )
    return ""
