"""Work in processes of its own, timed, one run to a folder."""
