from limn.api import Contours as Contours
from limn.api import Model as Model
from limn.api import Roi as Roi
from limn.api import Scan as Scan
from limn.api import contour as contour
from limn.api import one_file as one_file
from limn.api import read as read
from limn.domain.errors import LimnError as LimnError

__version__: str
