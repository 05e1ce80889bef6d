import os
import re
from pathlib import Path

import pytest

from limn.domain.errors import ConfigWrong
from limn.node.config import Config, FolderDestination, load_config
from tests.support.organs import Organ

LEAST = """
data_dir = "data"
[model]
bundle = "bundle"
[[destination]]
kind = "folder"
name = "export"
folder = "out"
"""
WHOLE = {
    "data_dir": '"data"',
    "receive.ae_title": '"LIMN"',
    "receive.host": '"127.0.0.1"',
    "receive.port": "11112",
    "receive.require_called_ae": "true",
    "receive.calling_ae": '["CT1", "CT2"]',
    "receive.allow": '["10.1.0.0/16", "fd00::/8"]',
    "receive.max_associations": "50",
    "receive.max_pdu": "131072",
    "receive.max_instance_mb": "512",
    "receive.max_incoming_mb": "1024",
    "receive.max_spool_mb": "100000",
    "receive.min_free_mb": "1024",
    "receive.refuse_below_mb": "2048",
    "receive.idle_s": "60",
    "receive.artim_s": "30",
    "receive.commitment": '[{ae_title = "CT1", host = "10.1.0.7", port = 104}]',
    "receive.tls.certificate": '"limn.pem"',
    "receive.tls.key": '"limn.key"',
    "receive.tls.ca": '"dicom-ca.pem"',
    "watch.folder": '"in"',
    "watch.settle_s": "2.0",
    "watch.rescan_s": "5.0",
    "watch.formats": '["nifti", "skyscan"]',
    "watch.patient_id": '"folder"',
    "watch.lie.skyscan": '"IAL"',
    "settle.min_slices": "20",
    "settle.settle_s": "0.5",
    "settle.hold_s": "30.0",
    "settle.expected_slices": "300",
    "model.bundle": '"bundle"',
    "model.shadow": '"challenger"',
    "model.allow_demo_bundle": "true",
    "model.device": '"cpu"',
    "model.profile": '"paper"',
    "model.mirroring": "true",
    "model.int8": "false",
    "model.two_animals": '"each"',
    "model.animals": '["M1", "M2"]',
    "model.animals_from": '"StudyDescription"',
    "model.assume_hu": "false",
    "model.calibrate": '"refuse"',
    "judge.hold": '"amber"',
    "engine.scheduler": '"tls://10.0.0.3:8786"',
    "engine.host": '"10.0.0.2"',
    "engine.workers": "2",
    "engine.worker_port": "8788",
    "engine.gpus": "[0, 1]",
    "engine.pixels": '"bytes"',
    "engine.tls_dir": '"certs/engine/ct"',
    "engine.port": "8786",
    "engine.wake_port": "11113",
    "engine.deadline_s": "600",
    "engine.preview_after_s": "60",
    "planning_system.profile": '"muriplan"',
    "planning_system.species": '"Mus musculus"',
    "planning_system.strain": '"C57BL/6"',
    "planning_system.holes": '"xor"',
    "planning_system.max_points": "200",
    "planning_system.structure_set_label": '"limn"',
    "planning_system.roi_names.Heart": '"heart"',
    "planning_system.colours.Heart": "[1, 2, 3]",
    "log.max_mb": "20",
    "log.keep": "10",
    "metrics.host": '"127.0.0.1"',
    "metrics.port": "9112",
    "health.destination_limit_s": "300",
    "health.held_limit_s": "600",
    "board.host": '"0.0.0.0"',
    "board.port": "8114",
    "board.names": '["board.example", "10.0.0.2:443", "[2001:db8::1]"]',
    "board.animals": '"hidden"',
    "board.asleep_limit_min": "60",
    "board.tls.certificate": '"board.pem"',
    "board.tls.key": '"board.key"',
    "commissioning.port": "11114",
    "retention.spool_days": "30",
    "retention.results_days": "365",
    "returned.keep": '"figures"',
    "returned.editors": "false",
    "returned.drift_count": "12",
    "destination.kind": '"dicom"',
    "destination.name": '"tps"',
    "destination.ae_title": '"TPS"',
    "destination.host": '"10.0.0.2"',
    "destination.port": "104",
    "destination.commitment": "false",
    "destination.rois": '["Heart"]',
    "destination.previews": "true",
    "destination.one_file": "true",
    "destination.send_images": "false",
    "destination.forms": '["rtstruct"]',
    "destination.tls.certificate": '"limn.pem"',
    "destination.tls.key": '"limn.key"',
    "destination.tls.ca": '"dicom-ca.pem"',
    "destination.tls.server_name": '"tps.example"',
}
WRONG = [
    ("data_dir", "3"),
    ("receive", "3"),
    ("receive.ae_title", '""'),
    ("receive.ae_title", '"SEVENTEEN_LETTERS"'),
    ("receive.ae_title", '"   "'),
    ("receive.ae_title", '"BACK\\\\SLASH"'),
    ("receive.ae_title", '"MÄUSE"'),
    ("receive.host", "127"),
    ("receive.host", '""'),
    ("receive.port", "0"),
    ("receive.port", "65536"),
    ("receive.port", '"dicom"'),
    ("receive.max_associations", "0"),
    ("receive.require_called_ae", '"perhaps"'),
    ("receive.calling_ae", '["SEVENTEEN_LETTERS"]'),
    ("receive.allow", '["10.1.0.7/16"]'),
    ("receive.allow", '["scanner"]'),
    ("receive.max_pdu", "100"),
    ("receive.max_instance_mb", "0"),
    ("receive.max_incoming_mb", "0"),
    ("receive.max_spool_mb", "0"),
    ("receive.min_free_mb", "-1"),
    ("receive.refuse_below_mb", "-1"),
    ("receive.idle_s", "0"),
    ("receive.artim_s", "0"),
    ("receive.commitment", '[{ae_title = "CT1"}]'),
    ("receive.tls", "true"),
    ("receive.tls.key", "3"),
    ("watch", '"in"'),
    ("watch.folder", "1"),
    ("watch.settle_s", "0"),
    ("watch.rescan_s", "-5"),
    ("watch.formats", '["dicom"]'),
    ("watch.patient_id", '"animal"'),
    ("watch.lie.skyscan", '"SPP"'),
    ("destination.send_images", '"perhaps"'),
    ("destination.forms", '["seg", "nifti"]'),
    ("settle", "[]"),
    ("settle.min_slices", "2"),
    ("settle.settle_s", "0.0"),
    ("settle.hold_s", "nan"),
    ("settle.expected_slices", "1"),
    ("settle.expected_slices", "20.5"),
    ("model", '"bundle"'),
    ("model.bundle", "[]"),
    ("model.shadow", "[]"),
    ("model.allow_demo_bundle", '"perhaps"'),
    ("model.device", '"gpu"'),
    ("model.profile", '"quick"'),
    ("model.mirroring", "2"),
    ("model.int8", '"maybe"'),
    ("model.two_animals", '"both"'),
    ("model.animals", '["a name of 17 letters"]'),
    ("model.animals_from", '"PatientName"'),
    ("model.assume_hu", "7"),
    ("model.calibrate", '"maybe"'),
    ("judge.hold", '"green"'),
    ("engine.scheduler", '"tcp://10.0.0.3:8786"'),
    ("engine.scheduler", '"tls://10.0.0.3"'),
    ("engine.host", '""'),
    ("engine.workers", "-1"),
    ("engine.worker_port", "0"),
    ("engine.gpus", '["GPU-0"]'),
    ("engine.gpus", "[-1]"),
    ("engine.pixels", '"volume"'),
    ("engine.tls_dir", "1"),
    ("engine.port", "-1"),
    ("engine.wake_port", "99999"),
    ("engine.deadline_s", "0"),
    ("engine.preview_after_s", "0"),
    ("planning_system", "3"),
    ("planning_system.profile", "1"),
    ("planning_system.species", "1"),
    ("planning_system.strain", "6"),
    ("planning_system.holes", '"none"'),
    ("planning_system.max_points", "3"),
    ("planning_system.structure_set_label", '"twelve chars"'),
    ("planning_system.structure_set_label", '""'),
    ("planning_system.roi_names", "3"),
    ("planning_system.roi_names.Heart", '""'),
    ("planning_system.colours", '"red"'),
    ("planning_system.colours.Heart", "[1, 2]"),
    ("planning_system.colours.Heart", "[1, 2, 256]"),
    ("log.max_mb", "0"),
    ("log.keep", "0"),
    ("metrics.host", '""'),
    ("board.host", '""'),
    ("board.port", "0"),
    ("board.names", '["https://board.example"]'),
    ("board.names", '["board example"]'),
    ("board.names", '[""]'),
    ("board.animals", '"some"'),
    ("board.asleep_limit_min", "0"),
    ("board.tls", "true"),
    ("board.tls.key", "3"),
    ("metrics.port", "0"),
    ("health.destination_limit_s", "0"),
    ("health.held_limit_s", "-1"),
    ("commissioning.port", "0"),
    ("retention.spool_days", "0"),
    ("retention.results_days", "-1"),
    ("returned.keep", '"nothing"'),
    ("returned.editors", '"perhaps"'),
    ("returned.drift_count", "4"),
    ("destination.kind", '"ftp"'),
    ("destination.name", '""'),
    ("destination.rois", "[]"),
    ("destination.ae_title", '""'),
    ("destination.host", '""'),
    ("destination.port", "70000"),
    ("destination.commitment", "3"),
    ("destination.previews", "3"),
    ("destination.one_file", "3"),
    ("destination.tls", "true"),
    ("destination.tls.server_name", '""'),
]
REQUIRED = [
    "data_dir",
    "model.bundle",
    "watch.folder",
    "destination.kind",
    "destination.name",
    "destination.ae_title",
    "destination.host",
    "destination.port",
]


