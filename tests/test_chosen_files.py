"""A run imports each file that may have a test that ``-m`` chooses, and no other."""

import pytest

from tests.support.chosen_files import may_be_chosen

SOME = "import pytest\n\n\n@pytest.mark.peer\ndef test_a():\n    pass\n"
FILES = {
    "plain": "def test_a():\n    pass\n",
    "some": SOME,
    "all": "import pytest\n\npytest" + "mark = pytest.mark.node\n",
    "all and some": SOME.replace("\n\n\n", "\n\npytest" + "mark = [\n    pytest.mark.slow,\n]\n"),
}


@pytest.mark.parametrize(
    ("expression", "also", "chosen"),
    [
        ("", (), ["plain", "some", "all", "all and some"]),
        ("not soak", (), ["plain", "some", "all", "all and some"]),
        ("not (node or peer or slow)", (), ["plain", "some"]),
        ("node or peer or slow", (), ["some", "all", "all and some"]),
        ("node or peer or slow", ("slow",), ["plain", "some", "all", "all and some"]),
        ("peer and not slow", (), ["some"]),
        ("soak", (), []),
        ("parametrize or soak", (), ["plain", "some", "all", "all and some"]),
    ],
)
def test_a_file_is_left_out_if_no_test_of_it_can_be_chosen(tmp_path, expression, also, chosen):
    """By the marks in its text, those of the whole file, and those that it gets from elsewhere."""
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
    assert [name for name in FILES if may_be_chosen(expression, tmp_path / name, also)] == chosen
