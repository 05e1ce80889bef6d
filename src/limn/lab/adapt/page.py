"""The page of an adaptation: before and after, what was forgotten, the worst cases, advice."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from html import escape
from pathlib import Path

from matplotlib.figure import Figure

from limn.domain.files import replacement, write_durably
from limn.lab.adapt.scoring import (
    AFTER,
    BEFORE,
    LEFT_OUT,
    PHANTOMS,
    TESTED,
    AdaptScore,
    ScoredTrial,
    ensemble_of,
)
from limn.lab.adapt.verdict import RULE, OrganChange, Recommendation
from limn.lab.adapt.watch import Looks
from limn.lab.measure.evaluate import colours_of, delineate_or_miss
from limn.segment.bundle.bundle import Bundle
from limn.segment.draw.picture.legend import Banner, Legend
from limn.segment.draw.picture.sheet import draw_contours

PAGE, TABLE, CURVES = "adapt.html", "table.md", "learning.png"
WORST = 2
MEANING = {
    LEFT_OUT: "Each animal that teaches, contoured by those folds alone that never saw it, before "
    "and after. The folds chose their number of steps by these animals, so the gain is a little "
    "flattering.",
    TESTED: "Animals that no network has seen, contoured by all folds.",
    PHANTOMS: "Phantoms that no network has seen, with the phantoms' own contours: what was known.",
}
STYLE = """
:root { color-scheme: light dark; --ink: #1b1f24; --paper: #fff; --faint: #5c6670; --line: #d5dae0;
  --good: #1a7f37; --bad: #b42318; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e9ed; --paper: #15181c; --faint: #a3adb8;
  --line: #363c44; --good: #57c46f; --bad: #ff8a80; } }
body { font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper);
  max-width: 68rem; margin: 0 auto; padding: 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2rem; }
.advice { border-left: 6px solid; padding: .5rem 1rem; font-size: 1.15rem; }
.use { border-color: var(--good); } .do-not-use, .more-animals { border-color: var(--bad); }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .7rem; text-align: right; border-bottom: 1px solid var(--line);
  white-space: nowrap; }