def toml(values: dict[str, str]) -> str:
    """Dotted keys as TOML; ``destination`` is the first of its array."""
    lines = [f"{key} = {value}" for key, value in values.items() if not _of(key, "destination")]
    lines.append("[[destination]]")
    lines += [
        f"{key.partition('.')[2]} = {value}"
        for key, value in values.items()
        if _of(key, "destination")
    ]
    return "\n".join(lines)


def _of(key: str, table: str) -> bool:
    return key == table or key.startswith(f"{table}.")


def load(folder: Path, text: str) -> Config:
    """A config of this text."""
    path = folder / "limn.toml"
    path.write_text(text)
    return load_config(path)


def refusal(folder: Path, text: str) -> str:
    """The message for a config that limn refuses."""
    with pytest.raises(ConfigWrong) as caught:
        load(folder, text)
    return str(caught.value)


def test_a_config_with_every_key_is_read(tmp_path):
    """Every documented key is accepted and has its value."""
    config = load(tmp_path, toml(WHOLE))
    assert config.receive.port == 11112
    assert config.watch is not None
    assert config.watch.folder == tmp_path / "in"
    assert config.settle.expected_slices == 300
    assert config.planning_system.colours[Organ.HEART] == (1, 2, 3)
    assert config.destination[0].name == "tps"
    assert config.receive.tls is not None
    assert config.receive.tls.key == tmp_path / "limn.key"
    assert config.destination[0].tls.ca == tmp_path / "dicom-ca.pem"
    assert [str(network) for network in config.receive.allow] == ["10.1.0.0/16", "fd00::/8"]


