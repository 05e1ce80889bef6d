"""Twenty senders as they are, all at once, at one receiver: one scan each, no stub and none lost.

Each sender is drawn from the seed: 0.01 to 5 s a slice; one association, one for each slice, or one
for a few; pauses; an association that breaks off between two slices or within one, and its
slices sent again; the whole series sent again. A sender with one association and a steady
pace must not wait: its scan is in the journal, and the engine woken, 0.7 s after its last slice.

PYTHONPATH=. python bench/senders.py
"""

from __future__ import annotations

import argparse
import io
import logging
import random
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from pydicom.dataset import FileDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian
from pynetdicom import AE
from pynetdicom.association import Association
from pynetdicom.dimse_messages import C_STORE_RQ
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.dsutils import encode

from bench.receive import CONFIG, wait_for_port
from tests.conftest import BUNDLE, free_port
from tests.support.node.parts import only_sends, slices, write_slices
from tests.support.node.running import ENVIRONMENT

COUNT = 24
# Of a sender that keeps one association at a steady pace.
LONGEST_WAIT_S = 0.7
# settle.hold_s is 30 s: after it nothing waits any more.
LAST_WAIT_S = 40.0


@dataclass(frozen=True)
class Pace:
    """How one sender sends; times in s.

    Attributes
    ----------
    slice_s : from one slice to the next, varied by half
    chunk : slices for each association
    long_pause : one pause in ten is so many times as long
    break_at : an association breaks off after this slice; then its slices are sent again
    within : it breaks off within the next slice
    again_s : the whole series is sent again so long after its end
    storescu : dcmtk's, at its own pace
    """

    slice_s: float
    chunk: int
    long_pause: float
    break_at: int | None
    within: bool
    again_s: float | None
    storescu: bool

    @property
    def is_steady(self) -> bool:
        """Whether it keeps one association and does nothing unusual."""
        return self.chunk == COUNT and self.break_at is None and self.again_s is None

    def __str__(self) -> str:
        if self.storescu:
            return "storescu"
        many = "one association" if self.chunk == COUNT else f"{self.chunk} an association"
        parts = [f"{self.slice_s:.2f} s a slice", many]
        if self.break_at is not None:
            parts.append(f"breaks off {'within' if self.within else 'after'} {self.break_at}")
        if self.again_s is not None:
            parts.append("sent again")
        return ", ".join(parts)


def paces(seed: int, count: int) -> Iterator[Pace]:
    """Two in five keep one association; every tenth is dcmtk's."""
    for number in range(count):
        chance = random.Random(f"{seed} {number}")  # noqa: S311 - no secret
        slice_s = 10 ** chance.uniform(-2, 0.7)
        one = number % 5 in {0, 1}
        breaks = number % 5 in {1, 3} and number % 2
        yield Pace(
            slice_s=slice_s,
            chunk=COUNT if one else chance.choice([1, 1, 2, 5]),
            long_pause=chance.uniform(1.0, min(3.0, 16.0 / slice_s)),
            break_at=chance.randrange(4, COUNT - 1) if breaks else None,
            within=chance.random() < 0.5,
            again_s=chance.uniform(0.2, 8.0) if number % 7 == 4 else None,
            storescu=number % 10 == 0,
        )


class Sender(threading.Thread):
    """One scanner with a series.

    Attributes
    ----------
    last_at : when its last slice was answered with Success, UTC s
    faults : what went otherwise than it should
    """

    def __init__(self, number: int, pace: Pace, port: int, folder: Path, seed: int) -> None:
        super().__init__(name=f"sender-{number}")
        self.pace = pace
        self.animal = f"M{number}"
        self.last_at = 0.0
        self.faults: list[str] = []
        self._port = port
        self._folder = folder / self.animal
        self._series = slices(str(number), COUNT)
        self._chance = random.Random(f"{seed} {number} sends")  # noqa: S311 - no secret
        self._ae = AE(ae_title=f"SENDER{number:02d}")
        self._ae.add_requested_context(CTImageStorage, ExplicitVRLittleEndian)

    def run(self) -> None:
        """Send the series, and again if it is one that does."""
        try:
            if self.pace.storescu:
                self._run_storescu()
            else:
                self._send()
            if self.pace.again_s is not None:
                time.sleep(self.pace.again_s)
                association = self._associate()
                for ds in self._series:
                    self._store(association, ds)
                association.release()
        except Exception as error:  # noqa: BLE001 - shown with the sender
            self.faults.append(repr(error))

    def _run_storescu(self) -> None:
        write_slices(self._folder, self._series)
        subprocess.run(
            [
                *("/usr/bin/storescu", "-aet", str(self._ae.ae_title), "-aec", "LIMN"),
                *("127.0.0.1", str(self._port), "+sd", str(self._folder)),
            ],
            env=ENVIRONMENT,
            check=True,
        )
        self.last_at = time.time()

    def _send(self) -> None:
        for start in range(0, COUNT, self.pace.chunk):
            end = min(COUNT, start + self.pace.chunk)
            association = self._associate()
            for number in range(start, end):
                self._store(association, self._series[number])
                if number == self.pace.break_at:
                    association = self._break_off(association, start, number)
                if number < end - 1:
                    self._rest()
            association.release()
            if end < COUNT:
                self._rest()

    def _rest(self) -> None:
        long = self.pace.long_pause if self._chance.random() < 0.1 else 1.0
        time.sleep(self.pace.slice_s * self._chance.uniform(0.5, 1.5) * long)

    def _break_off(self, association: Association, start: int, number: int) -> Association:
        """Break off after a slice, or in the middle of the next; send its slices again."""
        if self.pace.within:
            if self.pace.chunk == 1:
                association.release()
                association = self._associate()
            _send_part(association, self._series[number + 1])
        association.abort()
        time.sleep(self._chance.uniform(1.0, 15.0))
        association = self._associate()
        for again in range(start, number + 1):
            self._store(association, self._series[again])
        return association

    def _associate(self) -> Association:
        association = only_sends(
            self._ae.associate("127.0.0.1", self._port, ae_title="LIMN", max_pdu=131072)
        )
        if not association.is_established:
            self.faults.append("no association")
        return association

    def _store(self, association: Association, ds: FileDataset) -> None:
        status = association.send_c_store(ds).get("Status")
        if status != 0:
            self.faults.append(f"answered {status}")
        self.last_at = time.time()


