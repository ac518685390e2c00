"""Whether prompt-based continued pre-training helps where pre-training on raw texts does not."""
