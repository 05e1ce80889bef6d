"""The receiver process: Storage SCP, watched folder, intake and retention, joined."""

from __future__ import annotations

import threading
import time
from pathlib import Path

from limn.node import oplog
from limn.node.config import Config, load_config
from limn.node.contour.site_bundle import deliverable_bundle
from limn.node.deliver.commitment_scu import CommitmentRequester
from limn.node.host import lifetime
from limn.node.host.doorbell import send_wake
from limn.node.host.lifetime import run_until_stopped, stop_on_signal
from limn.node.receive.awaiting import ReceivingFile
from limn.node.receive.commitment_scp import CommitmentProvider
from limn.node.receive.completeness import Rules
from limn.node.receive.folder.taken_files import TakenFiles
from limn.node.receive.folder.watched_folder import FolderWatch
from limn.node.receive.handover import Handover
from limn.node.receive.images.image_watch import ImageWatch
from limn.node.receive.intake import Intake
from limn.node.receive.storage_scp import listen
from limn.node.serve.journal_watch import end_if_replaced
from limn.node.store.disk.commission import destinations_of, why_no_phantom
from limn.node.store.disk.contacts import read_senders
from limn.node.store.disk.receiving import ReceivingSeries
from limn.node.store.disk.spool import Spool
from limn.node.store.journal.journal import Journal
from limn.node.store.retention import Retention

LAST_SETTLE_S = 10.0
JOURNAL_WAIT_S = 0.5


def run_receiver(config_path: Path) -> None:
    """Receive by the Storage SCP and the watched folder until the supervisor stops this process."""
    config = load_config(config_path)
    oplog.set_up(config.data_dir, "receiver", config.log)
    stopping = stop_on_signal()
    # Set last: instances that arrive while limn stops are still taken in and handed over.
    shut = threading.Event()
    lifetime.end_with_supervisor()
    # While it waits for the journal, no slice is taken.
    journal = Journal(config.journal_path, JOURNAL_WAIT_S)
    end_if_replaced(journal, shut)
    spool = Spool(
        config.spool_dir,
        config.receive.min_free_mb * 2**20,
        config.receive.max_spool_mb and config.receive.max_spool_mb * 2**20,
    )
    rules = Rules(
        config.settle.min_slices,
        config.settle.settle_s,
        config.settle.hold_s,
        config.settle.expected_slices,
    )
    names = [destination.name for destination in config.destination]
    handover = Handover(
        spool,
        journal,
        destinations=lambda animal: destinations_of(
            animal, names, config.commissioning_path, time.time()
        ),
        unwelcome=lambda animal, series: why_no_phantom(
            animal, series, config.commissioning_path, time.time()
        ),
        profile=config.planning_system.profile,
        bundle_sha256=deliverable_bundle(config).sha256,
        wake=lambda: send_wake(config),
    )
    intake = Intake(spool, journal, rules, handover)
    intake.senders.go_on_with(read_senders(config.senders_path))
    intake.recover()
    server = listen(
        config.receive,
        intake,
        config.settle.settle_s,
        CommitmentProvider(
            spool, intake.damaged, config.receive.commitment, config.receive.ae_title
        ),
        CommitmentRequester(journal, config.destination, config.receive.ae_title).on_n_event_report,
    )
    threads = _threads(config, intake, spool, Retention(config, journal, intake.clear), shut)
    run_until_stopped(threads, stopping)
    intake.node_stopping()
    server.shutdown()
    # A series that has just arrived is complete once nothing new has come for settle_s.
    until_s = time.monotonic() + min(config.settle.settle_s + 0.5, LAST_SETTLE_S)
    while intake.settle() and time.monotonic() < until_s:
        time.sleep(0.05)
    shut.set()
    for thread in threads:
        thread.join()
    journal.close()


def _threads(
    config: Config, intake: Intake, spool: Spool, retention: Retention, shut: threading.Event
) -> list[threading.Thread]:
    shown = ReceivingFile(config.receiving_path, intake.begun, lambda: send_wake(config))
    watch, images = _watches(config, intake, spool)

    def receiving() -> list[ReceivingSeries]:
        return [*intake.receiving(), *(() if images is None else images.shown())]

    threads = [
        threading.Thread(target=intake.run, args=(shut,), name="settle"),
        threading.Thread(target=retention.run, args=(shut,), name="retention"),
        threading.Thread(target=shown.run, args=(receiving, shut), name="receiving"),
        threading.Thread(
            target=intake.senders.run, args=(config.senders_path, shut), name="senders"
        ),
    ]
    if watch is not None:
        threads.append(threading.Thread(target=watch.run, args=(shut,), name="watch"))
    return threads


def _watches(
    config: Config, intake: Intake, spool: Spool
) -> tuple[FolderWatch | None, ImageWatch | None]:
    """The watch of the folder, and that of the images in it, if the site wants them."""
    settings = config.watch
    if settings is None:
        return None, None
    images, taken = None, TakenFiles(config.data_dir / "watched.sqlite")
    if settings.formats:
        images = ImageWatch(settings, intake, spool, taken, config.settle.hold_s, config.images_dir)
    max_bytes = config.receive.max_instance_mb * 2**20
    return FolderWatch(settings, intake, taken, max_bytes, images), images
