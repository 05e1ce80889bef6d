"""The exit codes, and the type of argparse to which each group adds its commands."""

from __future__ import annotations

import argparse
from typing import TypeAlias

Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"

EXIT_WRONG = 1
EXIT_USAGE = 2
