"""The one error that people are meant to read."""


class LabError(Exception):
    """Bad input or an unusable file; the text names it and the remedy. The command line exits with 2."""


class Interrupted(Exception):
    """Ctrl-C. The text says what was kept; the command line exits with 130."""
