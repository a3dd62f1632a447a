"""``python -m ntp`` is ``ntp``."""

import sys

from ntp.cli.app import main

sys.exit(main())
