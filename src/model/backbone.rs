//! The vision backbones: normalised frames `[B, 3, S, S]` to pooled stage-4 embeddings `[B, C]`.
