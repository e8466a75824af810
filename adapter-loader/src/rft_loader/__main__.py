"""`python -m rft_loader`."""

import sys

from rft_loader.main import main

sys.exit(main())
