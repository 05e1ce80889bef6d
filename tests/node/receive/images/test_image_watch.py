import errno
import logging
import os
import re
import shutil
import subprocess
import threading
import time
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest
import SimpleITK

from limn.dicom.series import assemble
from limn.dicom.volume import read_headers, read_volume
from limn.node.config import Watch
from limn.node.dimse.status import DUPLICATE, OUT_OF_RESOURCES
from limn.node.receive.folder.taken_files import TakenFiles
from limn.node.receive.folder.watched_folder import FolderWatch
from limn.node.receive.images import image_watch
from limn.node.receive.images.image_watch import ImageWatch
from limn.node.receive.store_result import StoreResult
from limn.node.store.disk.spool import MADE, Spool
from limn.node.store.journal.schema import JournalBusy
from tests.conftest import require_peer
from tests.support.node.parts import COUNT, Door, running, slices, until, write_slices
from tests.support.node.toy import SPACING_MM, toy
from tests.support.scanner_files import write_inveon, write_sections

FORMATS = ("nifti", "nrrd", "metaimage", "skyscan", "inveon")
SETTLE_S, HOLD_S = 0.2, 1.5
SHAPE_ZYX = (COUNT, 9, 8)


class Images:
    """A watched folder that takes images, in front of an intake."""

    def __init__(self, root: Path, hold_s: float = HOLD_S, **settings: object) -> None:
        self.folder = root / "in"
        self.folder.mkdir(parents=True, exist_ok=True)
        self.door = Door(root / "data", hold_s=hold_s)
        values = {"formats": FORMATS, "patient_id": "name", "settle_s": SETTLE_S, "rescan_s": 0.1}
        self.settings = Watch(folder=self.folder, **(values | settings))
        self.taken = TakenFiles(root / "watched.sqlite")
        self.images = ImageWatch(
            self.settings, self.door.intake, self.door.spool, self.taken, hold_s, root / "work"
        )

    def wait_long(self, hold_s: float = 600.0) -> None:
        """Wait so long for the rest of an image: a loaded machine may read slowly."""
        self.images._hold_s = hold_s

    def watching(self):
        """The watch, until the block is left."""
        watch = FolderWatch(self.settings, self.door.intake, self.taken, images=self.images)
        return running(watch.run)

    def shown(self) -> dict[str, tuple[str, str]]:
        """What `limn queue` shows of each image: its light, and what it needs."""
        return {
            Path(each.sender[6:]).name: (each.light, each.needs) for each in self.images.shown()
        }

    def wait_shown(self, name: str, words: str) -> str:
        """Wait until an image is shown with these words; returns its light."""
        until(lambda: words in self.shown().get(name, ("", ""))[1])
        return self.shown()[name][0]

    def made(self) -> list[pydicom.Dataset]:
        """The slices in the spool."""
        found = [pydicom.dcmread(path) for path in self.door.files()]
        return sorted(found, key=lambda ds: (ds.SeriesInstanceUID, ds.InstanceNumber))


@pytest.fixture
def images(tmp_path):
    """A watched folder of all formats, in which names are the animals'."""
    return Images(tmp_path)


def grey() -> np.ndarray:
    """Voxels that differ."""
    return np.arange(np.prod(SHAPE_ZYX), dtype=np.int16).reshape(SHAPE_ZYX)


def itk(direction: str = "LPS") -> SimpleITK.Image:
    """An image whose axes are the patient's."""
    image = SimpleITK.GetImageFromArray(grey())
    image.SetSpacing((SPACING_MM,) * 3)
    return SimpleITK.DICOMOrient(image, direction)


def write(path: Path, image: SimpleITK.Image | None = None) -> Path:
    """Write an image in the format of its name, under another name first."""
    part = path.with_name(f".{path.name}")
    SimpleITK.WriteImage(image or itk(), str(part))
    part.rename(path)
    return path


def numbers(datasets: list[pydicom.Dataset], folder: Path) -> np.ndarray:
    """The voxels (z, y, x) that limn reads of a series."""
    folder.mkdir()
    paths = [folder / f"{number}.dcm" for number in range(len(datasets))]
    for ds, path in zip(datasets, paths, strict=True):
        ds.save_as(path)
    return read_volume(assemble(read_headers(paths))).hu_zyx


