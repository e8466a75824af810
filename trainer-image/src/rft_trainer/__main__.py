"""`python -m rft_trainer JOB.JSON`."""

import sys

from rft_trainer.launcher import main

sys.exit(main())
