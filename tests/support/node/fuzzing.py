"""Mutated PDUs at the socket, mutated data sets at the intake and at the worker's decoder.

Required: no exception leaves the receiver, no case takes longer than its limit, memory stays flat,
and a good series that is sent afterwards is complete. Every case follows from the seed and its
number; a case that fails is written to the working folder.
"""

from __future__ import annotations

import contextlib
import faulthandler
import logging
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psutil
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.sequence import Sequence as Items
from pydicom.uid import (
    CTImageStorage,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    RLELossless,
)
from pynetdicom import AE, evt
from pynetdicom.sop_class import Verification  # type: ignore[attr-defined]

from limn.dicom.series import assemble
from limn.dicom.volume import read_headers, read_volume
from limn.domain.errors import RefusedSeries
from limn.node.config import Receive
from limn.node.receive.gathering import Source
from limn.node.receive.storage_scp import listen
from tests.conftest import REPOSITORY
from tests.support.node.parts import COUNT, Door, encoded, only_sends, slices, until

SLOWEST_S = 10.0
GROWTH_MB = 150
HEADER_BYTES = 2048
NUMBERS = (b"\x00", b"\x01", b"\x7f", b"\x80", b"\xff", b"\xff\xff\xff\xff", b"\x00\x00\x00\x80")
WORDS = (
    b"SQ\0\0\xff\xff\xff\xff",
    b"\xfe\xff\x00\xe0\xff\xff\xff\xff",
    b"\xfe\xff\xdd\xe0\0\0\0\0",
    b"\x08\x00\x05\x00CS\x0a\0ISO 2022 IR",
    b"../../../etc/passwd",
    b"1.2.840.10008.1.2.1.99\0",
    b"NaN ",
    b"1e999",
    b"\\" * 64,
)


@dataclass
class Tally:
    """The results of one phase."""

    name: str
    cases: int = 0
    answers: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    slowest_s: float = 0.0
    began_s: float = field(default_factory=time.monotonic)
    first_mb: float = 0.0
    last_mb: float = 0.0

    def line(self) -> str:
        """A summary in one line."""
        answers = ", ".join(f"{count} {name}" for name, count in self.answers.most_common(6))
        return (
            f"{self.name:<8} {self.cases:>7} cases in {time.monotonic() - self.began_s:6.0f} s, "
            f"slowest {self.slowest_s * 1000:5.0f} ms, memory {self.first_mb:.0f} -> "
            f"{self.last_mb:.0f} MB, {len(self.failures)} failures; {answers}"
        )


@dataclass(frozen=True)
class Limits:
    """The end of a phase: after so many cases, or at this time (monotonic)."""

    cases: int
    until_s: float

    def numbers(self) -> Iterator[int]:
        """Case numbers until the end."""
        for number in range(self.cases):
            if time.monotonic() >= self.until_s:
                return
            yield number


def mutated(chance: random.Random, contents: bytes, others: list[bytes]) -> bytes:
    """Some of the bytes changed, moved, cut, or taken from elsewhere."""
    found = bytearray(contents)
    for _ in range(chance.choice((1, 1, 1, 2, 3, 8, 30))):
        # Headers more often than pixels.
        reach = len(found) if chance.random() < 0.3 else min(len(found), HEADER_BYTES)
        at = chance.randrange(max(1, reach))
        kind = chance.randrange(8)
        if kind == 0 and found:
            found[min(at, len(found) - 1)] ^= 1 << chance.randrange(8)
        elif kind == 1:
            number = chance.choice(NUMBERS)
            found[at : at + len(number)] = number
        elif kind == 2:
            word = chance.choice(WORDS)
            found[at : at + len(word)] = word
        elif kind == 3:
            found[at:at] = chance.randbytes(chance.choice((1, 2, 8, 200)))
        elif kind == 4:
            del found[at : at + chance.choice((1, 2, 8, 200))]
        elif kind == 5:
            length = chance.choice((2, 8, 64, 512))
            found[at:at] = found[at : at + length] * chance.choice((1, 2, 50))
        elif kind == 6 and chance.random() < 0.3:
            del found[at:]
        elif kind == 7:
            other = chance.choice(others)
            start = chance.randrange(len(other))
            length = chance.choice((4, 16, 256))
            found[at : at + length] = other[start : start + length]
    return bytes(found)


