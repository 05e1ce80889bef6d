"""Accounts of the board in a real Chromium: sign in, act, sign out; and what a phone shows."""

import os
from pathlib import Path

import pytest

from limn.node.config import load_config
from limn.node.store.disk.board_accounts import accounts_to_change
from tests.node.board.conftest import PASSWORDS, give_accounts, with_picture
from tests.node.board.test_browser import WIDTHS, chromium, page_of

pytestmark = [pytest.mark.slow, pytest.mark.peer]
__all__ = ["chromium"]


def sign_in(page, name):
    """As a person does."""
    page.get_by_label("name").fill(name)
    page.get_by_label("password").fill(PASSWORDS[name])
    page.get_by_role("button", name="sign in").click()


def test_sign_in_act_and_sign_out(site, served, chromium):
    """Back to the page that was asked for; the account's name is that of the release."""
    give_accounts(site)
    row = site.contoured(1, held="the image is mirrored")
    with_picture(site, row)
    page, errors = page_of(chromium)
    page.goto(f"{served}/{row.name}")
    page.get_by_label("name").fill("Anna")
    page.get_by_label("password").fill("not her password")
    page.get_by_role("button", name="sign in").click()
    page.get_by_text("name or password is wrong").wait_for()
    # Chromium says each answer of 403 in its console.
    assert [each for each in errors if "403" not in each] == []
    errors.clear()
    sign_in(page, "Anna")
    page.get_by_text("the image is mirrored").first.wait_for()
    form = page.locator("form[action$='/release']")
    assert form.get_by_label("your name").count() == 0
    form.get_by_label("reason").fill("looked at it")
    form.get_by_role("button").click()
    page.get_by_text("release: done, by Anna").wait_for()
    structure_set = site.journal.structure_set_of(row.id)
    assert (structure_set.released_by, structure_set.release_why) == ("Anna", "looked at it")
    page.get_by_role("button", name="sign out").click()
    page.get_by_role("heading", name="Sign in").wait_for()
    page.go_back()
    page.get_by_role("heading", name="Sign in").wait_for()
    assert errors == []


def test_an_open_page_goes_to_the_sign_in_when_its_session_ends(site, served, chromium):
    """Somebody removed the account; no old line stays on the screen."""
    give_accounts(site)
    site.contoured(1, held="the image is mirrored")
    page, errors = page_of(chromium)
    page.goto(served)
    sign_in(page, "Wall")
    page.get_by_text("the image is mirrored").first.wait_for()
    page.wait_for_timeout(1000)
    with accounts_to_change(load_config(site.config).board_accounts_path) as accounts:
        del accounts["Wall"]
    page.get_by_role("heading", name="Sign in").wait_for()
    assert page.get_by_text("the image is mirrored").count() == 0
    assert errors == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("device", WIDTHS)
def test_no_page_of_an_account_is_wider_than_the_screen(
    site, served, chromium, tmp_path, device, scheme
):
    """The sign-in, and pages with a long name in their head; pictures stay for people."""
    path = give_accounts(site)
    with accounts_to_change(path) as accounts:
        long_name = "Wilhelmina von Hohenzollern-Sigmaringen the Second of Example B."
        known = accounts["Anna"]
        accounts[long_name] = type(known)(long_name, "act", known.hashed)
    held = site.contoured(2, held="left and right are in doubt: look at the picture")
    with_picture(site, held)
    page, errors = page_of(chromium, WIDTHS[device], scheme)
    folder = Path(os.environ.get("LIMN_SCREENSHOTS", tmp_path))

    def look_at(name):
        wide = page.evaluate("document.documentElement.scrollWidth - window.innerWidth")
        assert wide <= 0, (name, wide)
        page.screenshot(path=str(folder / f"{name}-{device}-{scheme}.png"), full_page=True)

    page.goto(served)
    look_at("sign-in")
    page.get_by_label("name").fill(long_name)
    page.get_by_label("password").fill(PASSWORDS["Anna"])
    page.get_by_role("button", name="sign in").click()
    for name, where in (("live", "/"), ("scan", f"/{held.name}"), ("history", "/history")):
        page.goto(served + where)
        look_at(f"account-{name}")
    assert errors == []
