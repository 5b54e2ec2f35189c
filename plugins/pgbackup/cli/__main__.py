"""``python -m pgbackup.cli``: the command line from a bare checkout."""

from pgbackup.cli.app import main

main()
