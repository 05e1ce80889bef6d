"""A site's config from a few answers: limn can read it, and every key is explained in it."""

import stat

import pytest

from limn.cli.main import main
from limn.domain.errors import ConfigWrong
from limn.domain.shipped import EMBEDDED_BUNDLE, bundle_named, shipped
from limn.node.config import DicomDestination, FolderDestination, load_config
from limn.node.operate.init import QUESTIONS, init

NOBODY = dict.fromkeys((each.option for each in QUESTIONS), None)


def test_without_a_person_every_answer_is_the_usual_one(tmp_path):
    """The embedded bundle, a folder as planning system, this host alone."""
    path = tmp_path / "site.toml"
    told = init(path, NOBODY, None)
    config = load_config(path)
    assert config.model.bundle == EMBEDDED_BUNDLE
    assert config.model.allow_demo_bundle
    assert (config.receive.host, config.receive.port) == ("127.0.0.1", 11112)
    assert config.data_dir == tmp_path / "limn-data"
    (destination,) = config.destination
    assert isinstance(destination, FolderDestination)
    assert destination.folder == tmp_path / "structure-sets"
    # As the example config and deploy/COMMISSIONING.md call it.
    assert destination.name == "planning system"
    assert told[1] == f"structure sets go to {tmp_path / 'structure-sets'}"
    assert "not for animals" in told[2]
    assert told[3:] == [f"limn check --config {path}", f"limn serve --config {path}"]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_the_comments_of_the_example_stay(tmp_path):
    """All but those of its one destination, which is another one."""
    path = tmp_path / "site.toml"
    init(path, NOBODY, None)
    text = path.read_text()
    example = shipped("config/node.toml").read_text()
    head = [line for line in example.partition("[[destination]]")[0].splitlines() if "#" in line]
    assert [line for line in head if line.split("#", 1)[1] not in text] == []
    assert "# [destination.tls]" in text


def test_a_person_is_asked_what_no_option_says(tmp_path):
    """An empty line is the usual answer, which stands in the question."""
    asked = []
    answers = iter(["", "/data/limn", "10.0.0.3", "104", "ARIA MOUSE@10.0.0.7:104"])

    def ask(text):
        asked.append(text)
        return next(answers)

    path = tmp_path / "site.toml"
    init(path, {**NOBODY, "ae_title": "CONTOURS"}, ask)
    config = load_config(path)
    assert len(asked) == len(QUESTIONS) - 1
    assert asked[0].endswith("[phantom-7]: ")
    assert (config.receive.host, config.receive.port) == ("10.0.0.3", 104)
    assert (config.receive.ae_title, str(config.data_dir)) == ("CONTOURS", "/data/limn")
    (destination,) = config.destination
    assert isinstance(destination, DicomDestination)
    assert (destination.ae_title, destination.host, destination.port) == (
        "ARIA MOUSE",
        "10.0.0.7",
        104,
    )


@pytest.mark.parametrize(
    ("answers", "message"),
    [
        ({"port": "eleven"}, "--port eleven: a number expected"),
        ({"planning_system": "TPS@10.0.0.5"}, "planning system TPS@10.0.0.5: AE@HOST:PORT"),
        ({"planning_system": "AN AE TITLE OF MORE@10.0.0.5:104"}, "16 characters at most"),
        ({"planning_system": "TPS@10.0.0.5/104"}, "AE@HOST:PORT"),
        ({"port": "99999"}, "receive.port"),
        ({"ae_title": "A TITLE OF TOO MANY LETTERS"}, "receive.ae_title"),
    ],
)
def test_an_answer_that_gives_no_config_writes_none(tmp_path, answers, message):
    """The error names the key; the file is not there."""
    path = tmp_path / "site.toml"
    with pytest.raises(ConfigWrong, match=message):
        init(path, {**NOBODY, **answers}, None)
    assert not path.exists()


def test_nothing_is_overwritten(tmp_path, capsys):
    """The command says so."""
    path = tmp_path / "limn.toml"
    path.write_text("mine")
    assert main(["init", str(path)]) == 1
    assert "exists; nothing was changed" in capsys.readouterr().err
    assert path.read_text() == "mine"


def test_quotes_and_backslashes_of_an_answer_stay(tmp_path):
    """As a path of Windows has them."""
    path = tmp_path / "site.toml"
    init(path, {**NOBODY, "planning_system": 'C:\\a "b"'}, None)
    (destination,) = load_config(path).destination
    assert destination.folder.name.endswith('C:\\a "b"')


def test_a_bundle_is_found_by_its_name(tmp_path, monkeypatch):
    """An installed one, the embedded one, a folder; anything else stays a path."""
    monkeypatch.setenv("LIMN_MODELS", str(tmp_path / "models"))
    monkeypatch.chdir(tmp_path)
    assert bundle_named("phantom-7") == EMBEDDED_BUNDLE
    assert str(bundle_named("mice-3")) == "mice-3"
    installed = tmp_path / "models" / "mice-3"
    installed.mkdir(parents=True)
    (installed / "bundle.toml").touch()
    assert bundle_named("mice-3") == installed
    (tmp_path / "mice-3").mkdir()
    assert str(bundle_named("mice-3")) == "mice-3"
    assert str(bundle_named("a/phantom-7")) == "a/phantom-7"
