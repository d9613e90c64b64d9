"""How the demo checkpoint was made: corpus, tokenizer, model, training, export, evaluation."""
