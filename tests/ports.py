"""A port that nobody listens on."""

from __future__ import annotations

import socket


def free_port() -> int:
    """Return one; another process may take it in the meantime."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port
