"""Runs the reward server with room for bodies of 1 MiB together, so that tests need not send 256 MiB."""

import sys

from rft_api.foreign import server_limits
from rft_reward.main import main

server_limits.BODY_BYTES = 1 << 20
server_limits.BODIES_BYTES = 1 << 20
arguments = sys.argv[1:]  # the command of the server: an interpreter, -m, rft_reward, and its options
sys.exit(main(arguments[3:]))
