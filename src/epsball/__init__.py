"""Config-driven adversarial-robustness experiments: train, attack, transfer, compare with the paper."""

__version__ = "0.1.0"
