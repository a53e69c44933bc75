"""Random numbers for draws: each depends on the row's seed and the position of the draw alone."""

import numpy as np
import numpy.typing as npt

UInt64s = npt.NDArray[np.uint64]
Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]

DRAW, XTC = 0, 1

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_FIRST = np.uint64(0xBF58476D1CE4E5B9)
_SECOND = np.uint64(0x94D049BB133111EB)
_MASK_24 = np.uint64((1 << 24) - 1)


def hashes(seeds: UInt64s, positions: Ints, purpose: int) -> UInt64s:
    """64 bits for each row. SplitMix64 (Steele, Lea, Flood 2014) spreads neighbouring positions."""
    counters = 2 * positions + (purpose + 1)
    z = seeds + counters.astype(np.uint64) * _GOLDEN
    z = (z ^ (z >> np.uint64(30))) * _FIRST
    z = (z ^ (z >> np.uint64(27))) * _SECOND
    mixed: UInt64s = z ^ (z >> np.uint64(31))
    return mixed


def uniforms(bits: UInt64s) -> tuple[Floats, Floats]:
    """Two numbers in [0, 1) from disjoint bits of each hash; every value is exact in float32."""
    return _unit(bits >> np.uint64(40)), _unit((bits >> np.uint64(16)) & _MASK_24)


def _unit(bits: UInt64s) -> Floats:
    return bits.astype(np.float32) * np.float32(2.0**-24)
