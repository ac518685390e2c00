"""Instruction tuning and instruction modelling: which tokens of a conversation the loss is over."""
