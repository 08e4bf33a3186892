"""The equations: tensors and floats in, tensors out. Nothing here knows a model, a file or a clock."""
