"""Where the chest is and how the animal lies, found in a coarse picture before the folds run."""