def test_the_table_above_names_every_key(tmp_path):
    """A key that is new in the model must be added to these tests."""
    dumped = load(tmp_path, toml(WHOLE)).model_dump()
    keys = {"data_dir"} | {
        f"{table}.{key}"
        for table in dumped
        if isinstance(dumped[table], dict)
        for key in dumped[table]
    }
    keys |= {f"destination.{key}" for key in dumped["destination"][0]}
    named = {".".join(key.split(".")[:2]) for key in WHOLE}
    assert keys == named
    assert {".".join(key.split(".")[:2]) for key, _ in WRONG} >= named


@pytest.mark.parametrize(("key", "value"), WRONG)
def test_a_wrong_value_is_refused_with_its_key(tmp_path, key, value):
    """The message names the file and the key, so that the operator finds it."""
    others = {name: each for name, each in WHOLE.items() if not _of(name, key)}
    text = refusal(tmp_path, toml(others | {key: value}))
    assert str(tmp_path / "limn.toml") in text
    named = key.replace("destination.", "").replace("kind", "destination")
    assert re.search(rf"^  \S*{re.escape(named)}", text, re.MULTILINE), text


@pytest.mark.parametrize("key", REQUIRED)
def test_a_missing_key_is_refused_with_its_name(tmp_path, key):
    """What has no default must be given."""
    text = refusal(tmp_path, toml({name: each for name, each in WHOLE.items() if name != key}))
    named = key.replace("destination.", "").replace("kind", "destination")
    assert named in text


