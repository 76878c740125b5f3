"""What is drawn: panels of curves, without the library that draws them."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Curve:
    """Points from left to right: (x, y), or (x, y, least, most) where the spread is drawn too."""

    title: str
    points: list[tuple[float, ...]]
    # Curves of the same colour belong together.
    colour: int
    dashed: bool = False


@dataclasses.dataclass(frozen=True)
class Panel:
    """One pair of axes, of which the first is logarithmic."""

    x: str
    y: str
    curves: list[Curve]
    # Places with a number along the first axis.
    ticks: tuple[int, ...]
    # Whether the second axis begins at 0, so that it shows what does not grow; logarithmic otherwise, so that what doubles along
    # both of them is a straight line.
    from_zero: bool = False
    # A line across, which should not be crossed.
    limit: float | None = None


def of(lines: list[dict], x: str, y: str, **same) -> list[tuple[float, float]]:
    """The points of the lines that have these values, by x; without those that have no y."""
    chosen = [line for line in lines if all(line.get(key) == value for key, value in same.items())]
    return sorted((line[x], line[y]) for line in chosen if line.get(y) is not None)
