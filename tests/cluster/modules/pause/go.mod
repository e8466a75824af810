module rft.dev/tests/pause

go 1.26
