"""`python -m rft_gateway`."""

import sys

from rft_gateway.main import main

sys.exit(main())
