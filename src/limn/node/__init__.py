"""The room that talks: sockets, disk, processes."""
