"""A data set of corrected scans, which grows and keeps each animal's side."""

import csv
import warnings
from dataclasses import replace

import numpy as np
import pydicom
import pytest

from limn.cli.main import main
from limn.dicom.ct import CtIdentity
from limn.domain.edits.corrections import CorrectedScan
from limn.domain.errors import ConfigWrong
from limn.domain.scan import Volume
from limn.lab.data.dataset import import_folder, read_dataset
from limn.lab.data.returned import grown_split, import_returned
from limn.lab.data.split import Split
from limn.lab.export.returned import export_returned
from tests.conftest import REPOSITORY, write_series
from tests.support.organs import Organ


@pytest.fixture(scope="module")
def corrected(mouse, tmp_path_factory):
    """Scans of five animals whose structure sets came back from rt-utils."""
    from rt_utils import RTStructBuilder  # noqa: PLC0415

    # The chest: an eighth of the wait.
    box = (slice(24, 72), slice(12, 72), slice(14, 78))
    grid = mouse[0].grid.part(box)
    volume = Volume(mouse[0].hu_zyx[box], grid)
    labels = mouse[1].on_voxels(mouse[1].labels_zyx[box], grid)
    made = []
    for number, animal in enumerate(("M1", "M2", "M3", "M 4/x", "M5"), 1):
        folder = tmp_path_factory.mktemp("spool") / str(number)
        # No two animals have one CT.
        moved = replace(volume, hu_zyx=volume.hu_zyx + np.float32(number))
        identity = CtIdentity(animal, f"2.25.91.{number}", ("20260101", "120000"))
        paths = write_series(moved, folder, identity)
        path = folder.parent / f"RS-{number}.dcm"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            built = RTStructBuilder.create_new(str(folder))
            for organ in Organ:
                built.add_roi(np.moveaxis(labels.mask(organ), 0, 2), name=f"{organ}_JD")
            built.save(str(path))
        made.append(
            CorrectedScan(
                scan=f"scan-{number:05d}",
                animal=animal,
                several=False,
                slices=tuple(paths),
                structure_set=path,
                organs={str(organ): f"{organ}_JD" for organ in Organ},
                absent=(),
                accepted=number == 2,
                editor="Weber" if number != 2 else "",
                came_utc="2026-11-30T12:00:00+00:00",
                bundle_sha256="b" * 64,
                dsc={"Heart": 0.95},
            )
        )
    return made


