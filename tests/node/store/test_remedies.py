import pytest

from limn.node.store.remedies import signature_reason


@pytest.mark.parametrize(
    ("flags", "why"),
    [
        ("", ""),
        ("DEMO header-disagrees:IPR folds-disagree:Heart:0.55", ""),
        ("light:yellow:red light:green light:redder:x", ""),
        ("mirrored:SPR", "it is a mirror image"),
        ("light:red", "its light is red"),
        ("lie-unsure:0.83 sides-unsure:0.62", "left and right are in doubt"),
        ("light:red mirrored:SPR", "its light is red and it is a mirror image"),
    ],
)
def test_which_flags_need_a_name(flags, why):
    """A mirror image, left and right in doubt, and a red light; nothing else does."""
    assert signature_reason(flags) == why
