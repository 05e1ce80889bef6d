"""Out: structure sets to their destinations, until each has them."""