@pytest.mark.parametrize("name", ["M7.nii.gz", "M7.nii", "M7.nrrd", "M7.mha"])
def test_an_image_file_becomes_one_series(images, tmp_path, name):
    """The voxels are those of the file; of the animal nothing is said that the site did not say."""
    write(images.folder / name)
    with images.watching():
        (scan,) = images.door.wait_for_scans()
    made = images.made()
    assert scan.animal == made[0].PatientID == "M7"
    assert len(made) == len(scan.files) == COUNT
    assert np.array_equal(numbers(made, tmp_path / "ct"), grey())
    assert (made[0].PatientSex, made[0].StudyDate, made[0].KVP) == ("", "", None)
    assert (Path(scan.folder) / MADE).is_file()
    assert scan.sender == f"folder {images.folder}"
    assert images.shown() == {}
    assert (images.folder / name).is_file()


@pytest.mark.parametrize("ending", ["mhd", "nhdr"])
def test_a_header_waits_for_its_voxels(images, ending):
    """They come second, and belong to it."""
    write(images.folder / f"M7.{ending}", itk()) if ending == "nhdr" else SimpleITK.WriteImage(
        itk(), str(images.folder / "M7.mhd")
    )
    voxels = next(each for each in images.folder.iterdir() if each.suffix != f".{ending}")
    if ending == "nhdr":
        header = images.folder / "M7.nhdr"
        header.write_text(header.read_text().replace(voxels.name, "M7.raw.gz"))
        voxels = voxels.rename(images.folder / "M7.raw.gz")
    images.wait_long()
    aside = voxels.rename(images.folder.parent / voxels.name)
    with images.watching():
        assert images.wait_shown(f"M7.{ending}", "voxels") == ""
        shutil.copy(aside, voxels)
        (scan,) = images.door.wait_for_scans()
    assert scan.animal == "M7"


def test_sections_and_their_log_become_one_series(tmp_path):
    """The site says how its SkyScan lays animals; half of them wait for the rest."""
    images = Images(tmp_path, lie={"skyscan": "SPL", "inveon": "IAL"})
    images.wait_long()
    whole = tmp_path / "M8"
    write_sections(whole, grey().astype(np.uint16), 51.4)
    coming = images.folder / "M8"
    coming.mkdir()
    sections = sorted(whole.iterdir())
    with images.watching():
        for path in sections[:-3]:
            shutil.copy(path, coming)
        images.wait_shown("M8", "the rest of it")
        for path in sections[-3:]:
            shutil.copy(path, coming)
        (scan,) = images.door.wait_for_scans()
    assert scan.animal == "M8"
    assert len(images.made()) == COUNT
    assert images.made()[0].ImageOrientationPatient == [1, 0, 0, 0, 1, 0]


def test_an_inveon_image_becomes_one_series(tmp_path):
    """With the lie that the site gives."""
    images = Images(tmp_path, lie={"inveon": "IAL"})
    write_inveon(images.folder, grey(), (0.2, 0.2, 0.2))
    with images.watching():
        (scan,) = images.door.wait_for_scans()
    assert scan.animal == "mouse.ct"


def test_half_a_copy_is_refused_once_nothing_completes_it(images, caplog):
    """It is told at once what it waits for; the rest of the folder goes on meanwhile."""
    write_sections(images.folder / "M8", grey().astype(np.uint16), 51.4)
    (images.folder / "M8" / "mouse_rec00000022.tif").unlink()
    write_slices(images.folder / "dicom", slices())
    images.wait_long()
    with images.watching():
        (scan,) = images.door.wait_for_scans()
        assert scan.state == "ready"
        assert images.wait_shown("M8", "1 are missing between them, first 22") == ""
        images.wait_long(HOLD_S)
        until(lambda: images.shown()["M8"][0] == "red")
    (line,) = [each.message for each in caplog.records if "M8 refused" in each.message]
    assert "holds 19 sections" in line
    assert "nothing of it has changed for 1.5 s" in line
    assert str(images.folder / "M8") in line
    assert "copies" not in line
    assert len(images.door.scans()) == 1


def test_projections_are_left_alone(images, caplog):
    """A scanner keeps them beside the sections, with a log of their own."""
    log = write_sections(images.folder / "M8", grey().astype(np.uint16), 51.4)
    log.write_bytes(log.read_bytes().partition(b"[Reconstruction]")[0])
    write(images.folder / "M7.nii.gz")
    with images.watching():
        (scan,) = images.door.wait_for_scans()
        until(lambda: not images.images.shown())
        time.sleep(HOLD_S)
    assert scan.animal == "M7"
    assert images.shown() == {}
    assert "M8" not in "".join(r.message for r in caplog.records if r.levelno > logging.INFO)


