"""Which bundle delivers: the config's, or one that a person promoted with a name and a reason."""

import errno
import re
import shutil
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import pytest

from limn.cli import main
from limn.domain.errors import ConfigWrong
from limn.domain.shipped import MANIFEST
from limn.node import promotions as promotions_module
from limn.node.config import load_config
from limn.node.operate.bundles import promote as promote_module
from limn.node.promotions import end_wait, read_promotions, waiting_promotion
from limn.node.restarts import LOOP, RestartLoop
from limn.node.serve.lock import only_node
from limn.node.serve.supervisor import Supervisor
from limn.node.serve.switch import BundleSwitch, promoted_config
from limn.node.store.disk import space
from limn.segment.bundle.bundle import glance, write_manifest
from tests.conftest import free_port, one_fold

CONFIG = """
data_dir = "data"
[model]
bundle = "{bundle}"   # our own comment
allow_demo_bundle = {demo}
[engine]
wake_port = {wake}
[[destination]]
kind = "folder"
name = "tps"
folder = "tps"
"""


def other_bundle(folder, version):
    """A copy of the one-fold bundle under another version, so another hash."""
    shutil.copytree(one_fold(), folder)
    head = (folder / MANIFEST).read_text(encoding="utf-8").split("\n[files]\n")[0]
    write_manifest(folder, re.sub(r"(?m)^version = .*$", f'version = "{version}"', head))
    return folder


@pytest.fixture
def config(tmp_path):
    """A site with the one-fold bundle, and a second bundle beside it."""
    other_bundle(tmp_path / "second", "2nd")
    path = tmp_path / "limn.toml"
    path.write_text(CONFIG.format(bundle=one_fold(), wake=free_port(), demo="true"))
    return path


def limn(config, *arguments):
    """``limn models promote``; returns the exit code."""
    return main.main(["models", "promote", "--config", str(config), *map(str, arguments)])


SIGNED = ("--by", "A. Physicist", "--why", "better hearts on 40 scans")


def test_promoted_and_back_without_touching_the_toml(config, tmp_path, capsys):
    """Each has a name and a reason; the last one counts."""
    text, first = config.read_text(), load_config(config).model.bundle
    assert limn(config, tmp_path / "second", *SIGNED) == 0
    assert load_config(config).model.bundle == tmp_path / "second"
    said = capsys.readouterr().out
    assert "no scan was compared with" in said
    assert "delivers from the node's next start" in said
    assert limn(config, tmp_path / "second", *SIGNED) == 1
    assert "delivers already" in capsys.readouterr().err
    assert limn(config, "--back", *SIGNED) == 0
    assert load_config(config).model.bundle == first
    assert config.read_text() == text
    # The one before has delivered here, and needs no comparison.
    assert "no scan was compared with" not in capsys.readouterr().out
    assert limn(config) == 0
    lines = capsys.readouterr().out.splitlines()
    labels = [glance(tmp_path / "second").label, glance(first).label]
    assert [label in line for label, line in zip(labels, lines, strict=False)] == [True, True]
    assert all("A. Physicist: better hearts on 40 scans; in force since" in x for x in lines[:2])
    assert lines[2] == f"{labels[1]}, {glance(first).sha256[:12]}, delivers, by {config}"


def test_who_edits_the_config_decides_anew(config, tmp_path):
    """The promotion was of another line."""
    assert limn(config, tmp_path / "second", *SIGNED) == 0
    third = other_bundle(tmp_path / "third", "3rd")
    config.write_text(config.read_text().replace(str(one_fold()), str(third)))
    assert load_config(config).model.bundle == third
    assert limn(config, "--back", *SIGNED) == 1


def test_what_is_refused(config, tmp_path, capsys):
    """A bundle that may not deliver here, no name, a damaged file, nothing to take back."""
    assert limn(config, "--back", *SIGNED) == 1
    assert "nothing was promoted" in capsys.readouterr().err
    for arguments in ([tmp_path / "second", "--by", "A"], [tmp_path / "second", "--back", *SIGNED]):
        with pytest.raises(SystemExit):
            limn(config, *arguments)
    assert limn(config, tmp_path / "second", "--by", " ", "--why", "x y") == 1
    assert "--by is empty" in capsys.readouterr().err
    weights = next((tmp_path / "second").glob("fold_0/*.pth"))
    weights.write_bytes(weights.read_bytes()[:-1] + b"?")
    assert limn(config, tmp_path / "second", *SIGNED) == 1
    assert limn(config, tmp_path / "nowhere", *SIGNED) == 1
    config.write_text(config.read_text().replace("demo_bundle = true", "demo_bundle = false"))
    assert limn(config, other_bundle(tmp_path / "third", "3rd"), *SIGNED) == 1
    assert "is for demonstration" in capsys.readouterr().err
    assert read_promotions(tmp_path / "data") == []
    (tmp_path / "data").mkdir(exist_ok=True)
    (tmp_path / "data" / "promotions.json").write_text('[{"bundle": 1}]')
    with pytest.raises(ConfigWrong, match="says which bundle delivers"):
        load_config(config)


