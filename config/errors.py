"""The one error of this package."""

from collections.abc import Sequence


class ConfigError(ValueError):
    """The configuration cannot be used.

    ``problems`` holds every problem found, one line each: the source, the key, the value given and what is
    allowed. The message is these lines.
    """

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = tuple(problems)