def test_what_a_format_can_not_say_is_asked_for(tmp_path, caplog):
    """Red until a person has written it beside the image; nothing is guessed."""
    images = Images(tmp_path, patient_id="note")
    write_inveon(images.folder, grey(), (0.2, 0.2, 0.2))
    note = images.folder / "mouse.ct.img.hdr.toml"
    with images.watching():
        assert images.wait_shown("mouse.ct.img.hdr", "a person must say") == "red"
        words = images.shown()["mouse.ct.img.hdr"][1]
        assert "patient_id" in words
        assert f'lie = "..." into {note}' in words
        time.sleep(HOLD_S + 0.5)
        assert images.shown()["mouse.ct.img.hdr"] == ("red", words)
        note.write_text('patient_id = "M9"\nlie = "SPX"\n')
        images.wait_shown("mouse.ct.img.hdr", "lie is 'SPX'")
        note.write_text('patient_id = "M9"\nlie = "SPL"\n')
        (scan,) = images.door.wait_for_scans()
    assert scan.animal == "M9"
    assert caplog.text.count("a person must say") == 1


def test_a_file_that_says_its_axes_is_not_overruled_by_the_site(tmp_path):
    """Only a person's note of this very file is stronger."""
    images = Images(tmp_path, lie={"nifti": "IAR"})
    write(images.folder / "M7.nii.gz")
    silent = nibabel.Nifti1Image(grey().T, None)
    silent.header.set_zooms((SPACING_MM,) * 3)
    nibabel.save(silent, images.folder / "M8.nii")
    with images.watching():
        images.door.wait_for_scans(2)
    by_animal = {ds.PatientID: ds for ds in images.made() if ds.InstanceNumber == 1}
    first = grey()[0].astype(int)
    own, said = (by_animal[name].pixel_array.astype(int) - 4096 for name in ("M7", "M8"))
    assert np.array_equal(own, first)
    assert np.array_equal(said, grey()[-1, ::-1, ::-1])


def contradictory(path: Path) -> None:
    """A NIfTI file whose two transforms differ by a mirror."""
    image = nibabel.Nifti1Image(grey().T, np.diag([-1.0, -1.0, 1.0, 1.0]))
    image.set_qform(np.diag([1.0, -1.0, 1.0, 1.0]), 1)
    nibabel.save(image, path)


def cut_off(path: Path) -> None:
    """A file that ends early."""
    write(path)
    path.write_bytes(path.read_bytes()[:-200])


def rubbish(path: Path) -> None:
    """No image at all."""
    path.write_bytes(b"\0rubbish" * 100)


def leads_out(path: Path) -> None:
    """A header that names a file of this computer as its voxels."""
    voxels = path.parent.parent / "secret.raw"
    voxels.write_bytes(grey().tobytes())
    path.write_text(
        "ObjectType = Image\nNDims = 3\nDimSize = 8 9 20\nElementType = MET_SHORT\n"
        f"TransformMatrix = 1 0 0 0 1 0 0 0 1\nElementDataFile = {voxels}\n"
    )


FAULTS = {
    "contradictory": ("bad.nii", contradictory, "contradict each other"),
    "cut off": ("bad.nii.gz", cut_off, "can't be read"),
    "cut off nrrd": ("bad.nrrd", cut_off, "can't be read"),
    "rubbish": ("bad.mha", rubbish, "NDims is ''"),
    "leads out": ("bad.mha", leads_out, "as the file of its voxels"),
}


@pytest.mark.parametrize(("name", "spoil", "why"), FAULTS.values(), ids=FAULTS)
def test_a_bad_image_is_refused_and_ends_nothing_else(images, caplog, name, spoil, why):
    """It is named with its reason, in the log and for the queue; the image beside it is taken."""
    spoil(images.folder / name)
    write(images.folder / "good.nii.gz")
    with images.watching():
        (scan,) = images.door.wait_for_scans()
        assert scan.animal == "good"
        until(lambda: images.shown().get(name, ("", ""))[0] == "red")
    assert why in images.shown()[name][1]
    (line,) = [each.message for each in caplog.records if f"{name} refused" in each.message]
    assert why in line
    assert len(images.door.scans()) == 1