def corpus() -> list[list[bytes]]:
    """Small series as files, in every encoding that matters."""
    found = []
    for syntax in (
        ExplicitVRLittleEndian,
        ImplicitVRLittleEndian,
        DeflatedExplicitVRLittleEndian,
        RLELossless,
        JPEGLSLossless,
        JPEG2000Lossless,
    ):
        series = []
        for ds in slices(str(len(found) + 1), 4):
            _decorate(ds)
            series.append(_encoded_as(ds, syntax))
        found.append(series)
    return found


def _decorate(ds: Dataset) -> None:
    """Add sequences, private elements and text, so that there is more to damage."""
    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = CTImageStorage, "1.2.3"
    inner = Dataset()
    inner.ReferencedImageSequence = Items([item])
    ds.ReferencedImageSequence = Items([item, inner])
    ds["ReferencedImageSequence"].is_undefined_length = True
    ds.SpecificCharacterSet, ds.PatientName = "ISO_IR 192", "Maus^Käthe"
    ds.ImagesInAcquisition = "4"
    ds.add_new(0x00091010, "LO", "LIMN")
    ds.add_new(0x00091011, "OB", bytes(64))


def _encoded_as(ds: Dataset, syntax: str) -> bytes:
    if syntax in {RLELossless, JPEGLSLossless, JPEG2000Lossless}:
        if syntax == RLELossless:
            ds.compress(syntax, generate_instance_uid=False)
        else:
            _compress(ds, syntax)
    ds.file_meta.TransferSyntaxUID = syntax
    return encoded(ds)


def _compress(ds: Dataset, syntax: str) -> None:
    import imagecodecs  # noqa: PLC0415 - a wheel that tests may be without

    pixels = ds.pixel_array.astype("uint16")
    if syntax == JPEG2000Lossless:
        code = imagecodecs.jpeg2k_encode(pixels, codecformat="j2k")
    else:
        code = imagecodecs.jpegls_encode(pixels)
    ds.PixelData = encapsulate([bytes(code)])
    ds["PixelData"].VR = "OB"
    ds["PixelData"].is_undefined_length = True


