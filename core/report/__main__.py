"""`python -m core.report`."""

import sys

from core.report import main

sys.exit(main())
