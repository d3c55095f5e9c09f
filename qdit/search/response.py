"""The linear response model. It predicts how much a genome changes the features of the images.

The *shift* of a genome is a vector: the change of the features (docs/search.md). The model says that it is the sum of
one vector for each layer, which depends on the layer's group size. The prior of these vectors is Gaussian. Each layer
has its own variance, and all sizes of the layer share half of it. If the shifts of some genomes are measured, the shift
of any other genome is Gaussian too, and its mean squared length is known. The variances start from the sensitivities of
the layers. Then they are fitted to make the measurements most likely (type II maximum likelihood: Rasmussen & Williams
2006, ch. 5). A prior keeps them close to the start values.
"""

from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize

SHARED = 0.5
"""Correlation of a layer's vectors for two sizes."""

HELD = 5.0
"""Inverse variance of the logarithm of a layer's variance around what its sensitivity says."""

HELD_NOISE = 4 * HELD
"""The same for the factor by which the noise differs from what the images say."""

EXPLAINED = 0.7
"""Share of the mean square of the measurements that layers are first taken to explain."""

ITERATIONS = 60

FARTHEST = 6.0
"""Largest change of a logarithm: beyond it covariances cannot be inverted."""

LEAST_NOISE = 1e-6
"""Least variance of the noise, as a share of the mean square of the measurements. Two equal images show no noise."""


@dataclass(frozen=True)
class Response:
    """The fitted linear response model: a Gaussian distribution of the shift (change of features) of every genome.

    A genome is a row of `columns` (N, L): for each layer the index of its group size.
    """

    columns: np.ndarray
    variances: np.ndarray
    precision: np.ndarray
    weights: np.ndarray
    lengths: np.ndarray

    @classmethod
    def fit(cls, columns: np.ndarray, shifts: np.ndarray, noise: np.ndarray, prior: np.ndarray) -> "Response":
        """Fit the model to the measured shifts (N, D) of N genomes.

        `noise` (N,) is the variance of the noise in each shift. `prior` (L,) says how large the effects of the layers
        are, relative to each other, before anything is measured.
        """
        alike, products, elements = similarity(columns, columns), shifts @ shifts.T, shifts.shape[1]
        square = np.trace(products) / len(shifts) / elements or 1.0  # nothing moved: all genomes are alike
        start = np.append(np.log(prior / prior.sum() * EXPLAINED * square), 0.0)
        prior_weights = np.append(np.full(len(prior), HELD), HELD_NOISE)
        noise = np.maximum(noise, LEAST_NOISE * square)

        def loss(logarithms: np.ndarray) -> tuple[float, np.ndarray]:
            """Negative log likelihood of the shifts with the prior of the variances, and its gradient."""
            variances, factor = np.exp(logarithms[:-1]), np.exp(logarithms[-1])
            covariance = alike @ variances + np.diag(factor * noise)
            inverse, (_, logarithm) = np.linalg.inv(covariance), np.linalg.slogdet(covariance)
            away = logarithms - start
            value = 0.5 * ((inverse * products).sum() + elements * logarithm + (prior_weights * away**2).sum())
            slope = 0.5 * (elements * inverse - inverse @ products @ inverse)
            layers = np.einsum("ij,ijl->l", slope, alike) * variances
            return value, np.append(layers, (np.diag(slope) * noise).sum() * factor) + prior_weights * away

        near = list(zip(start - FARTHEST, start + FARTHEST, strict=True))
        solution = minimize(loss, start, jac=True, method="L-BFGS-B", bounds=near, options={"maxiter": ITERATIONS}).x
        variances = np.exp(solution[:-1])
        precision = np.linalg.inv(alike @ variances + np.diag(np.exp(solution[-1]) * noise))
        weights = precision @ shifts
        return cls(columns, variances, precision, weights, weights @ weights.T)

    def squared_length(self, columns: np.ndarray) -> np.ndarray:
        """Expected squared length (N,) of each genome's shift.

        It is that of the mean shift, plus D times the variance of an element.
        """
        near = similarity(columns, self.columns) @ self.variances
        mean = np.einsum("ij,jk,ik->i", near, self.lengths, near)
        left = self.variances.sum() - np.einsum("ij,jk,ik->i", near, self.precision, near)
        return mean + self.weights.shape[1] * np.maximum(left, 0)


def similarity(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Correlation (N, M, L) of layer l's effects in genome n of `a` (N, L) and genome m of `b` (M, L).

    It is 1 for the same group size, and a constant below 1 for two different sizes.
    """
    return SHARED + (1 - SHARED) * (a[:, None] == b[None])
