"""Intervals of a row that was quantized several times: they count the choice of images and the method's own chance.

A row with replicates was quantized R times, each time with other calibration data, random signs, reconstruction batches
and search draws. The noise and labels of its images stay. Let y_r be the value of replicate r, or the difference of two
rows in replicate r, and let y*_rb be its value in resample b of the images. The number of the row is the mean of y_r.

**Two sources.** The bootstrap of the mean measures the chance in the choice of images. Its interval is [m − l, m + h].
The spread of the y_r has two parts: the chance between runs, and the images, which change each replicate differently.
The bootstrap knows the second part. It is c²: for each resample b, the variance over r of y*_rb minus its mean over b;
then the mean of these variances over b. So the variance of the mean between runs is

    v = max(0, s² − ⅔ c²) / R,    s² = variance of the y_r (divided by R − 1)

**Interval.** With the standard deviation of images b = l / 1.96, the interval ends at m − t √(b² + v), and h gives the
upper end in the same way. t is the quantile of Student's distribution with (R − 1) / w^0.8 degrees of freedom, where
w = v / (b² + v) is the share of the runs. If only runs count, this is the t interval of R values. If only images count,
it is the bootstrap interval, unchanged.

The formula of the degrees of freedom is Satterthwaite's (1946), but he has w² where we have w^0.8. With c² in the place
of ⅔ c², v would have no bias. With so few replicates v itself is very uncertain, and his choices cover too little: 91.5
% in the worst case for R = 3. We chose both constants by simulation, so that coverage lies between 93 and 97 % whatever
causes the spread (`qdit bench coverage`, docs/coverage-study.md). At least three replicates are needed.
"""

import math
from dataclasses import dataclass

import numpy as np
from scipy.special import ndtri, stdtr, stdtrit

LEAST_REPLICATES = 3
"""With two, one number estimates the spread, and intervals cover too little or are useless."""
NORMAL = 1.959963984540054
"""Quantile of the normal distribution: standard deviations from its middle to the end of its central 95 %."""
NEARLY_NORMAL = 1e7
"""Degrees of freedom from which on Student's distribution is read as the normal one."""
REMOVED = 2 / 3
"""Share of the images' part of the spread of replicates that is taken off."""
EXPONENT = 0.8
"""Of the share of the runs, in the degrees of freedom."""


@dataclass(frozen=True)
class RunToRun:
    """`values` (R,): a number in each replicate. `samples` (R, B): the same number on B resamples of the images.

    A number without chance between runs has R = 1.
    """

    values: np.ndarray
    samples: np.ndarray

    @property
    def replicates(self) -> int:
        """Number of replicates R."""
        return len(self.values)

    @property
    def variance(self) -> float:
        """Variance v that the runs add to the mean over replicates; 0 for R = 1.

        The module's docstring has the formula.
        """
        if self.replicates < 2:
            return 0.0
        residuals = self.samples - self.samples.mean(axis=1, keepdims=True)
        of_images = float(residuals.var(axis=0, ddof=1).mean())
        return max(0.0, float(np.var(self.values, ddof=1)) - REMOVED * of_images) / self.replicates


@dataclass(frozen=True)
class Limits:
    """A 95 % interval [low, high] of a number, and what it was computed from.

    `images` is the interval that the choice of images alone gives. `degrees` are Student's degrees of freedom at the
    end towards zero, which decides whether the interval excludes zero; infinite if images alone decide. `variance` is
    what the runs add to the mean over `replicates` replicates.
    """

    low: float
    high: float
    images: tuple[float, float]
    degrees: float = math.inf
    variance: float = 0.0
    replicates: int = 1

    @property
    def ends(self) -> tuple[float, float]:
        """The ends of the interval: low and high."""
        return self.low, self.high

    @property
    def includes_zero(self) -> bool:
        """Whether zero lies in the interval."""
        return self.low <= 0 <= self.high

    @property
    def by_images_alone(self) -> bool:
        """Whether the interval from images alone excludes zero, but the interval from images and runs includes it."""
        return self.includes_zero and not self.images[0] <= 0 <= self.images[1]


def student_quantile(degrees: float, probability: float = 0.975) -> float:
    """Quantile of Student's distribution; with infinitely many degrees of freedom, of the normal distribution."""
    return float(ndtri(probability) if degrees > NEARLY_NORMAL else stdtrit(degrees, probability))


def student_p(deviations: float, degrees: float = math.inf) -> float:
    """Two-sided p-value of a number that lies `deviations` standard deviations from zero, by Student's distribution."""
    if degrees > NEARLY_NORMAL:
        return math.erfc(deviations / math.sqrt(2))
    return float(2 * stdtr(degrees, -deviations))


def combined(value: float, images: tuple[float, float], runs: RunToRun | None) -> Limits:
    """95 % interval of a number from the interval of the choice of images and the number's values in each replicate.

    Without replicates, or if the runs add no variance, it is the interval of the images.
    """
    variance = 0.0 if runs is None else runs.variance
    if runs is None or variance == 0:
        return Limits(*images, images)
    below, above = (reach(length, variance, runs.replicates) for length in (value - images[0], images[1] - value))
    degrees = (below if value > 0 else above)[1]
    return Limits(value - below[0], value + above[0], images, degrees, variance, runs.replicates)


def reach(length: float, variance: float, replicates: int) -> tuple[float, float]:
    """Length of one side of the interval and its degrees of freedom.

    `length` is the length that images alone give to this side; `variance` is what the runs add.
    """
    of_images = (max(0.0, length) / NORMAL) ** 2
    degrees = (replicates - 1) * ((of_images + variance) / variance) ** EXPONENT
    return student_quantile(degrees) * math.sqrt(of_images + variance), degrees
