"""The two kinds of error a user sees; everything else is a bug of ours."""


class UserError(Exception):
    """The user's input was wrong: says what, which file or config key, and what to do. Commands exit with code 2."""


class BadSample(Exception):
    """One sample cannot be used; the message is the reason. A run skips, counts and names it."""
