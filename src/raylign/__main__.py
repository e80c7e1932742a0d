"""``python -m raylign``: the command line."""

from raylign.cli import main

main()
