"""The API server: the kinds of objects, the store that the watches fill, and what is written."""
