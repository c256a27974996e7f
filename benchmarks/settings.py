"""What all parts of a run are told."""

from typing import NamedTuple


class Settings(NamedTuple):
    """Plain values, so that they reach every process."""

    quick: bool  # small cases, few rounds: to see that everything works, not what comes out
    images: str  # file of `images.prepare`

    def rounds(self, number: int) -> int:
        """How often a comparison goes round, where a full run does so `number` times."""
        return 3 if self.quick else number