def test_a_node_that_runs_takes_it_up_itself(config, tmp_path, capsys):
    """Until then every process reads the bundle before; a newer one replaces one that waits."""
    first = load_config(config)
    first.data_dir.mkdir()
    with only_node(first, "limn"):
        assert limn(config, tmp_path / "second", *SIGNED) == 0
        assert "delivers once nothing comes in, waits or runs" in capsys.readouterr().out
        assert load_config(config) == first
        third = other_bundle(tmp_path / "third", "3rd")
        assert limn(config, third, *SIGNED) == 0
        old, new = read_promotions(first.data_dir)
        assert not old.waits
        assert "was promoted after it" in old.refused
        assert new.waits
        taken = promoted_config(config, first.data_dir)
        assert taken is not None
        promotion, promoted = taken
        assert promoted.model.bundle == third
        assert load_config(config) == first
        assert end_wait(first.data_dir, promotion, time.time()) is not None
        assert load_config(config) == promoted
        assert promoted_config(config, first.data_dir) is None

        assert limn(config, "--back", *SIGNED) == 0
        assert limn(config, "--back", *SIGNED) == 0
        assert "is withdrawn" in capsys.readouterr().out
        assert waiting_promotion(first.data_dir) is None
        assert load_config(config) == promoted


def test_a_node_refuses_what_was_changed_since(config, tmp_path):
    """The bundle that delivers goes on."""
    first = load_config(config)
    first.data_dir.mkdir()
    with only_node(first, "limn"):
        assert limn(config, tmp_path / "second", *SIGNED) == 0
    shutil.rmtree(tmp_path / "second")
    other_bundle(tmp_path / "second", "changed")
    assert promoted_config(config, first.data_dir) is None
    (refused,) = read_promotions(first.data_dir)
    assert "was changed since it was promoted" in refused.refused
    assert load_config(config) == first


def test_what_a_person_decides_meanwhile_is_kept(config, tmp_path):
    """While the processes stop, a newer one comes, or the one that they stop for is withdrawn."""
    first, third = load_config(config), other_bundle(tmp_path / "third", "3rd")
    first.data_dir.mkdir()
    with only_node(first, "limn"):
        assert limn(config, tmp_path / "second", *SIGNED) == 0
        second, _ = promoted_config(config, first.data_dir)
        assert limn(config, third, *SIGNED) == 0
        assert end_wait(first.data_dir, second, time.time()) is None
        assert waiting_promotion(first.data_dir).bundle == str(third)
        newer, _ = promoted_config(config, first.data_dir)
        assert limn(config, "--back", *SIGNED) == 0
        assert end_wait(first.data_dir, newer, time.time()) is None
        assert waiting_promotion(first.data_dir) is None
        assert load_config(config) == first


def test_two_commands_at_once_lose_nothing(config, tmp_path, monkeypatch):
    """The second one reads what the first one wrote, whenever it begins."""
    first = load_config(config)
    folders = [tmp_path / "second", other_bundle(tmp_path / "third", "3rd")]
    first.data_dir.mkdir()
    both, read = threading.Barrier(2), promote_module.read_promotions

    def slow(data_dir):
        found = read(data_dir)
        # Without a lock both are here at once, with the same contents.
        with suppress(threading.BrokenBarrierError):
            both.wait(0.2)
        return found

    monkeypatch.setattr(promote_module, "read_promotions", slow)
    order = {"by": "A. Physicist", "why": "both at once"}
    with only_node(first, "limn"), ThreadPoolExecutor(2) as pool:
        every = [
            pool.submit(promote_module.promote, config, str(folder), **order) for folder in folders
        ]
        assert [each.result() for each in every] == [None, None]
    assert {each.bundle for each in read(first.data_dir)} == {str(folder) for folder in folders}
    assert [each.waits for each in read(first.data_dir)] == [False, True]


