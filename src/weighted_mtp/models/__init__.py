"""Policies, and what they are made from; importing this registers them with transformers' Auto classes."""

from transformers import AutoConfig, AutoModelForCausalLM

from weighted_mtp.models.mtp import MTPConfig, MTPForCausalLM

__all__ = ["MTPConfig", "MTPForCausalLM"]

AutoConfig.register(MTPConfig.model_type, MTPConfig)
AutoModelForCausalLM.register(MTPConfig, MTPForCausalLM)
