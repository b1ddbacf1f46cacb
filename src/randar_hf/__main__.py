"""`python -m randar_hf`: the command line."""

import sys

from .cli import main


sys.exit(main())
