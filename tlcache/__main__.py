"""``python -m tlcache``: the command line, where its script is not on the path."""

from tlcache.cli import main

main()
