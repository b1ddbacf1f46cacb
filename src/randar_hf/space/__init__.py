"""An app to click on: generate, edit, extend, enlarge and understand, in the browser, as an API and as MCP tools."""

from .app import build_app, find_device, launch_app
from .export import export_space, push_space


__all__ = ["build_app", "export_space", "find_device", "launch_app", "push_space"]
