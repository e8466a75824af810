"""The API server: the table of kinds, the store of watched objects, writes, and leader election."""
