"""`python -m rft_reward`."""

import sys

from rft_reward.main import main

sys.exit(main())
