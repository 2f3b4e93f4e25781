"""Policies, and what they are made from; importing this registers them with transformers' Auto classes."""

from weighted_mtp.models.mtp import MTPConfig, MTPForCausalLM

__all__ = ["MTPConfig", "MTPForCausalLM"]
