"""The difference between a user's mistake and damage, which commands tell by their exit code."""


class DamagedError(ValueError):
    """A file is cut short, changed or contradicts itself; what the user asked for is not at fault."""
