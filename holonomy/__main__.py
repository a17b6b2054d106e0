"""``python -m holonomy``, and ``torchrun -m holonomy``."""

import sys

from holonomy.cli import main

sys.exit(main())
