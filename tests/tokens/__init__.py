"""Tokens in mails, as an application verifies and consumes them."""
