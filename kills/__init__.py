"""Random kills: any process of a host, at any moment, while guests start, run, write and end."""
