"""The demonstration that `make demo` runs: the commands a user would type, one line a step."""
