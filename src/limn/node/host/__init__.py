"""How the processes are started, trusted, woken and ended."""
