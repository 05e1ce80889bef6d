"""How a phantom that commissions a node is told from an animal: by its PatientID (D-270)."""

from __future__ import annotations

# A PatientID that begins so is no animal's.
PREFIX = "COMMISSIONING-"
# Why a series with such a PatientID that no commissioning sends is refused: an animal's would
# otherwise reach no planning system.
KEPT_FOR_PHANTOMS = (
    f"its PatientID begins with {PREFIX}, which is kept for the phantoms of limn commission, and "
    "none sends this series; give the animal another PatientID and send it again"
)
# The flag of such a scan in the log, and the destination that alone gets its structure set.
COMMISSIONING = "commissioning"


def is_commissioning(animal: str) -> bool:
    """Whether a PatientID is that of a phantom that commissions the node."""
    return animal.strip().upper().startswith(PREFIX)
