"""vLLM servers that sample completions for the trainer on its machine, over HTTP.

The first process of each machine starts and supervises them (`servers`, `process`), with the command line of `command`.
It loads every version of the policy into them (`versions`). All processes ask them for completions (`client`), and wait
for these together (`generation`).
"""
