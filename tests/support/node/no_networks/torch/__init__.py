"""In the place of torch where a test replaces the networks: to import it takes seconds of a core.

On the PYTHONPATH of a fake worker and a fake shadow, which compute nothing with it. Every name is
an empty class, enough for annotations and for classes of networks that nobody makes.
"""


def __getattr__(name: str) -> type:
    """An empty class of this name."""
    if name.startswith("__"):
        raise AttributeError(name)
    return type(name, (), {})