@pytest.mark.parametrize(
    "key", ["speed", "receive.prot", "watch.recursive", "settle.wait", "model.name", "engine.gpu"]
)
def test_an_unknown_key_is_refused_with_its_name(tmp_path, key):
    """A misspelt key never passes as a default."""
    text = refusal(tmp_path, toml(WHOLE | {key: "1"}))
    assert f"  {key} is not a setting of limn" in text


def test_a_dicom_destination_takes_structure_sets_and_segmentations(tmp_path):
    """Other forms, and a segmentation of some ROIs, are refused with words."""
    most = {name: each for name, each in WHOLE.items() if name != "destination.rois"}
    config = load(tmp_path, toml(most | {"destination.forms": '["seg"]'}))
    assert config.forms == ("seg",)
    text = refusal(tmp_path, toml(most | {"destination.forms": '["seg", "stl", "csv"]'}))
    assert "stl, csv can't be sent by DICOM: a DICOM destination takes rtstruct and seg" in text
    text = refusal(tmp_path, toml(WHOLE | {"destination.forms": '["seg"]'}))
    assert "a segmentation (seg) has every organ; leave rois or seg out" in text


def test_the_site_says_the_lie_of_formats_that_it_takes(tmp_path):
    """Letters in any case; of other formats it is a slip."""
    config = load(tmp_path, toml(WHOLE | {"watch.lie.skyscan": '"ial"'}))
    assert config.watch is not None
    assert config.watch.lie == {"skyscan": "IAL"}
    text = refusal(tmp_path, toml(WHOLE | {"watch.formats": '["nifti"]'}))
    assert "lie names skyscan, which formats does not" in text


def test_an_unknown_key_of_a_destination_is_refused(tmp_path):
    """Destinations are as strict as tables."""
    assert "speed" in refusal(tmp_path, toml(WHOLE | {"destination.speed": "3"}))


def test_every_wrong_key_is_named_at_once(tmp_path):
    """One start names all mistakes."""
    text = refusal(
        tmp_path,
        toml(WHOLE | {"receive.port": "0", "settle.hold_s": "0", "model.device": '"tpu"'}),
    )
    assert "receive.port" in text
    assert "settle.hold_s" in text
    assert "model.device" in text
    assert "'tpu'" in text


def test_two_destinations_of_one_name_are_refused(tmp_path):
    """The journal distinguishes destinations by name."""
    again = '[[destination]]\nkind = "folder"\nname = "export"\nfolder = "elsewhere"\n'
    assert "two destinations have the same name" in refusal(tmp_path, LEAST + again)


def test_no_destination_is_refused(tmp_path):
    """A node that delivers nowhere is a mistake."""
    assert "destination" in refusal(tmp_path, 'data_dir = "d"\nmodel.bundle = "b"\n')


