"""PTQD corrects the noise that Q-Diffusion's quantized model predicts.

Numbered details (He et al., NeurIPS 2023):
1. Q-Diffusion quantizes the model, as in the paper. PTQD also takes Q-Diffusion's options. The program of the release
   has one range per weight tensor, does not quantize the operands of attention, and does not reconstruct the first and
   last layer (`base_form="as_released"`). It learns for 10,000 iterations (`iterations`).
2. For each sampling step, a linear regression predicts the error Δ = ε_q − ε_fp from ε_fp. Both are the predicted noise
   after guidance. The data are images of the full-precision trajectory (calibration kind `regression`; 1,024 images in
   the release). The results are a slope (a negative slope becomes 0), a bias per channel, and the variance of the
   residual. `correction="as_released"` computes the bias as the mean of Δ, as if the slope were 0, and the variance
   before the bias is removed.
3. Sampling uses ε̂ = (ε_q − bias) / (1 + slope). DDPM subtracts the variance of the residual from the variance of its
   own noise: σ'² = max(0, σ² − c² σ_q²). c is the coefficient of ε in the posterior mean (docs/differences.md derives
   it). DDIM with η = 0 adds no noise, so this part has no effect there.
4. A rectified flow predicts a velocity. It is corrected in the same way. Its sampler adds no noise either.
5. The correction is valid for one number of steps and one guidance scale. Sampling with another number of steps is
   refused.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch

from baselines.q_diffusion import QDiffusionOptions, learned
from qdit.core.errors import Unsupported
from qdit.methods.method import FULL_PRECISION_BITS, Method, Quantized, Scope
from qdit.models.generic.network import DiffusersNetwork
from qdit.models.network import Network
from qdit.quant.correction import NoiseCorrection, fit_correction
from qdit.quant.passes import rows_per_pass
from qdit.sampling.calibration import CalibrationSet, predictor


@dataclass(frozen=True)
class PtqdOptions(QDiffusionOptions):
    """Options of PTQD, beside those of Q-Diffusion. `base_form` chooses the form of the quantized model (detail 1).

    `correction` chooses the form of the regression (detail 2).
    """

    base_form: Literal["q-diffusion", "as_released"] = "q-diffusion"
    correction: Literal["regression", "as_released"] = "regression"


class Ptqd(Method):
    """Quantizes with Q-Diffusion, and corrects the error of the predicted noise during sampling."""

    name = "ptqd"
    printed = "PTQD"
    citation = """@inproceedings{he2023ptqd,
  title = {{PTQD}: Accurate Post-Training Quantization for Diffusion Models},
  author = {He, Yefei and Liu, Luping and Liu, Jing and Wu, Weijia and Zhou, Hong and Zhuang, Bohan},
  booktitle = {NeurIPS},
  year = {2023}
}"""
    calibration = ("per-step", "regression")
    Options = PtqdOptions
    learns_rounding = True
    color = "#009E73"  # green
    marker = ">"
    line = "--"
    base = "q-diffusion"

    def quantize(
        self,
        model: Network,
        *,
        weight_bits: int,
        activation_bits: int,
        scope: Scope,
        calibration: Mapping[str, CalibrationSet],
        options: PtqdOptions,
    ) -> Quantized:
        """Quantize with Q-Diffusion. Then fit the regression of the noise error for every sampling step."""
        if isinstance(model, DiffusersNetwork):
            raise Unsupported(
                "ptqd: its correction belongs into a sampler of this suite, pipelines have no place for it"
            )
        quantized = learned(
            model,
            weight_bits=weight_bits,
            activation_bits=activation_bits,
            scope=scope,
            data=calibration["per-step"],
            options=options,
            as_ptqd=options.base_form == "as_released",
        )
        exact = weight_bits == activation_bits == FULL_PRECISION_BITS
        return quantized if exact else self.correct(model, quantized, calibration, options)

    def correct(
        self, model: Network, quantized: Quantized, calibration: Mapping[str, CalibrationSet], options: PtqdOptions
    ) -> Quantized:
        """Fit the regression of the noise error for every sampling step, and add it to the quantized model."""
        intercept = options.correction == "regression"
        correction = fit(model, quantized.model, calibration["regression"], intercept=intercept)
        return Quantized(quantized.model, correction, quantized.log)


def fit(model: Network, quantized: Network, data: CalibrationSet, *, intercept: bool = True) -> NoiseCorrection:
    """Fit the regression of the quantized model's error to the full-precision output, once for each sampling step.

    The steps are those of the calibration data's protocol. Without `intercept`, the bias is the mean error
    (`as_released`).
    """
    protocol, channels = data.protocol, model.config.in_channels
    samples = data.conditional()
    size = rows_per_pass(model.config, data.x, most=2 * len(data)) // 2 or 1  # guidance doubles the samples
    rows = []
    with torch.inference_mode():
        for step in range(protocol.steps):
            at_step = samples.at_step(step)
            full, low_bits = (
                torch.cat(
                    [
                        predictor(network, piece.conditions, protocol)(piece.x, piece.timestep)[:, :channels]
                        for piece in at_step.split(size)
                    ]
                )
                for network in (model, quantized)
            )
            rows.append(fit_correction(full, low_bits, intercept=intercept))
    slope, bias, residual = (torch.stack(column) for column in zip(*rows, strict=True))
    return NoiseCorrection(slope=slope.clone(), bias=bias.clone(), residual=residual.clone())
