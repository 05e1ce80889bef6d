"""One tree of errors, by who must act.

LimnError
├── RefusedSeries      the sender: this series can't be contoured; never retried
├── BundleUnfit        the site: the model bundle is not what its manifest says
├── ConfigWrong        the site: the node does not start
├── StageFailed        us: a stage broke its promise; parked with its reason
└── PeerUnreachable    the network: tried again with backoff
"""


class LimnError(Exception):
    """Everything limn raises on purpose; its text is fit for an operator."""


class RefusedSeries(LimnError):
    """A series that can't be contoured; the text names the DICOM keyword and value."""


class BundleUnfit(LimnError):
    """A model bundle that is damaged, incomplete or not allowed here."""


class ConfigWrong(LimnError):
    """A site configuration that can't be used; the text names the key."""


class StageFailed(LimnError):
    """A stage of the pipeline broke its own promise; nothing was sent."""


class PeerUnreachable(LimnError):
    """A DICOM peer did not answer or broke off."""
