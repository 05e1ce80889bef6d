"""Metrics of scans, destinations and senders: from the journal and the notes on peers."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

from limn.node.config import Config
from limn.node.deliver.destinations import Failure
from limn.node.dimse.access import RefusalReason
from limn.node.serve.destinations import DestinationState, destination_states
from limn.node.serve.metrics.metric_family import Family
from limn.node.store.disk.contacts import read_senders
from limn.node.store.journal.reader import JournalReader


def of_register(config: Config, journal: JournalReader) -> Iterator[Family]:
    """What the journal knows of scans and destinations."""
    now = time.time()
    scans = Family("limn_scans", "gauge", "Scans in the journal by state.")
    for state, kind, count in journal.scan_counts():
        scans.add(count, state=state, kind=kind)
    yield scans
    yield from _of_workload(journal, now)
    yield from _of_destinations(destination_states(config, journal), config, now)
    held = Family("limn_structure_sets_held", "gauge", "Structure sets a person must look at.")
    held.add(len(journal.on_hold()))
    yield held
    held_at = journal.oldest_held_at()
    yield _single(
        "limn_oldest_held_seconds",
        "How long a structure set has been held until a person looks; 0 if none is.",
        0.0 if held_at is None else max(0.0, now - held_at),
    )
    yield _single(
        "limn_last_scan_timestamp_seconds",
        "When the last scan's last slice came, UTC.",
        journal.last_slice_at() or 0,
    )
    yield from _of_returned(journal)


def _of_returned(journal: JournalReader) -> Iterator[Family]:
    returned = Family(
        "limn_structure_sets_returned",
        "gauge",
        "Structure sets that came back: accepted as they were, edited, or not measured and why.",
    )
    for state, count in journal.returned_counts().items():
        returned.add(count, state=state)
    drift = Family(
        "limn_contours_drift",
        "gauge",
        "1 if on some scanner the last contours of an ROI were corrected more than the first.",
    )
    worse: dict[str, bool] = {}
    for each in journal.drifts():
        worse[each.roi] = worse.get(each.roi, False) or each.since is not None
    for roi, is_worse in worse.items():
        drift.add(int(is_worse), roi=roi)
    yield from (returned, drift)


def _of_workload(journal: JournalReader, now: float) -> Iterator[Family]:
    waiting = Family("limn_scans_waiting", "gauge", "Scans that wait for a worker.")
    running = Family("limn_scans_running", "gauge", "Scans that a worker contours now.")
    counts = journal.ready_counts()
    for kind in ("live", "cohort"):
        waiting.add(counts.get((kind, False), 0), kind=kind)
        running.add(counts.get((kind, True), 0), kind=kind)
    yield waiting
    yield running
    ready_at = journal.oldest_ready_at()
    yield _single(
        "limn_oldest_ready_seconds",
        "How long a live scan waits for a worker; one that is contoured does not wait.",
        0.0 if ready_at is None else max(0.0, now - ready_at),
    )


def _of_destinations(
    destinations: Sequence[DestinationState], config: Config, now: float
) -> Iterator[Family]:
    states = Family("limn_deliveries", "gauge", "Structure sets by destination and state.")
    oldest = Family(
        "limn_oldest_waiting_seconds",
        "gauge",
        "How long a structure set, contoured or released, waits for a destination.",
    )
    accepted = Family(
        "limn_destination_last_accepted_timestamp_seconds",
        "gauge",
        "When a destination last took a file, UTC; 0 if it never did.",
    )
    failing = Family(
        "limn_destination_failing_seconds",
        "gauge",
        "How long a destination has taken nothing although something waits for it.",
    )
    down = Family(
        "limn_destination_down",
        "gauge",
        "1 if that is longer than health.destination_limit_s, else 0.",
    )
    failures = Family(
        "limn_delivery_failures_total", "counter", "Tries after which a file was not taken, by why."
    )
    for each in destinations:
        name = each.name
        for state, count in ({"waiting": 0} | each.counts).items():
            states.add(count, destination=name, state=state)
        oldest.add(each.waiting_s(now), destination=name)
        accepted.add(each.accepted_at, destination=name)
        failing.add(each.down_s(now), destination=name)
        down.add(int(each.down_s(now) > config.health.destination_limit_s), destination=name)
        for why in Failure:
            if why is not Failure.NONE:
                failures.add(each.contact.failures.get(why, 0), destination=name, kind=why)
    yield from (states, oldest, accepted, failing, down, failures)


def of_door(config: Config) -> Iterator[Family]:
    """What came to the port, whoever sent it."""
    figures = read_senders(config.senders_path)
    yield _single(
        "limn_instances_received_total",
        "Instances that were stored over DICOM.",
        figures.stored,
        "counter",
    )
    yield _single(
        "limn_instances_refused_total",
        "Instances that came over DICOM and were not taken.",
        figures.not_stored,
        "counter",
    )
    refused = Family(
        "limn_associations_refused_total",
        "counter",
        "Associations and connections that were refused, by why.",
    )
    for why in RefusalReason:
        refused.add(figures.refused.get(why, 0), reason=why)
    yield refused


def _single(name: str, about: str, value: float, kind: str = "gauge") -> Family:
    family = Family(name, kind, about)
    family.add(value)
    return family
