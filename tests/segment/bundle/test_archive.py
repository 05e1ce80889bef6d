import os
import stat
import zipfile

import pytest

from limn.domain.errors import BundleUnfit
from limn.segment.bundle.archive import is_inside, pack, unpack


def everything(_):
    """Every file is wanted."""
    return True


def zipped(path, entries):
    """A zip of names (or entries) and contents."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
        for name, content in entries:
            packed.writestr(name, content)
    return path


def link(name):
    """An entry that is a symbolic link."""
    entry = zipfile.ZipInfo(name)
    entry.create_system = 3
    entry.external_attr = (stat.S_IFLNK | 0o777) << 16
    return entry


@pytest.mark.parametrize(
    "name", ["../out", "a/../../out", "/etc/out", "C:/out", "a\\..\\out", "a//b", "./a"]
)
def test_no_entry_leaves_the_folder(tmp_path, name):
    """A name that points elsewhere refuses the whole archive before a byte is written."""
    path = zipped(tmp_path / "x.zip", [("good", b"1"), (name, b"2")])
    with pytest.raises(BundleUnfit, match=r"x\.zip is refused and nothing was unpacked"):
        unpack(path, tmp_path / "into", everything)
    assert [left.name for left in tmp_path.iterdir()] == ["x.zip"]
    assert not is_inside(name)


def test_links_doubles_and_bombs_are_refused(tmp_path):
    """A link, a name that occurs twice, and a file that grows a thousandfold are refused."""
    into = tmp_path / "into"
    path = zipped(tmp_path / "link.zip", [(link("fold_0"), b"/etc")])
    with pytest.raises(BundleUnfit, match="'fold_0' is a link"):
        unpack(path, into, everything)
    path = zipped(tmp_path / "twice.zip", [("plans.pkl", b"1"), ("PLANS.pkl", b"2")])
    with pytest.raises(BundleUnfit, match="occurs twice"):
        unpack(path, into, everything)
    path = zipped(tmp_path / "bomb.zip", [("fold_0/x.model", b"\0" * 2**25)])
    with pytest.raises(BundleUnfit, match="grows from"):
        unpack(path, into, everything)
    assert not into.exists()


def test_a_damaged_entry_is_refused(tmp_path):
    """If bytes were changed on the way, the refusal names the archive."""
    path = zipped(tmp_path / "x.zip", [("plans.json", bytes(range(256)) * 400)])
    contents = bytearray(path.read_bytes())
    contents[60:80] = b"\xff" * 20
    path.write_bytes(contents)
    with pytest.raises(BundleUnfit, match=r"x\.zip is no sound zip"):
        unpack(path, tmp_path / "into", everything)


def test_a_name_that_is_no_utf_8_is_refused(tmp_path):
    """The flag says UTF-8, but the bytes are no UTF-8."""
    path = zipped(tmp_path / "x.zip", [("mäuse", b"1")])
    path.write_bytes(path.read_bytes().replace("ä".encode(), b"\xe9\xe9"))
    with pytest.raises(BundleUnfit, match=r"x\.zip is no sound zip"):
        unpack(path, tmp_path / "into", everything)


def test_a_size_that_lies_is_found(tmp_path):
    """An entry that declares fewer bytes than it unpacks to is no sound zip."""
    path = zipped(tmp_path / "x.zip", [("plans.pkl", b"a" * 5000)])
    raw = path.read_bytes()
    assert raw.count((5000).to_bytes(4, "little")) == 2
    path.write_bytes(raw.replace((5000).to_bytes(4, "little"), (50).to_bytes(4, "little")))
    with pytest.raises(BundleUnfit, match=r"x\.zip"):
        unpack(path, tmp_path / "into", everything)


def test_only_what_is_wanted_is_unpacked(tmp_path):
    """Predictions and pictures stay in the archive."""
    path = zipped(tmp_path / "x.zip", [("a/plans.pkl", b"1"), ("a/validation/p.nii.gz", b"2")])
    written = unpack(path, tmp_path / "into", lambda name: name.match("plans.pkl"))
    assert [p.relative_to(tmp_path).as_posix() for p in written] == ["into/a/plans.pkl"]


def test_a_text_is_no_zip(tmp_path):
    """A file that is no zip gives a message that names it."""
    (tmp_path / "x.zip").write_text("hello")
    with pytest.raises(BundleUnfit, match="no sound zip"):
        unpack(tmp_path / "x.zip", tmp_path / "into", everything)


def test_packing_twice_gives_the_same_bytes(tmp_path):
    """Times and order of the files do not matter; the packed files come out again."""
    folder = tmp_path / "b"
    (folder / "fold_0").mkdir(parents=True)
    (folder / "fold_0/w.pth").write_bytes(b"weights")
    (folder / "plans.json").write_text("{}")
    names = ["plans.json", "fold_0/w.pth"]
    pack(folder, names, "b-1", tmp_path / "one.zip")
    os.utime(folder / "plans.json", (0, 10**9))
    pack(folder, reversed(names), "b-1", tmp_path / "two.zip")
    assert (tmp_path / "one.zip").read_bytes() == (tmp_path / "two.zip").read_bytes()
    unpack(tmp_path / "one.zip", tmp_path / "into", everything)
    assert (tmp_path / "into/b-1/fold_0/w.pth").read_bytes() == b"weights"
