import sys

from rft_operator.main import main

sys.exit(main())
