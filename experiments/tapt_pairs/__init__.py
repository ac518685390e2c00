"""Why pre-training on raw pairs of sentences may hurt."""
