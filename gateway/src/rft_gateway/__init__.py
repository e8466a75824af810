"""The gateway: one OpenAI-compatible address for all endpoints, with keys, limits and a ledger of usage."""