class Run:
    """One run over the phases: a folder for failed cases, and a seed."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder = folder
        self.seed = seed

    def _chance(self, number: int) -> random.Random:
        return random.Random(self.seed * 10**9 + number)  # noqa: S311 - repeatable

    def _try(self, tally: Tally, number: int, contents: bytes, action: Callable[[], str]) -> None:
        began_s = time.monotonic()
        # A case that hangs prints where, and ends the run.
        faulthandler.dump_traceback_later(6 * SLOWEST_S, exit=True)
        try:
            answer = action()
        except Exception as error:  # noqa: BLE001 - any exception is a finding
            answer = f"{type(error).__name__}"
            tally.failures.append(f"case {number}: {type(error).__name__}: {error}")
            (self.folder / f"{tally.name}-{self.seed}-{number}.bin").write_bytes(contents)
        faulthandler.cancel_dump_traceback_later()
        took_s = time.monotonic() - began_s
        if took_s > SLOWEST_S:
            tally.failures.append(f"case {number}: {took_s:.1f} s")
            (self.folder / f"{tally.name}-{self.seed}-{number}.bin").write_bytes(contents)
        tally.cases += 1
        tally.answers[answer] += 1
        tally.slowest_s = max(tally.slowest_s, took_s)

    def at_the_intake(self, limits: Limits) -> Tally:
        """Send mutated files through `Intake.accept`, and settle them into the journal."""
        tally = Tally("intake")
        series = corpus()
        every = [each for one in series for each in one]
        door = Door(self.folder / "intake", hold_s=0.001, settle_s=0.001, min_slices=3)
        mine = psutil.Process()
        for number in limits.numbers():
            chance = self._chance(number)
            contents = mutated(chance, chance.choice(every), every)
            source = Source(f"association-{number // 20}", "FUZZ@127.0.0.1", 0.001)

            def action(contents: bytes = contents, source: Source = source) -> str:
                return f"0x{door.intake.accept(contents, source).status:04X}"

            self._try(tally, number, contents, action)
            if number % 20 == 19:
                aborted = chance.random() < 0.5

                def settle(key: str = source.key, aborted: bool = aborted) -> str:
                    door.intake.association_ended(key, aborted=aborted)
                    door.intake.settle()
                    return "settled"

                self._try(tally, number, b"", settle)
            _weigh(tally, mine, number, limits.cases)
        # The last association may have brought less than twenty: without its end nothing settles.
        for key in [key for each in door.intake._gatherings.values() for key in each.open_sources]:
            door.intake.association_ended(key, aborted=True)
        until(lambda: not door.intake.settle())
        good = slices("999999")
        assert door.send(good, Source("good", "GOOD@127.0.0.1", 0.05)) == [0] * COUNT
        door.intake.association_ended("good", aborted=False)
        until(lambda: any(row.animal == "M999999" and row.state == "ready" for row in door.scans()))
        return tally

    def at_the_decoder(self, limits: Limits) -> Tally:
        """Decode a series with a mutated file as a worker does."""
        tally = Tally("decoder")
        series = corpus()
        every = [each for one in series for each in one]
        mine = psutil.Process()
        folder = self.folder / "decoder"
        folder.mkdir(exist_ok=True)
        paths = [folder / f"{k}.dcm" for k in range(4)]
        for number in limits.numbers():
            chance = self._chance(number)
            chosen = chance.choice(series)
            for path, contents in zip(paths, chosen, strict=True):
                path.write_bytes(contents)
            victim = chance.randrange(4)
            contents = mutated(chance, chosen[victim], every)
            paths[victim].write_bytes(contents)

            def action() -> str:
                try:
                    read_volume(assemble(read_headers(paths)))
                except RefusedSeries:
                    return "refused"
                return "decoded"

            self._try(tally, number, contents, action)
            _weigh(tally, mine, number, limits.cases)
        return tally

    def at_the_socket(self, limits: Limits) -> Tally:
        """Run mutated sessions against a receiver in another process."""
        tally = Tally("socket")
        folder = self.folder / "socket"
        command = [sys.executable, "-m", "tests.support.node.fuzzing", str(folder)]
        child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=REPOSITORY)
        assert child.stdout is not None
        port = int(child.stdout.readline())
        process = psutil.Process(child.pid)
        try:
            pdus = session(port)
            for number in limits.numbers():
                chance = self._chance(number)
                parts = rearranged(chance, pdus)
                self._try(tally, number, b"".join(parts), lambda parts=parts: converse(port, parts))
                if child.poll() is not None:
                    tally.failures.append(f"case {number}: the receiver ended ({child.returncode})")
                    break
                _weigh(tally, process, number, limits.cases)
            else:
                self._check_after(tally, child, process, port, folder)
        finally:
            child.kill()
            child.wait()
        return tally

    def _check_after(
        self,
        tally: Tally,
        child: subprocess.Popen[str],
        process: psutil.Process,
        port: int,
        folder: Path,
    ) -> None:
        """Check that no threads are left and that a good series is stored."""
        try:
            until(lambda: process.num_threads() < 12, 60)
        except AssertionError:
            tally.failures.append(f"{process.num_threads()} threads are left")
            child.send_signal(signal.SIGUSR1)
        ae = AE(ae_title="GOOD")
        ae.add_requested_context(CTImageStorage, [ExplicitVRLittleEndian])
        association = only_sends(ae.associate("127.0.0.1", port, ae_title="LIMN"))
        statuses = [association.send_c_store(ds).get("Status") for ds in slices("999999")]
        association.release()
        if statuses != [0] * COUNT:
            tally.failures.append(f"a good series is answered {set(statuses)}")
        journal = Door(folder).journal
        try:
            until(lambda: any(row.animal == "M999999" for row in journal.scans()))
        except AssertionError:
            tally.failures.append("a good series is not complete")


def _weigh(tally: Tally, process: psutil.Process, number: int, cases: int) -> None:
    """Compare memory now with memory after the first tenth, when everything is loaded."""
    if number % 100:
        return
    tally.last_mb = process.memory_info().rss / 2**20
    if not tally.first_mb or number <= cases // 10:
        tally.first_mb = max(tally.first_mb, tally.last_mb)
    if tally.last_mb > tally.first_mb + GROWTH_MB and not any("MB" in f for f in tally.failures):
        tally.failures.append(
            f"case {number}: memory {tally.first_mb:.0f} -> {tally.last_mb:.0f} MB"
        )


def session(port: int) -> list[bytes]:
    """The PDUs of a correct sender: association, C-ECHO, two slices, release."""
    sent: list[bytes] = []
    ae = AE(ae_title="SCANNER")
    ae.add_requested_context(Verification)
    ae.add_requested_context(CTImageStorage, [ExplicitVRLittleEndian])
    handlers = [(evt.EVT_DATA_SENT, lambda event: sent.append(event.data))]
    association = ae.associate("127.0.0.1", port, ae_title="LIMN", evt_handlers=handlers)
    association.send_c_echo()
    for ds in slices("1", 4)[:2]:
        _decorate(ds)
        association.send_c_store(ds)
    association.release()
    return sent


def rearranged(chance: random.Random, pdus: list[bytes]) -> list[bytes]:
    """A session with PDUs damaged, dropped, doubled or out of order."""
    parts = list(pdus)
    for _ in range(chance.choice((1, 1, 2, 4))):
        at = chance.randrange(len(parts)) if parts else 0
        kind = chance.randrange(6)
        if not parts:
            break
        if kind == 0 and len(parts) > 1:
            del parts[at]
        elif kind == 1:
            parts.insert(at, chance.choice(pdus))
        elif kind == 2:
            other = chance.randrange(len(parts))
            parts[at], parts[other] = parts[other], parts[at]
        else:
            parts[at] = mutated(chance, parts[at], pdus)
            if kind == 3 and len(parts[at]) > 6:
                # With a correct length, so that the receiver parses what is inside.
                parts[at] = parts[at][:2] + (len(parts[at]) - 6).to_bytes(4, "big") + parts[at][6:]
    return parts


def converse(port: int, parts: list[bytes]) -> str:
    """Send the parts one by one until the peer closes; returns its answer, by PDU type."""
    received = bytearray()
    with socket.create_connection(("127.0.0.1", port), timeout=SLOWEST_S) as wire:
        wire.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            for part in parts:
                wire.sendall(part)
                wire.settimeout(0.003)
                with contextlib.suppress(TimeoutError):
                    received += wire.recv(4096)
                wire.settimeout(SLOWEST_S)
            wire.shutdown(socket.SHUT_WR)
            while more := wire.recv(4096):
                received += more
        except TimeoutError:
            raise
        except OSError:
            return "reset"
    return {0x02: "accepted", 0x03: "rejected", 0x07: "aborted"}.get(
        received[0] if received else 0, "closed"
    )


def serve(folder: Path) -> None:
    """Run a receiver until it is killed; prints its port."""
    faulthandler.enable()
    # Without the line that every case would log.
    logging.disable(logging.CRITICAL)
    if hasattr(signal, "SIGUSR1"):
        faulthandler.register(signal.SIGUSR1)
    door = Door(folder, hold_s=0.2, settle_s=0.05)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    settings = {"port": port, "min_free_mb": 0, "idle_s": 5, "artim_s": 5, "max_associations": 200}
    listen(Receive.model_validate(settings), door.intake, 0.05)
    print(port, flush=True)  # noqa: T201 - the parent reads it
    door.intake.run(threading.Event())


if __name__ == "__main__":
    serve(Path(sys.argv[1]))
