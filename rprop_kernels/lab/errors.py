"""Errors that the command line reports without a traceback."""


class LabError(Exception):
    """Bad input or an unusable file; the message names it and the remedy. The command line exits with status 2."""


class Interrupted(Exception):
    """Interruption by Ctrl-C; the message names the files that were kept. The command line exits with status 130."""
