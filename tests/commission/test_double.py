"""What the node sends of a phantom is waited for."""

import io
import threading
from pathlib import Path

from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian, RTStructureSetStorage

from limn.commission.double import awaited_structure_sets


def structure_set_of(series: str) -> bytes:
    """A structure set without contours that refers to a series."""
    ds, frame, study, referenced = Dataset(), Dataset(), Dataset(), Dataset()
    ds.ensure_file_meta()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.SOPClassUID, ds.SOPInstanceUID, ds.Modality = RTStructureSetStorage, "2.25.1", "RTSTRUCT"
    referenced.SeriesInstanceUID = series
    study.RTReferencedSeriesSequence = [referenced]
    frame.RTReferencedStudySequence = [study]
    ds.ReferencedFrameOfReferenceSequence = [frame]
    file = io.BytesIO()
    ds.save_as(file, enforce_file_format=True)
    return file.getvalue()


def test_a_structure_set_that_comes_a_moment_later_counts(tmp_path: Path) -> None:
    """The planning system may have taken its own first: the node has ended the scan by then."""
    wanted = structure_set_of("2.25.7")
    (tmp_path / "other.dcm").write_bytes(structure_set_of("2.25.8"))
    later = threading.Timer(0.3, (tmp_path / "RS.dcm").write_bytes, (wanted,))
    later.start()
    assert awaited_structure_sets(tmp_path, "2.25.7", 20) == [wanted]
    later.join()
    assert awaited_structure_sets(tmp_path, "2.25.9", 0.0) == []
