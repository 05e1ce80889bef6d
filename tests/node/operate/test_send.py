import os

import pytest
from pydicom.uid import CTImageStorage, PositronEmissionTomographyImageStorage
from pynetdicom.dsutils import encode

from limn.cli import main
from limn.domain.errors import ConfigWrong
from limn.node.config import Receive
from limn.node.operate.send import send_folder
from limn.node.receive.storage_scp import listen
from tests.conftest import free_port
from tests.support.node.parts import (
    COUNT,
    Archive,
    Door,
    encoded,
    other_modality,
    peer,
    slices,
    stop,
    write_slices,
)


@pytest.fixture
def series(tmp_path):
    """A folder with a series."""
    write_slices(tmp_path / "series" / "nested", slices())
    return tmp_path / "series"


def test_a_folder_is_sent(series, capsys):
    """Every file below the folder is sent; exit code 0 and one line with the count."""
    archive = Archive()
    with peer(archive) as port:
        code = main.main(["send", str(series), "--to", f"127.0.0.1:{port}", "--aec", "TPS"])
    assert code == 0
    assert sorted(ds.InstanceNumber for ds in archive.taken) == list(range(1, COUNT + 1))
    assert f"{COUNT} files sent to TPS@127.0.0.1:{port}" in capsys.readouterr().out


def test_limn_sends_to_limn(series, tmp_path):
    """Our sender at our own door: one whole series."""
    door = Door(tmp_path / "data")
    port = free_port()
    server = listen(Receive(port=port), door.intake, 0.05)
    assert main.main(["send", str(series), "--to", f"127.0.0.1:{port}"]) == 0
    (row,) = door.wait_for_scans()
    stop(server)
    assert (row.state, len(row.files), row.sender) == ("ready", COUNT, "LIMNSEND@127.0.0.1")


def test_what_is_no_dicom_is_left_out_by_name(series, capsys):
    """Notes between the slices are named and not sent, also with brackets in their names."""
    (series / "notes [1].txt").write_text("mouse 12")
    (series / "empty.dcm").touch()
    archive = Archive()
    with peer(archive) as port:
        assert main.main(["send", str(series), "--to", f"127.0.0.1:{port}"]) == 0
    out = "".join(capsys.readouterr().out.split("\n"))
    assert "notes [1].txt" in out
    assert "empty.dcm" in out
    assert len(archive.taken) == COUNT


def test_files_are_sent_whatever_their_names(tmp_path, capsys):
    """No UTF-8, with line ends, or of 255 bytes; what is no DICOM is named and escaped."""
    names = [b"M\xe4use.dcm", b"a\nb\x1b[2J.dcm", b"n" * 255]
    for name, ds in zip(names, slices(), strict=False):
        (tmp_path / os.fsdecode(name)).write_bytes(encoded(ds))
        (tmp_path / os.fsdecode(b"no" + name[:250])).write_text("mouse 12")
    archive = Archive()
    with peer(archive) as port:
        assert main.main(["send", str(tmp_path), "--to", f"127.0.0.1:{port}"]) == 0
    assert len(archive.taken) == len(names)
    # A long path is broken at the edge of the screen.
    out = capsys.readouterr().out.replace("\n", "")
    assert r"noM\xe4use.dcm" in out
    assert r"noa\nb\x1b[2J.dcm" in out
    assert out.isprintable()


def test_a_file_without_preamble_or_file_meta_is_sent(tmp_path, capsys):
    """As archives store them: the data set alone, or behind file meta without a preamble."""
    one, two, three = slices()[:3]
    (tmp_path / "whole.dcm").write_bytes(encoded(one))
    (tmp_path / "no-preamble.dcm").write_bytes(encoded(two)[132:])
    (tmp_path / "data-set.dcm").write_bytes(encode(three, False, True))
    archive = Archive()
    with peer(archive) as port:
        assert main.main(["send", str(tmp_path), "--to", f"127.0.0.1:{port}"]) == 0
    assert sorted(ds.InstanceNumber for ds in archive.taken) == [1, 2, 3]
    assert "left out" not in capsys.readouterr().out


def test_a_dicomdir_is_left_out(series, capsys):
    """A DICOM file that is no instance, as on every CD."""
    ds = slices()[0]
    del ds.SOPClassUID
    (series / "DICOMDIR").write_bytes(encoded(ds))
    archive = Archive()
    with peer(archive) as port:
        assert main.main(["send", str(series), "--to", f"127.0.0.1:{port}"]) == 0
    assert len(archive.taken) == COUNT
    # A long path is broken at the edge of the screen.
    assert "DICOMDIR" in capsys.readouterr().out.replace("\n", "")


def test_refused_files_are_counted(series, capsys):
    """Exit code 1, how many, and with which status."""
    with peer(Archive(0x0000, 0xC001, 0xC001, 0xA700, 0x0000)) as port:
        code = main.main(["send", str(series), "--to", f"127.0.0.1:{port}"])
    assert code == 1
    said = capsys.readouterr().err
    assert f"refused 3 of {COUNT} files: 2 x 0xC001, 1 x 0xA700" in said


def test_a_peer_that_takes_no_such_class(tmp_path, capsys):
    """A message with the class, not a traceback."""
    (tmp_path / "pet.dcm").write_bytes(
        encoded(other_modality(PositronEmissionTomographyImageStorage, "PT"))
    )
    with peer(Archive(), classes=[CTImageStorage]) as port:
        assert main.main(["send", str(tmp_path), "--to", f"127.0.0.1:{port}"]) == 1
    assert str(port) in capsys.readouterr().err


def test_nobody_there(series, capsys):
    """Exit code 1 and the peer's name."""
    port = free_port()
    assert main.main(["send", str(series), "--to", f"127.0.0.1:{port}"]) == 1
    assert f"LIMN@127.0.0.1:{port} does not answer" in capsys.readouterr().err


@pytest.mark.parametrize(
    "to", ["127.0.0.1", "host:", ":104", "host:dicom", "host:0", "host:65536", "host:-1", "host:²"]
)
def test_an_address_that_is_none(series, to):
    """The message asks for HOST:PORT and gives an example."""
    with pytest.raises(ConfigWrong, match="HOST:PORT expected"):
        send_folder(series, to, called="LIMN", calling="LIMNSEND")


@pytest.mark.parametrize("name", ["empty", "absent"])
def test_a_folder_without_dicom(tmp_path, capsys, name):
    """An empty and a missing folder are refused before limn connects to a peer."""
    (tmp_path / "empty").mkdir()
    assert main.main(["send", str(tmp_path / name), "--to", f"127.0.0.1:{free_port()}"]) == 1
    assert f"{name} has no DICOM file" in " ".join(capsys.readouterr().err.split())
