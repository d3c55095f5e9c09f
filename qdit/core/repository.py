"""Where the checkout lies: the folder that holds qdit/, baselines/, config/, rules/, weights/ and results/."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
"""The checkout."""
