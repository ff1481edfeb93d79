"""An exhaustive check of the life of pairs: every interleaving, crash and late notice, counted."""
