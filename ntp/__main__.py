"""``python -m ntp`` is ``ntp``."""

import sys

from ntp.cli import main

sys.exit(main())
