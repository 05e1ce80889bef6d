"""What a person does with bundles: list, verify, install, pack, import."""