th:first-child, td:first-child { text-align: left; } .faint { color: var(--faint); }
img { max-width: 100%; height: auto; } figure { margin: 1rem 0; }
"""


@dataclass(frozen=True, slots=True)
class AdaptResult:
    """Everything that the page says.

    Attributes
    ----------
    looks : of each fold
    notes : sentences about data and training
    """

    old: Bundle
    new: Bundle
    found: Sequence[OrganChange]
    advice: Recommendation
    looks: Mapping[int, Looks]
    notes: Sequence[str]


def write_page(
    folder: Path,
    result: AdaptResult,
    trials: Sequence[ScoredTrial],
    scores: Sequence[AdaptScore],
    report: Callable[[str], None],
) -> Path:
    """Write the page, its table as Markdown, and its pictures."""
    write_durably(folder / TABLE, markdown(result).encode())
    draw_looks(result.looks, folder / CURVES)
    pictures = draw_worst(folder, result, trials, scores)
    write_durably(folder / PAGE, _html(result, pictures).encode())
    report(f"{folder / PAGE} written")
    return folder / PAGE


def cells(change: OrganChange) -> tuple[str, ...]:
    """The cells of a row: organ, animals, before, after, gain, interval, worst."""
    interval = f"{change.low:+.3f} to {change.high:+.3f}" if change.low == change.low else "-"
    if change.before is None:
        return (
            str(change.organ),
            str(change.animals),
            "unknown",
            f"{change.after:.3f}",
            "-",
            "-",
            f"{change.worst:.3f}",
        )
    return (
        str(change.organ),
        str(change.animals),
        f"{change.before:.3f}",
        f"{change.after:.3f}",
        f"{change.gain:+.3f}",
        interval,
        f"{change.worst:.3f}",
    )


HEADINGS = ("organ", "animals", "DSC before", "DSC after", "gain", "95 % interval", "worst animal")


def markdown(result: AdaptResult) -> str:
    """The advice and the tables as Markdown."""
    lines = [result.advice.sentence, "", f"Rule: {RULE}"]
    for group in dict.fromkeys(change.group for change in result.found):
        lines += ["", f"**{group}**", "", f"| {' | '.join(HEADINGS)} |"]
        lines.append("|" + "---|" * len(HEADINGS))
        lines += [f"| {' | '.join(cells(own))} |" for own in result.found if own.group == group]
    return "\n".join(lines) + "\n"


def draw_looks(looks: Mapping[int, Looks], path: Path) -> None:
    """Draw what each fold reached on its left-out animals and on phantoms, step by step."""
    figure = Figure(figsize=(9.0, 3.4), layout="constrained")
    for place, what in enumerate(("site", "phantoms"), start=1):
        axes = figure.add_subplot(1, 2, place)
        for fold, own in looks.items():
            seen = [look for look in own.taken if getattr(look, what)]
            means = [sum(getattr(k, what).values()) / len(getattr(k, what)) for k in seen]
            line = axes.plot([look.step for look in seen], means, marker=".", label=f"fold {fold}")
            axes.axvline(own.best.step, color=line[0].get_color(), linewidth=0.6, linestyle=":")
        axes.set_title("left-out animals" if what == "site" else "watched phantoms")
        axes.set_xlabel("steps (dotted: kept)")
        axes.set_ylabel("mean DSC of the organs")
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    with replacement(path, ".png") as part:
        figure.savefig(part, dpi=110, metadata={"Software": None})


def draw_worst(
    folder: Path,
    result: AdaptResult,
    trials: Sequence[ScoredTrial],
    scores: Sequence[AdaptScore],
) -> list[tuple[str, list[str]]]:
    """Draw the animals' scans with the lowest mean DSC after, by the old, the new and a person.

    Returns
    -------
    A caption and three files for each.
    """
    drawn: list[tuple[str, list[str]]] = []
    for each, mean in worst_trials(trials, scores):
        scan = each.trial.make()
        labels = [
            (BEFORE, delineate_or_miss(scan, ensemble_of(result.old, each.folds)).labels),
            (AFTER, delineate_or_miss(scan, ensemble_of(result.new, each.folds)).labels),
            ("contoured by a person", scan.truth),
        ]
        files = []
        for what, own in labels:
            name = f"worst-{len(drawn) + 1}-{what.split()[0]}.png"
            colours = colours_of(own.organs.values())
            picture = draw_contours(
                scan.volume,
                own,
                colours,
                Banner(f"{each.trial.scan} {what}"),
                Legend(own.volumes_mm3()),
            )
            write_durably(folder / name, picture)
            files.append(name)
        drawn.append((f"{each.trial.scan} ({each.trial.group}): mean DSC {mean:.3f} after", files))
    return drawn


def worst_trials(
    trials: Sequence[ScoredTrial], scores: Sequence[AdaptScore]
) -> list[tuple[ScoredTrial, float]]:
    """The scans of animals that the new bundle contours worst."""
    means = {}
    for each in trials:
        own = [
            score.dsc
            for score in scores
            if score.when == AFTER
            and (score.group, score.scan) == (each.trial.group, each.trial.scan)
        ]
        if own and each.trial.group != PHANTOMS:
            means[each] = sum(own) / len(own)
    return sorted(means.items(), key=lambda pair: pair[1])[:WORST]


def _html(result: AdaptResult, pictures: Sequence[tuple[str, list[str]]]) -> str:
    advice = result.advice
    parts = [
        "<!doctype html><html lang='en'><head><meta charset='utf-8'>",
        "<meta name='viewport' content='width=device-width, initial-scale=1'>",
        f"<title>{escape(result.new.label)}</title><style>{STYLE}</style></head><body>",
        f"<h1>{escape(result.old.label)} adapted: {escape(result.new.label)}</h1>",
        f"<p class='advice {advice.advice.replace(' ', '-')}'>{escape(advice.sentence)}</p>",
        f"<p class='faint'>The rule: {escape(RULE)}</p>",
    ]
    for group in dict.fromkeys(change.group for change in result.found):
        parts += [f"<h2>{escape(group.capitalize())}</h2><p>{escape(MEANING[group])}</p>"]
        parts.append("<div class='scroll'><table><thead><tr>")
        parts += [f"<th scope='col'>{escape(name)}</th>" for name in HEADINGS]
        parts.append("</tr></thead><tbody>")
        for own in result.found:
            if own.group == group:
                row = "".join(f"<td>{escape(cell)}</td>" for cell in cells(own))
                parts.append(f"<tr>{row}</tr>")
        parts.append("</tbody></table></div>")
    parts.append(f"<h2>How it learnt</h2><figure><img src='{CURVES}' ")
    parts.append(
        "alt='mean DSC of each fold on left-out animals and on phantoms, by steps'></figure>"
    )
    parts += [f"<p>{escape(note)}</p>" for note in result.notes]
    parts.append("<h2>The worst scans</h2>")
    for caption, files in pictures:
        parts.append(f"<h3>{escape(caption)}</h3>")
        for name, what in zip(files, ("before", "after", "the person's contours"), strict=True):
            parts.append(f"<figure><figcaption>{what}</figcaption>")
            parts.append(f"<img src='{name}' alt='{escape(caption)}, {what}'></figure>")
    when = datetime.now().astimezone()
    parts.append(
        f"<p class='faint'>Bundle {escape(result.new.label)}, sha256 {result.new.sha256}; from "
        f"{escape(result.old.label)}, sha256 {result.old.sha256}. {when:%Y-%m-%d %H:%M}.</p>"
    )
    return "\n".join([*parts, "</body></html>"]) + "\n"
