import os
import shutil
import time

import pytest

from limn.domain.errors import BundleUnfit
from limn.domain.shipped import MANIFEST
from limn.segment.bundle.bundle import glance, open_bundle, write_manifest
from limn.segment.bundle.shelf import bundles, find, install, pack_bundle
from tests.conftest import BUNDLE


@pytest.fixture
def copy(tmp_path):
    """A bundle of our own to change."""
    return shutil.copytree(BUNDLE, tmp_path / "bundle")


def reseal(folder, before, after):
    """The bundle with another manifest, sealed anew."""
    head = (folder / MANIFEST).read_text().split("\n[files]\n")[0]
    assert before in head
    (folder / "new.toml").unlink(missing_ok=True)
    write_manifest(folder, head.replace(before, after))


def test_a_folder_and_its_zip_install_alike(copy, tmp_path):
    """What is installed is the bundle's own files, verified, under name and version."""
    (copy / "notes.txt").write_text("not of the bundle")
    pack_bundle(copy, tmp_path / "b.zip")
    one = install(copy, tmp_path / "one")
    two = install(tmp_path / "b.zip", tmp_path / "two")
    assert one.name == two.name == "phantom-7"
    assert open_bundle(one).sha256 == open_bundle(two).sha256 == open_bundle(BUNDLE).sha256
    assert not (one / "notes.txt").exists()
    assert [found.name for found in (tmp_path / "one").iterdir()] == ["phantom-7"]
    assert [found.label for found in bundles(tmp_path / "one")] == ["phantom-7"]


def test_installing_again_changes_nothing(copy, tmp_path):
    """The same bundle a second time is no error."""
    first = install(copy, tmp_path / "shelf")
    assert install(copy, tmp_path / "shelf") == first


def test_other_weights_of_the_same_name_are_refused(copy, tmp_path):
    """The installed bundle stays as it is."""
    standing = install(copy, tmp_path / "shelf")
    reseal(copy, "460 digital", "231 digital")
    with pytest.raises(BundleUnfit, match="holds another bundle of that name and version"):
        install(copy, tmp_path / "shelf")
    assert open_bundle(standing).sha256 == open_bundle(BUNDLE).sha256


def test_what_a_killed_command_left_goes_after_a_day(copy, tmp_path):
    """Only an old one is removed: another command may be using a new one."""
    shelf = tmp_path / "shelf"
    old, young = shelf / ".incoming-old", shelf / ".incoming-young"
    for folder in (old, young):
        folder.mkdir(parents=True)
        (folder / "half").write_text("a checkpoint")
    os.utime(old, (0, time.time() - 25 * 3600))
    install(copy, shelf)
    assert young.exists()
    assert not old.exists()


def test_a_damaged_bundle_leaves_nothing(copy, tmp_path):
    """A wrong hash is found before anything appears."""
    (copy / "plans.json").write_text("{}")
    with pytest.raises(BundleUnfit, match=r"plans\.json has sha256"):
        install(copy, tmp_path / "shelf")
    assert not (tmp_path / "shelf").exists() or not list((tmp_path / "shelf").iterdir())


@pytest.mark.parametrize("name", ["../evil", "a/b", ".hidden", ""])
def test_a_name_that_is_no_folder_is_refused(copy, tmp_path, name):
    """A manifest can't choose a place outside of the shelf."""
    reseal(copy, 'name = "phantom"\nversion = "7"', f'name = "{name}"\nversion = "7"')
    if name == "":
        assert glance(copy).label == "-7"
        return
    with pytest.raises(BundleUnfit, match="can't be the name of a folder"):
        install(copy, tmp_path / "shelf")


def test_a_manifest_that_lists_files_elsewhere_is_refused(copy):
    """Only files of the bundle's own folder are hashed, copied or packed."""
    text = (copy / MANIFEST).read_text()
    (copy / MANIFEST).write_text(text + f'"../outside" = "{"0" * 64}"\n')
    with pytest.raises(BundleUnfit, match=r"\.\./outside"):
        open_bundle(copy)


def test_packing_does_not_overwrite(copy, tmp_path):
    """An archive that exists stays."""
    (tmp_path / "b.zip").write_text("mine")
    with pytest.raises(BundleUnfit, match="exists; nothing was written"):
        pack_bundle(copy, tmp_path / "b.zip")
    assert (tmp_path / "b.zip").read_text() == "mine"


def test_a_bundle_is_found_by_name_or_place(copy, tmp_path):
    """Both are accepted; anything else names the shelf."""
    standing = install(copy, tmp_path / "shelf")
    by_place = find(tmp_path / "shelf", str(standing), {})
    assert find(tmp_path / "shelf", "phantom-7", {}) == by_place
    assert find(tmp_path / "shelf", "other", {"other": tmp_path}) == tmp_path
    with pytest.raises(BundleUnfit, match="no bundle phantom-9"):
        find(tmp_path / "shelf", "phantom-9", {})
