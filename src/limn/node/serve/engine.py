"""The engine process: dispatch and one courier for each destination, joined."""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from pathlib import Path

from limn.node import oplog
from limn.node.config import Config, load_config
from limn.node.contour.dispatch import Dispatcher
from limn.node.contour.edits.watch import EditWatch
from limn.node.contour.site_bundle import deliverable_bundle
from limn.node.deliver.courier import Courier
from limn.node.host import engine_tls, lifetime
from limn.node.host.doorbell import listen_for_wakes
from limn.node.host.lifetime import run_until_stopped, stop_on_signal
from limn.node.serve.journal_watch import end_if_replaced
from limn.node.store.disk.contacts import DestinationContacts
from limn.node.store.journal.journal import Journal
from limn.node.store.remedies import hold_notice, quarantine_notice

log = logging.getLogger(__name__)


def run_engine(config_path: Path) -> None:
    """Dispatch and delivery, until the supervisor stops them."""
    config = load_config(config_path)
    oplog.set_up(config.data_dir, "engine", config.log)
    # The dispatcher logs once that the scheduler is away; Dask would log a stack each time.
    for chatty in ("distributed.utils", "distributed.client"):
        logging.getLogger(chatty).setLevel(logging.CRITICAL)
    stopping = stop_on_signal()
    lifetime.end_with_supervisor()
    journal = Journal(config.journal_path)
    end_if_replaced(journal, stopping)
    wanted = {each.name: each.later_forms for each in config.destination}
    if count := journal.forget_unwanted(wanted):
        log.info("%d segmentations that waited are asked for no more (forms)", count)
    contacts = DestinationContacts(config.destinations_path)
    couriers = [
        Courier(
            destination,
            journal,
            config.scan_log_path,
            config.receive.ae_title,
            keeps_scan_log=number == 0,
            contacts=contacts,
        )
        # The first keeps the scan log; the last has nothing to do until the site is commissioned.
        for number, destination in enumerate(
            (*config.destination, config.commissioning_destination)
        )
    ]

    def contoured() -> None:
        for courier in couriers:
            courier.wake()

    _log_scans_for_people(journal, config, config_path)
    dispatcher = Dispatcher(
        config,
        config_path,
        journal,
        config.engine.address,
        engine_tls.security_of(config),
        deliverable_bundle(config),
        contoured,
        stopping,
    )
    wakes = (config, dispatcher.wake, stopping)
    threads = [
        threading.Thread(target=dispatcher.run, name="dispatch"),
        threading.Thread(target=listen_for_wakes, args=wakes, name="wake"),
        threading.Thread(target=EditWatch(config, journal).run, args=(stopping,), name="edits"),
    ]
    _run(threads, couriers, stopping)
    journal.close()


def _log_scans_for_people(journal: Journal, config: Config, config_path: Path) -> None:
    """Log at every start which scans wait for a person: nobody would remember them."""
    for row in journal.on_hold():
        line = hold_notice(journal, row, config, config_path)
        log.warning("%s animal %s %s", row.name, row.animal, line)
    for row in journal.quarantined():
        log.error("%s animal %s %s", row.name, row.animal, quarantine_notice(row, config_path))


def _run(
    threads: Sequence[threading.Thread], couriers: Sequence[Courier], stopping: threading.Event
) -> None:
    """Run the couriers until the other threads have ended, so that their last results go out."""
    dispatched = threading.Event()
    carriers = [
        threading.Thread(target=courier.run, args=(dispatched,), name="courier")
        for courier in couriers
    ]
    for thread in carriers:
        thread.start()
    run_until_stopped(threads, stopping, carriers)
    for thread in threads:
        thread.join()
    dispatched.set()
    for thread in carriers:
        thread.join()
    for courier in couriers:
        courier.work()