ROIS = """
[[roi]]
name = "External"
kind = "body"
[[roi]]
name = "PRV"
kind = "margin"
of = "Heart"
mm = [1.0, 2, 0]
within = "External"
[[roi]]
name = "Bone"
kind = "threshold"
hu = [300, 4000]
"""


def test_derived_rois_are_read_in_their_order(tmp_path):
    """Each kind has its own keys."""
    rules = load(tmp_path, LEAST + ROIS).roi
    assert [(rule.kind, rule.name) for rule in rules] == [
        ("body", "External"),
        ("margin", "PRV"),
        ("threshold", "Bone"),
    ]
    assert rules[1].mm_xyz == (1.0, 2.0, 0.0)


@pytest.mark.parametrize(
    ("before", "after", "complaint"),
    [
        ('kind = "body"', 'kind = "skin"', "roi.0"),
        ("mm = [1.0, 2, 0]", "mm = -1", "0 to 20 mm, expected"),
        ("mm = [1.0, 2, 0]", "mm = [0, 0, 0]", "0 to 20 mm, expected"),
        ('within = "External"', 'inside = "External"', "roi.1.margin.inside"),
        ("hu = [300, 4000]", "hu = [300, 30]", "the smaller first, expected"),
        ("hu = [300, 4000]", "", "roi.2.threshold.hu is missing"),
    ],
)
def test_a_derived_roi_that_makes_no_sense_is_refused(tmp_path, before, after, complaint):
    """With its place in the config."""
    assert complaint in refusal(tmp_path, LEAST + ROIS.replace(before, after))


def test_commitment_is_for_whole_structure_sets(tmp_path):
    """The journal knows the UIDs of the whole one."""
    text = toml(WHOLE | {"destination.commitment": "true", "destination.one_file": "false"})
    assert "leave rois or commitment out" in refusal(tmp_path, text)


def test_relative_paths_start_at_the_config_file(tmp_path, monkeypatch):
    """Where the node is started from does not matter."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    text = LEAST.replace("[model]", '[watch]\nfolder = "in"\n[model]')
    config = load(tmp_path, text)
    assert config.data_dir == tmp_path / "data"
    assert config.model.bundle == tmp_path / "bundle"
    assert config.watch is not None
    assert config.watch.folder == tmp_path / "in"
    destination = config.destination[0]
    assert isinstance(destination, FolderDestination)
    assert destination.folder == tmp_path / "out"
    assert config.journal_path.parent == tmp_path / "data"


def test_absolute_paths_stay(tmp_path):
    """A data folder on another disk is taken as written."""
    assert load(tmp_path, LEAST.replace('"data"', '"/srv/limn"')).data_dir == Path("/srv/limn")


def test_nothing_is_open_until_the_site_says_so(tmp_path):
    """Every port binds loopback, no folder is watched, no demonstration bundle delivers."""
    config = load(tmp_path, LEAST)
    assert config.receive.host == "127.0.0.1"
    assert config.engine.host == "127.0.0.1"
    assert config.watch is None
    assert not config.model.allow_demo_bundle
    assert not config.model.assume_hu


def test_metrics_have_a_port_of_their_own(tmp_path):
    """The page would take the scanner's port, or the engine's."""
    text = toml(WHOLE | {"metrics.port": WHOLE["receive.port"]})
    assert "metrics.port is 11112" in refusal(tmp_path, text)


BOARD = LEAST + "[board]\n"
BOARD_TLS = '[board.tls]\ncertificate = "a.pem"\nkey = "a.key"\n'


@pytest.mark.parametrize("host", ["::", "10.0.0.2", "ct-1.example", "2001:db8::1"])
def test_a_board_for_others_needs_tls(tmp_path, host):
    """The message names the key, and says what would be seen without."""
    text = refusal(tmp_path, f'{BOARD}host = "{host}"\nnames = ["x"]\n')
    assert f"board: Value error, host {host} lets other computers in: [board.tls] must" in text


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1", "127.8.8.8"])
def test_a_board_for_this_computer_needs_nothing(tmp_path, host):
    """As before there were accounts."""
    board = load(tmp_path, f'{BOARD}host = "{host}"\n').board
    assert board is not None
    assert (board.leaves_this_computer, board.hides_animals) == (False, False)


def test_a_board_on_every_address_needs_its_names(tmp_path):
    """Or a page of another site could lead its own name there."""
    every = f'{BOARD}host = "0.0.0.0"\n{BOARD_TLS}'
    assert "names must list the host names" in refusal(tmp_path, every)
    one = load(tmp_path, f'{BOARD}host = "10.0.0.2"\n{BOARD_TLS}').board
    assert one is not None
    assert (one.leaves_this_computer, one.hides_animals) == (True, True)
    assert one.tls is not None
    assert one.tls.key == tmp_path / "a.key"


@pytest.mark.parametrize("key", ["receive.port", "engine.port", "metrics.port"])
def test_the_board_has_a_port_of_its_own(tmp_path, key):
    """Another part of the node listens there."""
    text = refusal(tmp_path, toml(WHOLE | {"board.port": WHOLE[key]}))
    assert f"board.port {WHOLE[key]} is that of another part" in text


def test_the_port_of_commissioning_stops_no_site_that_does_not_name_it(tmp_path):
    """A node that has limn's choice for another part starts as before."""
    key = "commissioning.port"
    others = WHOLE | {"receive.port": WHOLE[key]}
    text = refusal(tmp_path, toml(others))
    assert f"{key} {WHOLE[key]} is that of another part" in text
    del others[key]
    assert load(tmp_path, toml(others)).receive.port == int(WHOLE[key])


