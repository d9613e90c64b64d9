"""OpenAI's dialect: models, completions, chat."""
