"""How much the template's words matter to prompt-based continued pre-training."""
