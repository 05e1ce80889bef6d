import hashlib
import shutil
import subprocess

import pytest

from limn.domain.errors import BundleUnfit
from limn.domain.geometry import SpacingMm
from limn.domain.shipped import MANIFEST
from limn.segment.bundle.bundle import CleanRule, open_bundle, write_manifest
from limn.segment.engine.ensemble import Ensemble
from tests.conftest import BUNDLE
from tests.support.organs import Organ


@pytest.fixture
def copy(tmp_path):
    """A bundle of our own to damage."""
    return shutil.copytree(BUNDLE, tmp_path / "bundle")


def test_the_embedded_bundle_opens():
    """The embedded bundle is sound and says what it is for."""
    bundle = open_bundle(BUNDLE)
    assert bundle.label == "phantom-7"
    assert bundle.demonstration
    assert "not for animals" in bundle.not_for
    assert bundle.folds == (0, 1, 2, 3, 4)
    assert set(bundle.organs.values()) == set(Organ)
    assert bundle.spacing_mm == SpacingMm(0.2, 0.2, 0.2)
    assert bundle.clean[Organ.CORD] == CleanRule("pieces", 1.0, 6.0)


def test_the_manifests_hashes_are_sha256sums():
    """Coreutils' sha256sum finds the hash of every file as the manifest has it."""
    lines = (BUNDLE / MANIFEST).read_text().split("\n[files]\n")[1].splitlines()
    sums = "".join(
        f"{wanted.strip(chr(34))}  {name.strip(chr(34))}\n"
        for name, wanted in (line.split(" = ") for line in lines)
    )
    checked = subprocess.run(
        ["sha256sum", "--check", "--strict"], cwd=BUNDLE, input=sums, text=True, check=True,
        capture_output=True,
    )  # fmt: skip
    assert checked.stdout.count(": OK") == 11


@pytest.mark.parametrize(("name", "kind"), [("orient", "onlooker"), ("localiser", "localiser")])
def test_wrong_small_networks_are_the_bundles_fault(copy, name, kind):
    """A sealed bundle with a file that is no onlooker is unfit, and the file is named."""
    (copy / f"{name}.pth").write_bytes(b"PK no weights")
    head = (copy / MANIFEST).read_text().split("\n[files]\n")[0]
    write_manifest(copy, head)
    with pytest.raises(BundleUnfit, match=rf"{name}.pth is no {kind}"):
        Ensemble.load(open_bundle(copy), "cpu")


def test_a_bundle_is_known_by_its_manifests_hash():
    """The bundle's identity is the sha256 of its manifest."""
    wanted = hashlib.sha256((BUNDLE / MANIFEST).read_bytes()).hexdigest()
    assert open_bundle(BUNDLE).sha256 == wanted


@pytest.mark.parametrize("name", ["fold_3/checkpoint_final.pth", "plans.json", "dataset.json"])
def test_a_flipped_byte_is_found(copy, name):
    """One changed byte in any file makes the bundle unfit, and the file is named."""
    contents = bytearray((copy / name).read_bytes())
    contents[len(contents) // 2] ^= 1
    (copy / name).write_bytes(contents)
    with pytest.raises(BundleUnfit, match=rf"{name} has sha256 .* not opened"):
        open_bundle(copy)


@pytest.mark.parametrize("name", ["fold_0/checkpoint_final.pth", "plans.json"])
def test_a_missing_file_is_found(copy, name):
    """A file that the manifest lists and the folder lacks is named."""
    (copy / name).unlink()
    with pytest.raises(BundleUnfit, match=rf"{name} is missing"):
        open_bundle(copy)


@pytest.mark.parametrize("name", ["fold_4/checkpoint_final.pth", "plans.json", "dataset.json"])
def test_a_file_without_hash_is_not_trusted(copy, name):
    """A needed file without a hash in the manifest makes the bundle unfit."""
    lines = (copy / MANIFEST).read_text().splitlines(keepends=True)
    kept = [line for line in lines if not line.startswith(f'"{name}"')]
    (copy / MANIFEST).write_text("".join(kept))
    with pytest.raises(BundleUnfit, match=rf"lists no sha256 for {name}"):
        open_bundle(copy)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ('name = "phantom"', "name = "),
        ('name = "phantom"', "nme = 1"),
        ('1 = "Heart"', '1 = "Hart"'),
        ("spacing_mm = [0.2, 0.2, 0.2]", "spacing_mm = [0.28]"),
        ("expected_hu = [-1200, 1500]", "expected_hu = 3"),
        ("folds = [0, 1, 2, 3, 4]", 'folds = ["first"]'),
        ('keep = "largest"', 'hold = "largest"'),
        ("\n[files]\n", "\n[flies]\n"),
        ("[labels]\n", "labels = 7\n[others]\n"),
        ('version = "7"', 'version = "\x80\udcff"'),
    ],
)
def test_a_garbled_manifest_is_named(copy, before, after):
    """A manifest that can't be read or lacks a key gives a refusal and no traceback."""
    text = (copy / MANIFEST).read_text()
    assert before in text
    garbled = text.replace(before, after, 1)
    (copy / MANIFEST).write_bytes(garbled.encode("utf-8", "surrogateescape"))
    with pytest.raises(BundleUnfit, match=r"bundle\.toml is not usable"):
        open_bundle(copy)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ('orientation = "SPL"', 'orientation = "SPX"'),
        ('orientation = "SPL"', 'orientation = "SPP"'),
        ('orientation = "SPL"', 'orientation = "SP"'),
        ('keep = "largest"', 'keep = "all"'),
        ("spacing_mm = [0.2, 0.2, 0.2]", "spacing_mm = [0.2, 0.0, 0.2]"),
        ("folds = [0, 1, 2, 3, 4]", "folds = []"),
        ("[clean.Heart]", "[clean.Hearts]"),
    ],
)
def test_a_manifest_that_makes_no_sense_is_named(copy, before, after):
    """Values that would fail in the middle of a scan are refused when the bundle is opened."""
    text = (copy / MANIFEST).read_text()
    assert before in text
    (copy / MANIFEST).write_text(text.replace(before, after, 1))
    with pytest.raises(BundleUnfit, match=r"bundle\.toml is not usable"):
        open_bundle(copy)


