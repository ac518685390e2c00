"""Soft prompts: prompt tuning (PT), decomposed prompt tuning (DePT) and its token-shared variant (ADePT)."""
