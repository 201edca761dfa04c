"""The `redrift` command."""

from redrift.cli.app import main

__all__ = ["main"]
