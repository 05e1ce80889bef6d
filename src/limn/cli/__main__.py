"""``python -m limn.cli``, as the supervisor starts its processes."""

import sys

from limn.cli.main import main

sys.exit(main())
