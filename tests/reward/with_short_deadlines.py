"""Runs the reward server with deadlines of a second or two for clients, so that tests need not wait for a minute."""

import sys

from rft_api.foreign import server_limits
from rft_reward.main import main

server_limits.HEAD_SECONDS = 1.0
server_limits.BODY_SECONDS = server_limits.ANSWER_SECONDS = 2.0
arguments = sys.argv[1:]  # the command of the server: an interpreter, -m, rft_reward, and its options
sys.exit(main(arguments[3:]))