def test_nothing_is_removed_and_no_page_is_open_by_default(tmp_path):
    """The site sets how long scans are kept, and whether there are metrics."""
    config = load(tmp_path, LEAST)
    assert config.retention.spool_days is None
    assert config.retention.results_days is None
    assert config.metrics.port is None
    assert config.metrics.host == "127.0.0.1"


def test_the_default_timings_are_those_of_the_design(tmp_path):
    """P2: half a second of silence, half a minute for a resend."""
    settle = load(tmp_path, LEAST).settle
    assert (settle.settle_s, settle.hold_s, settle.expected_slices) == (0.5, 30.0, None)


def test_a_missing_file_is_named(tmp_path):
    """The path that was looked for is in the message."""
    with pytest.raises(ConfigWrong, match=r"absent\.toml: No such file"):
        load_config(tmp_path / "absent.toml")


def test_a_folder_is_no_config(tmp_path):
    """A folder given by mistake gives a message, not a traceback."""
    with pytest.raises(ConfigWrong, match="Is a directory"):
        load_config(tmp_path)


@pytest.mark.parametrize("contents", [b"data_dir = ", b"\xff\xfe\x00", b"a = 1\na = 2\n"])
def test_what_is_no_toml_is_refused(tmp_path, contents):
    """Broken syntax, another encoding and a key given twice."""
    path = tmp_path / "limn.toml"
    path.write_bytes(contents)
    with pytest.raises(ConfigWrong, match="not valid TOML"):
        load_config(path)


def test_every_wrong_key_has_one_line_that_says_what_to_do(tmp_path):
    """The message names missing, misspelt and wrong values, and prints no whole table."""
    path = tmp_path / "limn.toml"
    path.write_text(
        'data_dir = "d"\n[reciever]\nport = 1\n[receive]\nport = "eleven"\n'
        '[model]\nbundle = "b"\n[[destination]]\nkind = "dicom"\nname = "tps"\n'
    )
    with pytest.raises(ConfigWrong) as refused:
        load_config(path)
    assert str(refused.value).splitlines() == [
        f"config {path}:",
        "  receive.port: Input should be a valid integer (found 'eleven')",
        "  destination.0.dicom.ae_title is missing",
        "  destination.0.dicom.host is missing",
        "  destination.0.dicom.port is missing",
        "  reciever is not a setting of limn; did you mean receive?",
    ]


