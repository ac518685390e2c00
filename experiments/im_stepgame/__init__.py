"""Instruction tuning against instruction modelling on StepGame."""