def test_a_process_that_an_image_kills_is_tried_twice(images, caplog, monkeypatch):
    """Then the image is refused; another one goes on."""
    write(images.folder / "M7.nii.gz")
    monkeypatch.setattr(image_watch, "_MODULE", "limn.no_such_module")
    with images.watching():
        until(lambda: images.shown().get("M7.nii.gz", ("", ""))[0] == "red")
        monkeypatch.undo()
        write(images.folder / "M8.nii.gz")
        (scan,) = images.door.wait_for_scans()
    assert scan.animal == "M8"
    assert "2 processes that read it ended without an answer, the last with code 1" in caplog.text


def test_the_same_image_again_is_the_same_series(images, caplog):
    """Touched, and copied elsewhere; another content under the same name is another series."""
    caplog.set_level(logging.INFO)
    path = write(images.folder / "M7.nii.gz")
    with images.watching():
        (scan,) = images.door.wait_for_scans()
        os.utime(path)
        (images.folder / "sub").mkdir()
        shutil.copy(path, images.folder / "sub" / "M7.nii.gz")
        until(lambda: images.door.scans() and caplog.text.count("came again") == 1)
        until(lambda: not images.images.shown())
        assert len(images.door.scans()) == 1
        other = SimpleITK.Add(itk(), 1)
        write(path, SimpleITK.Cast(other, SimpleITK.sitkInt16))
        first, second = images.door.wait_for_scans(2)
    assert first.id == scan.id
    assert first.series_instance_uid != second.series_instance_uid
    assert second.animal == "M7"


def test_after_a_restart_nothing_is_taken_twice(images, tmp_path):
    """The memory is that of DICOM files."""
    write(images.folder / "M7.nii.gz")
    with images.watching():
        images.door.wait_for_scans()
    again = Images(tmp_path)
    with again.watching():
        time.sleep(4 * SETTLE_S)
        assert again.images._conversion is None
    assert len(again.door.scans()) == 1


@pytest.mark.parametrize("moment", ["between slices", "before the note", "before the memory"])
def test_a_kill_between_the_conversion_and_the_journal_loses_nothing(
    images, tmp_path, monkeypatch, moment
):
    """The next start makes the same instances and completes the series; there is one scan."""
    write(images.folder / "M7.nii.gz")

    class Killed(BaseException):
        """As a power cut: nothing after it is done."""

    def killed(*_, **__):
        raise Killed

    count = 0

    def few(*arguments, **more):
        nonlocal count
        count += 1
        return killed() if count > 7 else accept(*arguments, **more)

    accept = images.door.intake.accept
    if moment == "between slices":
        monkeypatch.setattr(images.door.intake, "accept", few)
    elif moment == "before the note":
        monkeypatch.setattr(images.door.intake, "association_ended", killed)
    else:
        monkeypatch.setattr(images.taken, "add", killed)
    watch = FolderWatch(images.settings, images.door.intake, images.taken, images=images.images)
    threading.excepthook, before = lambda _: None, threading.excepthook
    thread = threading.Thread(target=watch.run, args=(threading.Event(),))
    thread.start()
    thread.join(30)
    threading.excepthook = before
    assert not thread.is_alive()

    # A loaded machine must not read the image more slowly than a cut-off series waits.
    again = Images(tmp_path, hold_s=30.0)
    again.door.intake.recover()
    with again.watching():
        (scan,) = again.door.wait_for_scans()
        until(lambda: not again.images.shown())
        time.sleep(HOLD_S + 0.3)
        (scan,) = again.door.scans()
    assert scan.state == "ready"
    assert len(scan.files) == COUNT


def test_a_disk_that_is_full_for_a_moment_loses_no_image(images, monkeypatch, caplog):
    """It is taken once there is room."""
    monkeypatch.setattr(image_watch, "LATER_S", 0.2)
    accept, full = images.door.intake.accept, [True]

    def sometimes(*arguments, **more):
        if full:
            return StoreResult(OUT_OF_RESOURCES, "the spool is at its limit")
        return accept(*arguments, **more)

    monkeypatch.setattr(images.door.intake, "accept", sometimes)
    write(images.folder / "M7.nii.gz")
    with images.watching():
        images.wait_shown("M7.nii.gz", "at its limit")
        full.clear()
        (scan,) = images.door.wait_for_scans()
    assert scan.state == "ready"
    assert caplog.text.count("not taken") == 1


