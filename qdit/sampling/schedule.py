"""The linear noise schedule of ADM and DiT in float64, and its respacing to fewer steps.

`respaced(steps)` is create_diffusion("<steps>"): evenly spaced timesteps from 0 to 999, both included. Betas are
computed again for the kept timesteps. The model always gets the original index (`timesteps`).
"""

from dataclasses import dataclass

import numpy as np

from qdit.core.errors import ConfigError

TRAINING_STEPS = 1000


@dataclass(frozen=True)
class Schedule:
    """Tables of a noise schedule in float64, one entry for each kept step; index 0 is the least noisy."""

    timesteps: np.ndarray
    betas: np.ndarray

    @property
    def steps(self) -> int:
        """Number of sampling steps."""
        return len(self.betas)

    @property
    def alphas_cumprod(self) -> np.ndarray:
        """ᾱ_i: the product of all 1 − β up to step i."""
        return np.cumprod(1 - self.betas)

    @property
    def alphas_cumprod_previous(self) -> np.ndarray:
        """ᾱ_{i−1} for each step i; 1 for the least noisy step."""
        return np.append(1.0, self.alphas_cumprod[:-1])

    @property
    def posterior_variance(self) -> np.ndarray:
        """β̃_i: the variance of q(x_{i−1} | x_i, x_0)."""
        return self.betas * (1 - self.alphas_cumprod_previous) / (1 - self.alphas_cumprod)

    @property
    def posterior_log_variance_clipped(self) -> np.ndarray:
        """log β̃_i with the first entry (−∞) replaced by the second, as in ADM."""
        variance = self.posterior_variance
        return np.log(np.append(variance[1 if len(variance) > 1 else 0], variance[1:]))

    @property
    def posterior_mean_coefficients(self) -> tuple[np.ndarray, np.ndarray]:
        """Coefficients of x_0 and x_i in the mean of q(x_{i−1} | x_i, x_0)."""
        bar, previous = self.alphas_cumprod, self.alphas_cumprod_previous
        of_x0 = self.betas * np.sqrt(previous) / (1 - bar)
        of_x = (1 - previous) * np.sqrt(1 - self.betas) / (1 - bar)
        return of_x0, of_x


def training_schedule() -> Schedule:
    """The schedule of the training: β is linear from 1e-4 to 0.02 over 1000 steps."""
    return Schedule(np.arange(TRAINING_STEPS), np.linspace(1e-4, 0.02, TRAINING_STEPS, dtype=np.float64))


def respaced(steps: int) -> Schedule:
    """The schedule of sampling in `steps` steps, at the training timesteps round(k · 999 / (steps − 1))."""
    if not 1 <= steps <= TRAINING_STEPS:
        raise ConfigError(f"steps {steps}: allowed are 1 to {TRAINING_STEPS}")
    full = training_schedule()
    stride = (TRAINING_STEPS - 1) / (steps - 1) if steps > 1 else 1.0
    timesteps = np.round(np.arange(steps) * stride).astype(np.int64)
    bar = full.alphas_cumprod[timesteps]
    return Schedule(timesteps, 1 - bar / np.append(1.0, bar[:-1]))
