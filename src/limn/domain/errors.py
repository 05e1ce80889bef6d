"""One tree of errors, by the party that must act.

LimnError
├── RefusedSeries      the sender: this series can't be contoured; never retried
├── BundleUnfit        the site: the model bundle does not match its manifest
├── ConfigWrong        the site: the node does not start
├── StageFailed        limn: a stage failed; the scan is kept with the reason
└── PeerUnreachable    the network: retried with backoff
"""


class LimnError(Exception):
    """Every error that limn raises on purpose; its text is for an operator."""


class RefusedSeries(LimnError):
    """A series that can't be contoured; the text names the DICOM keyword and value."""


class BundleUnfit(LimnError):
    """A model bundle that is damaged, incomplete or not allowed here."""


class ConfigWrong(LimnError):
    """A site configuration that can't be used; the text names the key."""


class StageFailed(LimnError):
    """A stage of the pipeline failed; nothing was sent."""


class PeerUnreachable(LimnError):
    """A DICOM peer did not answer, or ended the connection."""
