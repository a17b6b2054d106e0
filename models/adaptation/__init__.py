"""Fine-tuning, merging and compressing models: few trained numbers for many parameters."""
