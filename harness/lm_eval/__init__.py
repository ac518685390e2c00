"""lm-evaluation-harness both ways: StepGame as its tasks, and our models under its tasks."""
