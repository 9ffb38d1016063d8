"""The network: the Wan transformer with reference tokens, pose channels and hand patches, and its weights."""
