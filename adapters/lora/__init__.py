"""LoRA, through PEFT."""
