import io
import pickle
import pickletools
from collections import OrderedDict

import numpy as np
import pytest

from limn.domain.errors import BundleUnfit
from limn.segment.importing.pickles import read_pickle

VALUES = {
    "numbers": [1, -2.5, True, None, 2**70],
    "text": "Herz",
    "tuple": (1, (2, 3)),
    "set": {1, 2},
    "ordered": OrderedDict([(0, "CT"), (1, "MR")]),
    "scalar": np.float64(0.25),
    "small": np.float32(0.5),
    "whole": np.int64(7),
    "flag": np.bool_(True),
    "text array": np.array(["a", "bc"]),
}


@pytest.mark.parametrize("protocol", range(6))
def test_what_plans_are_made_of_is_read(tmp_path, protocol):
    """Numbers, texts, containers and arrays come out as they went in, by any protocol."""
    arrays = {
        "c": np.arange(24, dtype=np.float64).reshape(2, 3, 4),
        "fortran": np.asfortranarray(np.arange(6, dtype=np.int32).reshape(2, 3)),
        "big endian": np.arange(3, dtype=">f4"),
        "empty": np.zeros((0, 3)),
    }
    path = tmp_path / "plans.pkl"
    path.write_bytes(pickle.dumps({"values": VALUES, "arrays": arrays}, protocol))
    read = read_pickle(path)
    for name, array in arrays.items():
        np.testing.assert_array_equal(read["arrays"][name], array)
    text = read["values"].pop("text array")
    np.testing.assert_array_equal(text, VALUES["text array"])
    assert read["values"] == {name: v for name, v in VALUES.items() if name != "text array"}


class Calls:
    """Pickles as a call of anything."""

    def __init__(self, called, *arguments):
        self.reduced = (called, arguments)

    def __reduce__(self):
        return self.reduced


@pytest.mark.parametrize(
    "hostile",
    [
        pytest.param(lambda: Calls(eval, "1/0"), id="eval"),
        pytest.param(lambda: Calls(getattr, "x", "upper"), id="getattr"),
        pytest.param(lambda: Calls(open, "/etc/hostname"), id="open"),
        pytest.param(lambda: Calls(np.load, "x.npy"), id="numpy.load"),
        pytest.param(lambda: Calls(pickle.loads, b"N."), id="pickle"),
        pytest.param(lambda: io.StringIO("x"), id="an object"),
        pytest.param(lambda: np.array([Calls(eval, "1/0")], dtype=object), id="in an array"),
        pytest.param(lambda: np.dtype([("a", "f4")]), id="a structure"),
        pytest.param(lambda: np.ndarray, id="a class"),
    ],
)
def test_everything_else_is_refused(tmp_path, hostile):
    """Whatever a pickle asks for beyond that, the file is named and nothing is called."""
    path = tmp_path / "plans.pkl"
    path.write_bytes(pickle.dumps({"x": hostile()}))
    with pytest.raises(BundleUnfit, match=r"plans\.pkl is refused and nothing in it was run"):
        read_pickle(path)


@pytest.mark.parametrize(
    "raw",
    [b"", b"no pickle", b"\x80\x04.", b"\x80\x04]" + b"]" * 50, b"(lp0\n" * 2000],
    ids=["empty", "text", "no value", "no end", "deep"],
)
def test_garbage_is_refused(tmp_path, raw):
    """A file that is no pickle gives a message that names it."""
    path = tmp_path / "plans.pkl"
    path.write_bytes(raw)
    with pytest.raises(BundleUnfit, match=r"plans\.pkl"):
        read_pickle(path)


def test_a_codec_is_not_called(tmp_path):
    """Bytes of old protocols are latin1; another codec in the pickle is refused."""
    path = tmp_path / "plans.pkl"
    raw = pickle.dumps(b"\xff", 2)
    assert "_codecs encode" in {str(arg) for _, arg, _ in pickletools.genops(raw)}
    path.write_bytes(raw.replace(b"latin1", b"rot_13"))
    with pytest.raises(BundleUnfit, match="rot_13"):
        read_pickle(path)


def doubled(start, times, pair):
    """One value named twice, that pair twice, and so on: a few bytes each time."""
    for _ in range(times):
        start = pair(start, start)
    return start


def cyclic():
    """A list within itself."""
    itself = []
    itself.append(itself)
    return itself


@pytest.mark.parametrize(
    ("raw", "complaint"),
    [
        (pickle.dumps(doubled([0], 60, lambda a, b: [a, b])), "more than 1000000 values"),
        (pickle.dumps(doubled({0: 0}, 60, lambda a, b: {0: a, 1: b})), "more than 1000000 values"),
        (b"\x80\x04}N\x85" + b"2\x86" * 60 + b"K\x01s.", "a tuple of more than 4096"),
        (pickle.dumps(doubled(frozenset([0]), 60, lambda a, b: frozenset([(0, a), (1, b)]))),
         "a tuple of more than 4096"),
        (pickle.dumps(cyclic()), "more than 100 deep"),
        (pickle.dumps(doubled(0, 150, lambda a, _: [a])), "more than 100 deep"),
        (b"\x80\x04N" + b"\x85" * 5000 + b".", "a tuple of more than 4096"),
        (b"\x80\x04(" + b"]" * 1_100_000 + b"l.", "more than 1000000 operations"),
        (b"\x80\x05\x96" + (2**40).to_bytes(8, "little") + b"xx.", "EOFError|truncated|ran out"),
        (b"\x80\x02]r\xff\xff\xff\x7f0cbuiltins\nlist\n)R(lb.", "state for what has none"),
        (b"\x80\x02cnumpy\nndarray\nN}X\x01\x00\x00\x00xK\x01s\x86b.", "state for what has none"),
        (pickle.dumps(Calls(list, b"x" * 1000)), "a container of single bytes"),
    ],
    ids=["lists", "dicts", "keys", "frozensets", "a cycle", "deep", "deep tuples", "operations",
         "a bytearray", "state of a list", "state of a class", "a list of bytes"],
)  # fmt: skip
def test_what_grows_without_end_is_refused(tmp_path, raw, complaint):
    """A few bytes that mean gigabytes, or for ever, are refused at once and by name."""
    path = tmp_path / "plans.pkl"
    path.write_bytes(raw)
    with pytest.raises(BundleUnfit, match=complaint):
        read_pickle(path)


def test_what_is_copied_again_and_again_is_refused(tmp_path):
    """One megabyte copied a thousand times by seven bytes each."""
    path = tmp_path / "plans.pkl"
    once = b"cbuiltins\nbytes\nq\x01B" + (2**20).to_bytes(4, "little") + b"x" * 2**20 + b"q\x020"
    path.write_bytes(b"\x80\x03(" + once + b"h\x01h\x02\x85R" * 1000 + b"l.")
    with pytest.raises(BundleUnfit, match="copies more than"):
        read_pickle(path)


def test_an_array_has_no_more_rows_than_numbers(tmp_path):
    """10**12 empty rows would become as many lists."""
    path = tmp_path / "plans.pkl"
    raw = pickle.dumps(np.zeros((0, 3)), 2)
    assert raw.count(b"K\x00K\x03\x86") == 1
    path.write_bytes(
        raw.replace(b"K\x00K\x03\x86", b"\x8a\x06" + (2**40).to_bytes(6, "little") + b"K\x00\x86")
    )
    with pytest.raises(BundleUnfit, match=r"an array of shape \(1099511627776, 0\)"):
        read_pickle(path)
