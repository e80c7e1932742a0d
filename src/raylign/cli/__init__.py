"""The command line ``raylign``: one file a command, which parses and prints; the work is done by the library."""

from __future__ import annotations


def main() -> None:
    """Entry point of the command ``raylign``."""
    from raylign.cli.main import run

    run()
