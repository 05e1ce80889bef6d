"""The short form of ``bench/fuzz.py``, and cases that it found once."""

import time

import pytest
from pydicom.uid import UID

from limn.node.dimse.status import CANNOT_UNDERSTAND
from tests.node.store.disk.test_spool import HOSTILE
from tests.support.node.fuzzing import Limits, Run
from tests.support.node.parts import SCP, Door, encoded, slices

pytestmark = pytest.mark.slow

pytest.importorskip("imagecodecs")


@pytest.mark.parametrize(("phase", "cases"), [("intake", 2000), ("decoder", 150), ("socket", 200)])
def test_a_few_thousand_mutations(tmp_path, phase, cases):
    """No exception, no hang, memory flat, a good series after; another seed in `make soak`."""
    run = Run(tmp_path, seed=20)
    limits = Limits(cases, time.monotonic() + 60.0)
    tally = {
        "intake": run.at_the_intake,
        "decoder": run.at_the_decoder,
        "socket": run.at_the_socket,
    }[phase](limits)
    assert tally.failures == []
    # Most are refused and some are stored: the mutations are neither too strong nor too weak.
    assert len(tally.answers) >= 2
    assert tally.cases > cases // 10


def test_the_last_association_of_a_run_is_ended_too(tmp_path):
    """It brings three cases; without its end the run would wait for it in vain."""
    tally = Run(tmp_path, seed=20).at_the_intake(Limits(23, time.monotonic() + 60.0))
    assert tally.failures == []


@pytest.mark.parametrize("keyword", ["SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID"])
@pytest.mark.parametrize("hostile", [*HOSTILE, "1.2.3/../../4", "-rf", "1..2"])
def test_a_uid_is_never_a_path(tmp_path, keyword, hostile):
    """A value that is no UID is refused, and nothing is written."""
    if not hostile.strip("\0 ") and keyword == "StudyInstanceUID":
        pytest.skip("without a study the whole series is refused, by name")
    ds = slices()[0]
    file = encoded(ds)
    value = str(ds[keyword].value).encode()
    # In the bytes, at the same length, because `ds` would refuse the value.
    planted = hostile.encode()[: len(value)].ljust(len(value), b"/")
    assert not UID(planted.decode(errors="replace")).is_valid
    door = Door(tmp_path / "data")
    result = door.intake.accept(file.replace(value, planted), SCP)
    assert result.status == CANNOT_UNDERSTAND
    assert "UID" in result.why or "damaged" in result.why
    assert list(tmp_path.iterdir()) == [tmp_path / "data"]
    assert door.files() == []
    assert not (tmp_path / "data" / "returned").exists()


def test_names_of_animals_stay_in_one_line_of_the_log(tmp_path):
    """Line ends, terminal commands and bytes without a letter in a PatientID are escaped."""
    ds = slices()[0]
    ds.PatientID = "M1"
    contents = encoded(ds).replace(b"LO\x02\x00M1", b"LO\x0e\x00M1\n\x1b[2JOK \r\n\xff ", 1)
    door = Door(tmp_path)
    assert door.intake.accept(contents, SCP).stored
    (gathering,) = door.intake._gatherings.values()
    assert gathering.animal.isprintable()
    assert gathering.animal == r"M1\x0a\x1b[2JOK \x0d\x0a\xff"
