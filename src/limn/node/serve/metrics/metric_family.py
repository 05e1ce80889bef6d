"""One metric as Prometheus reads it: name, type, meaning and samples.

The text format is that of https://prometheus.io/docs/instrumenting/exposition_formats/, 0.0.4.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field


@dataclass(slots=True)
class Family:
    """One metric with its samples, as the exposition format groups them."""

    name: str
    kind: str
    about: str
    samples: list[tuple[str, Mapping[str, str], float]] = field(default_factory=list)

    def add(self, value: float, suffix: str = "", **labels: str) -> None:
        """One sample; ``suffix`` is such as ``_sum``."""
        self.samples.append((suffix, labels, value))

    def lines(self) -> Iterator[str]:
        """The family as text."""
        yield f"# HELP {self.name} {self.about}"
        yield f"# TYPE {self.name} {self.kind}"
        for suffix, labels, value in self.samples:
            inner = ",".join(f'{name}="{_escaped(text)}"' for name, text in labels.items())
            yield f"{self.name}{suffix}{'{' + inner + '}' if inner else ''} {value!r}"


def _escaped(text: str) -> str:
    return text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
