"""LoRA finetuning on Ray Train. Not built yet: curation comes first."""
