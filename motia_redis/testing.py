"""Tests of one's own steps: applications on a real server, and single handlers without one."""

from motia_redis._testing.apps import App, MakeApp, Part, application
from motia_redis._testing.handlers import HandlerRun, run_handler
from motia_redis._testing.records import Message
from motia_redis._testing.server import server_url, stop_server

__all__ = ["App", "HandlerRun", "MakeApp", "Message", "Part", "application", "run_handler", "server_url", "stop_server"]