def test_taken_back_when_the_promoted_bundle_is_gone(config, tmp_path, capsys):
    """The way back must not need what it leads away from."""
    first = load_config(config)
    assert limn(config, tmp_path / "second", *SIGNED) == 0
    shutil.rmtree(tmp_path / "second")
    assert limn(config) == 0
    assert "second, which is no bundle any more, delivers" in capsys.readouterr().out
    assert limn(config, "--back", *SIGNED) == 0
    assert load_config(config) == first


def test_a_full_disk_leaves_the_bundle_before(config, tmp_path, monkeypatch):
    """The supervisor goes on, and does not stop its processes again at once."""
    first = load_config(config)
    first.data_dir.mkdir()
    with only_node(first, "limn"):
        assert limn(config, tmp_path / "second", *SIGNED) == 0

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    supervisor, children = Supervisor(config), [object()]
    supervisor._switch = BundleSwitch(first, receives=False)
    assert supervisor._switch.is_due()
    with monkeypatch.context() as patch:
        patch.setattr(promotions_module, "write_durably", full)
        supervisor._take_up_promotion(children)
    assert supervisor._config == first
    assert len(children) == 1
    assert not supervisor._switch.is_due()
    assert waiting_promotion(first.data_dir) is not None
    supervisor._take_up_promotion(children)
    assert waiting_promotion(first.data_dir) is None
    assert supervisor._config.model.bundle == tmp_path / "second"


class Child:
    """A process of the node as its supervisor sees it; ``ends`` times it has ended."""

    def __init__(self, name, ends=0):
        self.name, self.stopped = name, False
        self.loop = RestartLoop(name, None)
        for _ in range(ends):
            self.loop.ended(5)

    def stop(self, _):
        """Note it."""
        self.stopped = True


def test_a_bundle_that_no_worker_can_load_is_given_up(config, tmp_path, capsys):
    """The one before delivers again, and the list of promotions says why."""
    first = load_config(config)
    first.data_dir.mkdir()
    with only_node(first, "limn"):
        assert limn(config, tmp_path / "second", *SIGNED) == 0
    supervisor, children = Supervisor(config), []
    supervisor._take_up_promotion(children)
    assert load_config(config).model.bundle == tmp_path / "second"
    promotion = supervisor._on_trial
    children[:] = [Child("receiver", ends=9), worker := Child("worker", ends=LOOP - 1)]
    supervisor._try_promoted(promotion, children, "limn")
    assert not worker.stopped
    worker.loop.ended(5)
    supervisor._try_promoted(promotion, children, "limn")
    assert worker.stopped
    assert worker not in children
    assert supervisor._on_trial is None
    assert supervisor._config == load_config(config) == first
    capsys.readouterr()
    assert limn(config) == 0
    assert "not in force: given up: worker has ended 3 times in a row" in capsys.readouterr().out


def test_a_bundle_that_is_warm_is_on_trial_no_more(config, tmp_path):
    """What ends a worker later says nothing of the promotion."""
    first = load_config(config)
    first.data_dir.mkdir()
    with only_node(first, "limn"):
        assert limn(config, tmp_path / "second", *SIGNED) == 0
    supervisor = Supervisor(config)
    supervisor._take_up_promotion([])
    first.ready_path.touch()
    supervisor._try_promoted(supervisor._on_trial, [worker := Child("worker", ends=9)], "limn")
    assert supervisor._on_trial is None
    assert not worker.stopped
    assert load_config(config).model.bundle == tmp_path / "second"


def test_a_slice_that_comes_while_the_bundle_is_verified_comes_first(config, tmp_path, monkeypatch):
    """No process is stopped; the promotion waits for the next lull."""
    first = load_config(config)
    first.data_dir.mkdir()
    with only_node(first, "limn"):
        assert limn(config, tmp_path / "second", *SIGNED) == 0
    supervisor, children = Supervisor(config), [Child("worker")]
    monkeypatch.setattr(supervisor._switch, "_is_lull", lambda: False)
    supervisor._take_up_promotion(children, "limn")
    assert [each.stopped for each in children] == [False]
    assert waiting_promotion(first.data_dir) is not None
    monkeypatch.setattr(supervisor._switch, "_is_lull", lambda: True)
    (worker,) = children
    supervisor._take_up_promotion(children, "limn")
    assert worker.stopped
    assert load_config(config).model.bundle == tmp_path / "second"


def test_nobody_else_may_say_which_bundle_delivers(config, tmp_path):
    """As with the TOML."""
    assert limn(config, tmp_path / "second", *SIGNED) == 0
    (tmp_path / "data" / "promotions.json").chmod(0o666)
    with pytest.raises(ConfigWrong, match=r"promotions.json can be changed by anybody"):
        space.try_writing(load_config(config))
