"""The web console, to be mounted in an application of one's own; `motia-redis console` runs it alone."""

from motia_redis._console.app import create_console_app

__all__ = ["create_console_app"]
