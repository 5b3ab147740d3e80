"""Predictions of hidden content: baselines without learning, errors, skill, and pictures."""