def test_a_data_set_is_made_and_grows(corrected, tmp_path):
    """Checked as any import; who corrected is in a table; nobody changes the side.

    Neither after an import that failed: the split stays, so that the next one draws no other.
    """
    out, said = tmp_path / "data", []
    import_returned(corrected[:3], out, None, said.append)
    before = {entry.animal: (entry.split, entry.fold) for entry in read_dataset(out)}
    assert set(before) == {"site-M1", "site-M2", "site-M3"}
    bad = replace(corrected[3], structure_set=corrected[3].slices[0])
    with pytest.raises(ConfigWrong):
        import_returned([*corrected[:3], bad], out, None, said.append)
    import_returned(corrected, out, None, said.append)
    entries = read_dataset(out)
    after = {entry.animal: (entry.split, entry.fold) for entry in entries}
    assert len(after) == 5
    assert before.items() <= after.items()
    with (out / "returned.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["animal"] for row in rows] == ["M1", "M2", "M3", "M 4/x", "M5"]
    assert {row["scan"] for row in rows} == {entry.scan for entry in entries}
    assert [row["accepted"] for row in rows] == ["no", "yes", "no", "no", "no"]
    assert rows[0]["corrected_by"] == "Weber"
    # What the node has no more is not lost silently.
    with pytest.raises(ConfigWrong, match="has 1 scans that can't be imported again"):
        import_returned(corrected[:4], out, None, said.append)
    assert len(read_dataset(out)) == 5


def test_what_can_not_be_learnt_from_is_named(corrected, tmp_path):
    """Several animals in a field, slices that are gone, an organ that did not come back."""
    said = []
    left = [
        replace(corrected[0], several=True),
        replace(corrected[1], slices=(*corrected[1].slices, tmp_path / "gone.dcm")),
        replace(corrected[2], absent=("Heart",)),
        replace(corrected[3], structure_set=tmp_path / "gone.dcm"),
    ]
    with pytest.raises(ConfigWrong, match="no corrected scan can be used"):
        import_returned(left, tmp_path / "data", None, said.append)
    assert [line.split(": ")[0] for line in said] == ["left out"] * 4
    for words, line in zip(
        ("several animals", "1 of its slices", "no Heart came back", "is not there"),
        said,
        strict=True,
    ):
        assert words in line


def test_they_leave_the_site_without_identities(corrected, tmp_path):
    """What came back lies beside its CT; an ROI has its organ's name; others import it as it is."""
    said, out = [], tmp_path / "out"
    gone = replace(corrected[2], slices=(*corrected[2].slices, tmp_path / "gone.dcm"))
    node = corrected[0].structure_set.parent
    export_returned([*corrected[:2], gone], node, out, tmp_path / "key.json", (), said.append)
    assert "1 of its slices are not there any more" in said[0]
    sets = sorted(out.glob("*/d000/RS-1.dcm"))
    assert len(sets) == 2
    for structure_set in sets:
        rois = pydicom.dcmread(structure_set).StructureSetROISequence
        assert [str(roi.ROIName) for roi in rois] == [str(organ) for organ in Organ]
    assert not [path for path in out.rglob("*.dcm") if b"_JD" in path.read_bytes()]
    import_folder(out, tmp_path / "data", REPOSITORY / "config" / "site-dicom.toml", None, print)
    assert len(read_dataset(tmp_path / "data")) == 2
    with pytest.raises(ConfigWrong, match="no corrected scan can be used"):
        export_returned([gone], node, tmp_path / "other", None, (), said.append)
    with pytest.raises(ConfigWrong, match=r"may not be .*, lie in it"):
        export_returned(corrected[:1], node, node / "out", None, (), said.append)


def test_a_data_set_is_no_dicom_to_export(corrected, tmp_path, capsys):
    """The command says which folder, and which option, instead."""
    import_returned(corrected[:2], tmp_path / "data", None, print)
    assert main(["lab", "export", str(tmp_path / "data"), str(tmp_path / "out")]) == 1
    assert "limn lab export --returned CONFIG OUT" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_slices_of_several_folders_may_share_their_names(corrected, tmp_path):
    """As `limn contour` finds them; none is lost, and none of the site's is written to."""
    folder, slices = tmp_path / "site", []
    for number, path in enumerate(corrected[0].slices):
        # Two and two have one name.
        made = folder / str(number % 2) / f"{number // 2}.dcm"
        made.parent.mkdir(parents=True, exist_ok=True)
        made.write_bytes(path.read_bytes())
        slices.append(made)
    before = [path.read_bytes() for path in slices]
    apart = replace(corrected[0], slices=tuple(slices))
    import_returned([apart, corrected[1]], tmp_path / "data", None, print)
    assert [path.read_bytes() for path in slices] == before
    (entry,) = (each for each in read_dataset(tmp_path / "data") if each.animal == "site-M1")
    assert entry.voxels_zyx.split()[0] == str(len(slices))


def test_a_split_grows_without_moving_anyone():
    """Three of four train, one joins the smallest fold, nobody moves."""
    split = Split(("t",), ("c",), (("a", "b"), ("d",)))
    grown = grown_split(split, ["a", "t", *(f"n{k}" for k in range(12))])
    for animal in ("a", "b", "c", "d", "t"):
        assert grown.side_of(animal) == split.side_of(animal)
        assert grown.fold_of(animal) == split.fold_of(animal)
    assert len(grown.training) + len(grown.test1) == 16
    assert len(grown.test1) == 4
    assert max(map(len, grown.folds)) - min(map(len, grown.folds)) <= 1
    assert grown == grown_split(grown, ["n3"])
    assert grown_split(Split((), (), ()), ["x"]).training == ("x",)
