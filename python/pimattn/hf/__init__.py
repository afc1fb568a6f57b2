"""Recording Hugging Face models, and decoding them with the selection of a policy. Needs torch and transformers."""