def test_an_image_that_the_intake_will_never_take_is_read_once(images, monkeypatch, caplog):
    """Its slices would be refused each time; another version of its file is taken."""
    monkeypatch.setattr(image_watch, "LATER_S", 0.0)
    accept, begun = images.door.intake.accept, []
    begin = ImageWatch._begin
    monkeypatch.setattr(
        ImageWatch, "_begin", lambda *given: (begun.append(given[1]), begin(*given))[1]
    )
    never = StoreResult(DUPLICATE, "an instance of this UID with other contents is there")
    monkeypatch.setattr(images.door.intake, "accept", lambda *_, **__: never)
    path = write(images.folder / "M7.nii.gz")
    with images.watching():
        light = images.wait_shown("M7.nii.gz", "refused: an instance of this UID with other")
        until(lambda: images.images._conversion is None)
        time.sleep(0.3)
        assert (light, len(begun)) == ("red", 1)
        monkeypatch.setattr(images.door.intake, "accept", accept)
        os.utime(path, (1e9, 1e9))
        images.door.wait_for_scans()
    assert caplog.text.count("refused: an instance of this UID") == 1


@pytest.mark.parametrize("fault", ["memory", "note"])
def test_a_disk_that_fails_at_a_note_is_waited_for(tmp_path, monkeypatch, caplog, fault):
    """No series waits for its association, and the image is not refused for it."""
    # A process that reads the image again takes seconds on a busy machine.
    images = Images(tmp_path, hold_s=30.0)
    monkeypatch.setattr(image_watch, "LATER_S", 0.2)
    full = [True]

    def failing(real, error):
        def call(*arguments):
            if full:
                full.clear()
                raise error
            return real(*arguments)

        return call

    if fault == "memory":
        locked = failing(images.taken.add, JournalBusy("database or disk is full"))
        monkeypatch.setattr(images.taken, "add", locked)
    else:
        no_room = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/spool/made")
        monkeypatch.setattr(Spool, "mark_made", failing(Spool.mark_made, no_room))
    write(images.folder / "M7.nii.gz")
    with images.watching():
        (scan,) = images.door.wait_for_scans()
        until(lambda: not images.images.shown())
    assert full == []
    assert scan.state == "ready"
    assert len(images.door.scans()) == 1
    assert (Path(scan.folder) / MADE).is_file()
    assert "refused" not in caplog.text


def test_a_disk_without_room_for_the_copy_is_waited_for(images, monkeypatch):
    """Before a byte is copied."""
    monkeypatch.setattr(image_watch, "LATER_S", 0.2)
    write(images.folder / "M7.nii.gz")
    least = images.door.spool.min_free_bytes
    images.door.fill_up()
    with images.watching():
        images.wait_shown("M7.nii.gz", "no room for 0 MB")
        object.__setattr__(images.door.spool, "min_free_bytes", least)
        images.door.wait_for_scans()


def test_without_formats_images_are_refused_as_before(images, tmp_path, caplog):
    """They are files that are no DICOM."""
    place = Images(tmp_path, formats=())
    write(place.folder / "M7.nii.gz")
    watch = FolderWatch(place.settings, place.door.intake, place.taken)
    with running(watch.run):
        until(lambda: "refused" in caplog.text)
    assert place.door.scans() == []


@pytest.mark.peer
def test_dciodvfy_finds_no_error_in_the_series(images, tmp_path):
    """In the first and the last slice."""
    write(images.folder / "M7.nii.gz")
    with images.watching():
        images.door.wait_for_scans()
    for ds in images.made()[:: COUNT - 1]:
        path = tmp_path / "slice.dcm"
        ds.save_as(path)
        done = subprocess.run(
            [require_peer("dciodvfy"), "-new", str(path)],
            capture_output=True,
            text=True,
            check=False,
        )
        assert not re.search("^Error", done.stdout + done.stderr, re.MULTILINE), done.stderr


def test_a_link_is_no_image(images, tmp_path, caplog):
    """It may lead out of the folder."""
    secret = write(tmp_path / "secret.nii.gz")
    (images.folder / "M7.nii.gz").symlink_to(secret)
    write(images.folder / "M8.nii.gz")
    with images.watching():
        (scan,) = images.door.wait_for_scans()
        until(lambda: "M7.nii.gz left alone: a link" in caplog.text)
    assert scan.animal == "M8"
    assert toy(1).animal not in {ds.PatientID for ds in images.made()}