def test_a_misspelt_setting_is_looked_for_in_its_own_table_first(tmp_path):
    """`hold_s` stands in another table, and is nearer."""
    path = tmp_path / "limn.toml"
    path.write_text(f'{LEAST}\n[judge]\nholds = "red"\nholiday_s = 3\n')
    with pytest.raises(ConfigWrong) as refused:
        load_config(path)
    assert "judge.holds is not a setting of limn; did you mean hold?" in str(refused.value)


def test_a_config_that_notepad_saved_is_read(tmp_path):
    """A byte order mark may precede the first key."""
    path = tmp_path / "limn.toml"
    path.write_bytes(b"\xef\xbb\xbf" + LEAST.encode())
    assert load_config(path) == load(tmp_path, LEAST)


def test_a_config_can_not_be_changed(tmp_path):
    """Read once, frozen."""
    config = load(tmp_path, LEAST)
    with pytest.raises(ValueError, match="frozen"):
        config.receive.port = 1


@pytest.mark.parametrize(
    ("engine", "complaint"),
    [
        ('host = "10.0.0.2"', "tls_dir must name"),
        ('scheduler = "tls://10.0.0.3:8786"', "tls_dir must name"),
        ('host = "10.0.0.2"\ntls_dir = "c"', "worker_port must be given"),
        ("gpus = [0, 1]", "gpus names 2 GPUs and workers is 1"),
        ("workers = 2\nworker_port = 65535", "end beyond 65535"),
        ("workers = 3\nworker_port = 8785", "engine.port 8786 is one of the workers'"),
    ],
)
def test_an_engine_that_can_t_run_so_is_refused(tmp_path, engine, complaint):
    """Ports beyond this host need certificates; every worker has its own GPU and port."""
    assert complaint in refusal(tmp_path, f"{LEAST}[engine]\n{engine}\n")


def test_a_host_that_only_receives_needs_no_worker_port(tmp_path):
    """Two hosts need only a config; the certificates' folder is relative to the config file."""
    text = '[engine]\nscheduler = "tls://gpu:8786"\nworkers = 0\ntls_dir = "certs/engine/ct"\n'
    config = load(tmp_path, LEAST + text)
    assert config.engine.address == "tls://gpu:8786"
    assert config.engine.worker_ports == ()
    assert config.tls_dir == tmp_path / "certs" / "engine" / "ct"


def test_what_comes_in_at_once_holds_the_largest_instance(tmp_path):
    """The default is twice the largest instance; less than one instance is refused."""
    text = "receive.max_instance_mb = 300\n{}" + LEAST
    path = tmp_path / "limn.toml"
    path.write_text(text.format(""))
    assert load_config(path).receive.incoming_mb == 600
    path.write_text(text.format("receive.max_incoming_mb = 299\n"))
    with pytest.raises(ConfigWrong, match="max_incoming_mb 299 is less than max_instance_mb 300"):
        load_config(path)


@pytest.mark.skipif(os.name == "nt", reason="modes mean nothing there")
def test_a_config_that_anybody_may_change_is_refused(tmp_path):
    """Nobody else may change where scans go; a group is the site's decision."""
    path = tmp_path / "limn.toml"
    path.write_text(LEAST)
    path.chmod(0o664)
    load_config(path)
    path.chmod(0o666)
    with pytest.raises(ConfigWrong, match=rf"can be changed by anybody.*chmod o-w {path}"):
        load_config(path)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"model.two_animals": '"largest"'}, 'one_file .* needs model.two_animals = "each"'),
        ({"destination.commitment": "true"}, "leave one_file or commitment out"),
    ],
)
def test_one_file_is_for_the_animals_of_a_field(tmp_path, change, why):
    """And nobody asks a peer for UIDs that limn never wrote to disk."""
    with pytest.raises(ConfigWrong, match=why):
        load(tmp_path, toml(WHOLE | change))
