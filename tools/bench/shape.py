"""The shape of a curve, in words: flat, linear, below linear, or above it somewhere."""

from .markdown import number

# A curve whose values differ by less is called flat.
FLAT = 1.25
# A line through the values is called linear if no value is further from it, as a part of the value.
LINEAR = 0.15
# A value that grows by so much more than what it belongs to is above linear.
STEEP = 1.5


def line(points):
    """Returns the offset and slope of the line with the least squares of relative errors."""
    weights = [1 / (y * y) for _, y in points]
    total = sum(weights)
    mean_x = sum(weight * x for weight, (x, _) in zip(weights, points)) / total
    mean_y = sum(weight * y for weight, (_, y) in zip(weights, points)) / total
    above = sum(weight * (x - mean_x) * (y - mean_y) for weight, (x, y) in zip(weights, points))
    below = sum(weight * (x - mean_x) ** 2 for weight, (x, _) in zip(weights, points))
    slope = above / below
    return mean_y - slope * mean_x, slope


def steepest(points):
    """Returns the two neighbours between which the values grow most, compared with what they belong to."""
    pairs = list(zip(points, points[1:]))
    return max(pairs, key=lambda pair: pair[1][1] / pair[0][1] / (pair[1][0] / pair[0][0]))


def describe(points, each=1, unit="each"):
    """Returns the shape of points (x, y) in words; `unit` is the name of `each` units of x."""
    values = [y for _, y in points]
    if max(values) < FLAT * min(values):
        return f"flat, within a factor of {max(values) / min(values):.2f}"
    offset, slope = line(points)
    error = max(abs(offset + slope * x - y) / y for x, y in points)
    if error <= LINEAR and slope > 0:
        return f"linear: {number(offset)} + {number(slope * each)} {unit}, within {error:.0%}"
    (x, y), (next_x, next_y) = steepest(points)
    if next_y / y > STEEP * next_x / x:
        return f"**above linear** from {x:,} to {next_x:,}: {next_y / y:.1f} times for {next_x / x:.1f} times"
    (first, low), (last, high) = points[0], points[-1]
    return f"below linear: {number(high / low)} times for {number(last / first)} times"
