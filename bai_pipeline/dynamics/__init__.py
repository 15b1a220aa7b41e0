"""Detectors over the metrics tables of a PPO run; reads tables only."""
