"""PT, DePT and LoRA on StepGame: trained on short clean stories, asked long noisy ones."""
