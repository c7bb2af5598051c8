"""Words for people. Standard library only."""


def counted(number: int, noun: str) -> str:
    """The number with its noun: 1 process, 2,000 processes."""
    return f"{number:,} {noun}" + ("" if number == 1 else "es" if noun.endswith("s") else "s")
