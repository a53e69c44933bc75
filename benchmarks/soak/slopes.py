"""Whether something grows over a run, or only wavers."""

import math
import statistics
from collections.abc import Sequence

import msgspec

_BLOCKS = 10


class Slope(msgspec.Struct, frozen=True):
    """Growth by a least-squares line, with its standard error. share: growth over the run, of the mean."""

    per_minute: float
    error: float
    share: float

    @property
    def within_noise(self) -> bool:
        """Whether no growth at all is as good an explanation as the line: within two standard errors."""
        return abs(self.per_minute) <= 2 * self.error


def slope(times_s: Sequence[float], values: Sequence[float]) -> Slope | None:
    """The line through the means of ten blocks of the run: neighbouring samples are alike, and each on its
    own would make the error look smaller than it is. None for fewer than three samples a block.
    """
    size = len(times_s) // _BLOCKS
    if size < 3:
        return None
    blocks = [slice(at * size, (at + 1) * size) for at in range(_BLOCKS)]
    minutes = [statistics.fmean(times_s[block]) / 60 for block in blocks]
    means = [statistics.fmean(values[block]) for block in blocks]
    line = statistics.linear_regression(minutes, means)
    spread = sum((at - statistics.fmean(minutes)) ** 2 for at in minutes)
    residuals = [mean - line.slope * at - line.intercept for at, mean in zip(minutes, means, strict=True)]
    error = math.sqrt(sum(each * each for each in residuals) / (_BLOCKS - 2) / spread)
    whole = line.slope * (times_s[-1] - times_s[0]) / 60
    return Slope(line.slope, error, whole / (statistics.fmean(means) or 1.0))
