"""OptFormer: a text Transformer that imitates optimisers and predicts them."""
