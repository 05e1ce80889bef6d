"""What the page of a scan says of a shadow bundle, and of the bundle that drew it."""

from limn.domain.records import OrganDifference
from limn.node.config import load_config
from limn.node.store.disk.comparisons import Comparison, write_comparison
from tests.support.node.viewed import file_scan
from tests.support.organs import Organ


def compared(scan, new, **changes):
    """A comparison of a heart and of an organ that the old bundle lacks."""
    organs = (
        OrganDifference(
            organ=Organ.HEART,
            dsc=0.912,
            hd95_mm=0.42,
            old_mm3=200.0,
            new_mm3=210.0,
            old_light="green",
            new_light="amber",
        ),
        OrganDifference(
            organ=Organ.CORD, dsc=None, hd95_mm=None, old_mm3=None, new_mm3=31.0, new_light="green"
        ),
    )
    values = {"scan": scan, "animal": "M1", "at": 1.0, "old": "a-1", "old_sha256": "a" * 64}
    values |= {"new": new, "new_sha256": new[0] * 64, "organs": organs}
    return Comparison(**(values | changes))


def test_the_page_of_a_scan_shows_each_shadow(site, browser):
    """Figures of what it drew, or why it drew nothing; no other page knows of it."""
    folder = load_config(site.config).shadow_dir
    row, other = (file_scan(site, number) for number in (1, 2))
    write_comparison(folder, compared(row.id, "b-1"))
    failed = {"outcome": "failed", "reason": "no <mouse>", "organs": ()}
    write_comparison(folder, compared(row.id, "c-2", **failed))
    page = browser.get(f"/{row.name}").text
    assert "as the shadow b-1 drew it; nothing of it was sent" in page
    for cell in ("210.0", "+5.0 %", "0.912", "0.42", '<span class="light amber">amber</span>'):
        assert cell in page
    assert "the shadow c-2 drew nothing of it: no &lt;mouse&gt;" in page
    assert "shadow" not in browser.get(f"/{other.name}").text


def test_the_page_names_the_bundle_that_drew(site, browser):
    """Not the one that was there when the scan came: a promotion may lie between."""
    record = {"bundle": "second-2", "bundle_sha256": "5ec0" * 16}
    row = file_scan(site, 1, record=record)
    page = browser.get(f"/{row.name}").text
    assert "5ec0" * 4 in page
    assert row.bundle_sha256[:16] not in page
