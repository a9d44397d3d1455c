"""The error that a user can mend."""


class UserError(Exception):
    """Something that the user gave is wrong: a value, a file, a device.

    The message names the place, the value, what was expected and the way out. Commands print it
    without a traceback and exit with status 2.
    """