def test_an_organ_without_a_clean_rule_is_named(copy):
    """Every organ that the bundle labels needs a rule of cleaning."""
    text = (copy / MANIFEST).read_text()
    (copy / MANIFEST).write_text(text.replace('[clean.Heart]\nkeep = "largest"\n', ""))
    with pytest.raises(BundleUnfit, match=r"bundle\.toml is not usable.*Heart"):
        open_bundle(copy)


def test_a_folder_without_manifest_is_no_bundle(tmp_path):
    """Without bundle.toml the refusal says what to give instead."""
    with pytest.raises(BundleUnfit, match=r"can't read bundle\.toml.*give the folder of a bundle"):
        open_bundle(tmp_path)


def test_a_sealed_folder_opens(copy):
    """Sealing a changed folder again makes it a bundle with another identity."""
    before = open_bundle(copy).sha256
    head = (copy / MANIFEST).read_text().split("\n[files]\n")[0]
    with (copy / "dataset.json").open("a") as file:
        file.write("\n")
    write_manifest(copy, head)
    assert open_bundle(copy).sha256 != before


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        (
            '3 = "Lung_R"\n4 = "Lung_L"',
            '3 = "Lung_L"\n4 = "Lung_R"',
            "label 3 is Lung_L.*Lung_R in",
        ),
        ('2 = "SpinalCord"', '2 = "Heart"', "every organ once"),
        ('4 = "Lung_L"', '0 = "Lung_L"', "1, 2, 3 ... and every organ once"),
        ('4 = "Lung_L"', '7 = "Lung_L"', "1, 2, 3 ... and every organ once"),
        ('4 = "Lung_L"\n', "", r"names the labels \[1, 2, 3\], dataset.json \[1, 2, 3, 4\]"),
        ("spacing_mm = [0.2, 0.2, 0.2]", "spacing_mm = [0.2, inf, 0.2]", "is not positive"),
        ("expected_hu = [-1200, 1500]", "expected_hu = [1500, -1200]", "the smaller first"),
        ("expected_hu = [-1200, 1500]", "expected_hu = [nan, 1500]", "the smaller first"),
    ],
)
def test_a_manifest_that_contradicts_its_training_is_refused(copy, old, new, complaint):
    """No left lung may be the training's right one, and no label may lack an organ."""
    text = (copy / MANIFEST).read_text()
    assert old in text
    (copy / MANIFEST).write_text(text.replace(old, new))
    with pytest.raises(BundleUnfit, match=complaint):
        open_bundle(copy)


def test_a_manifest_without_bottom_is_no_bundle(copy):
    """Deeply nested brackets give a refusal."""
    (copy / MANIFEST).write_text("a = " + "[" * 100_000)
    with pytest.raises(BundleUnfit, match=r"bundle\.toml is not usable"):
        open_bundle(copy)


def test_a_file_of_another_account_is_named(copy, monkeypatch):
    """Root may install a bundle that the account of the node can't read."""

    def locked(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("limn.segment.bundle.bundle.sha256_of", locked)
    with pytest.raises(
        BundleUnfit, match=r"json: Permission denied; let the account that runs limn"
    ):
        open_bundle(copy)


@pytest.mark.parametrize(
    ("line", "field", "value"),
    [
        ('profile = "stock"', "profile", "stock"),
        ("mirror_axes = [0, 2]", "mirror_axes", (0, 2)),
        ('source = "doi:10.5281/zenodo.1"', "source", "doi:10.5281/zenodo.1"),
        ('previous = "low-1"', "previous", "low-1"),
    ],
)
def test_what_a_bundle_may_say_besides(copy, line, field, value):
    """Keys that a manifest may leave out are read; left out they have defaults."""
    defaults = {"profile": "paper", "mirror_axes": (), "source": "", "previous": ""}
    text = (copy / MANIFEST).read_text().replace('profile = "fast"\n', "")
    text = text.replace("mirror_axes = []\n", "")
    (copy / MANIFEST).write_text(text)
    assert {key: getattr(open_bundle(copy), key) for key in defaults} == defaults
    (copy / MANIFEST).write_text(f"{line}\n{text}")
    assert getattr(open_bundle(copy), field) == value


@pytest.mark.parametrize("line", ['profile = "best"', "mirror_axes = [3]", "mirror_axes = 1"])
def test_a_profile_or_axis_that_is_none_is_named(copy, line):
    """A profile that limn does not know makes the bundle unfit."""
    text = (copy / MANIFEST).read_text().replace('profile = "fast"\n', "")
    text = text.replace("mirror_axes = []\n", "")
    (copy / MANIFEST).write_text(f"{line}\n{text}")
    with pytest.raises(BundleUnfit, match=r"bundle\.toml is not usable"):
        open_bundle(copy)