def _send_part(association: Association, ds: FileDataset) -> None:
    request = C_STORE()
    request.MessageID, request.Priority = 1, 2
    request.AffectedSOPClassUID = ds.SOPClassUID
    request.AffectedSOPInstanceUID = ds.SOPInstanceUID
    contents = encode(ds, is_implicit_vr=False, is_little_endian=True)
    assert contents is not None  # noqa: S101 - encode says why otherwise
    request.DataSet = io.BytesIO(contents)
    message = C_STORE_RQ()
    message.primitive_to_message(request)
    (context,) = association.accepted_contexts
    assert context.context_id is not None  # noqa: S101 - it was accepted
    command, first, *_ = message.encode_msg(context.context_id, 700)
    for part in (command, first):
        association.dul.send_pdu(part)
    time.sleep(0.2)


def scans(journal: Path) -> dict[str, list[tuple[str, int, float]]]:
    """State, number of slices and time of hand-over of each animal's scans."""
    found: dict[str, list[tuple[str, int, float]]] = {}
    with closing(sqlite3.connect(f"{journal.as_uri()}?mode=ro", uri=True)) as db:
        for animal, *scan in db.execute(
            "select animal, state, json_array_length(files), ready_at from scan "
            "join scan_files on scan_files.scan = scan.id order by scan.id"
        ):
            found.setdefault(animal, []).append((scan[0], scan[1], scan[2]))
    return found


def report(senders: list[Sender], found: dict[str, list[tuple[str, int, float]]]) -> bool:
    """Print a line for each sender and the sums; whether all is as it must be."""
    sound, waits = True, []
    for sender in senders:
        mine = found.get(sender.animal, [])
        whole = [(state, count) for state, count, _ in mine] == [("ready", COUNT)]
        wait_s = mine[-1][2] - sender.last_at if mine else float("nan")
        good = whole and not sender.faults
        if sender.pace.is_steady and mine:
            waits.append(wait_s)
            good &= wait_s < LONGEST_WAIT_S
        sound &= good
        shown = ", ".join(f"{state} of {count}" for state, count, _ in mine) or "none"
        timed = f"  {wait_s:.2f} s after its last slice" if sender.pace.again_s is None else ""
        faults = "".join(f"  {fault}" for fault in sender.faults)
        print(
            f"{'ok ' if good else 'BAD'} {sender.animal:4} {sender.pace!s:62} "
            f"{shown}{timed}{faults}"
        )
    counts = [len(found.get(sender.animal, [])) for sender in senders]
    print(
        f"{len(senders)} senders: {sum(counts)} scans, {counts.count(0)} lost, "
        f"{sum(each > 1 for each in counts)} with more than one, "
        f"{sum(c < COUNT for each in found.values() for _, c, _ in each)} not whole"
    )
    print(
        f"last slice to dispatch, {len(waits)} senders of one association and a steady pace: "
        f"{', '.join(f'{each:.2f}' for each in sorted(waits))} s, at most {LONGEST_WAIT_S} allowed"
    )
    return sound and len(found) == len(senders)


def run(folder: Path, seed: int, count: int) -> bool:
    """All senders at once at one receiver process."""
    port = free_port()
    (folder / "node.toml").write_text(CONFIG.format(port=port, bundle=BUNDLE))
    receiver = subprocess.Popen(
        [
            *(sys.executable, "-m", "limn.cli", "serve", "--only", "receiver", "--child"),
            *("--config", str(folder / "node.toml")),
        ],
        stdin=subprocess.PIPE,
        stderr=(folder / "receiver.log").open("wb"),
    )
    try:
        wait_for_port(port)
        senders = [
            Sender(number, pace, port, folder, seed)
            for number, pace in enumerate(paces(seed, count))
        ]
        for sender in senders:
            sender.start()
        for sender in senders:
            sender.join()
        time.sleep(LAST_WAIT_S)
        return report(senders, scans(folder / "data" / "journal.sqlite"))
    finally:
        receiver.terminate()
        receiver.wait()


def main() -> int:
    """1 if a sender has not exactly one whole scan, or a steady one waits too long."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--senders", type=int, default=20)
    options = parser.parse_args()
    logging.getLogger("pynetdicom").setLevel(logging.CRITICAL)
    with tempfile.TemporaryDirectory(prefix="limn-senders-") as name:
        began_s = time.monotonic()
        sound = run(Path(name).resolve(), options.seed, options.senders)
        print(f"seed {options.seed}: {time.monotonic() - began_s:.0f} s")
    return 0 if sound else 1


if __name__ == "__main__":
    sys.exit(main())
