"""Training of the embedded bundle on phantoms."""
