"""What every group of commands shares: the exit codes, and where it adds its commands."""

from __future__ import annotations

import argparse
from typing import TypeAlias

Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"

EXIT_WRONG = 1
EXIT_USAGE = 2
