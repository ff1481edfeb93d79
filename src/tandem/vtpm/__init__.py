"""PROCESS: one per guest, without root, under seccomp; its zygote alone keeps root, to fork."""
