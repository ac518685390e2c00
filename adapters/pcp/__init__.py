"""Prompt-based continued pre-training (Shi & Lipani 2023, arXiv 2305.01711), its baselines, and what they share."""
