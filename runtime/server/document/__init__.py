"""The OpenAPI document: what every endpoint answers, in each dialect."""
