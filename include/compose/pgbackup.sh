#!/bin/sh
# The command line, in the images: the engine is on PYTHONPATH, not installed.
exec python -m pgbackup.cli "$@"
