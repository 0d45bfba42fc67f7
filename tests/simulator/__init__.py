"""The SES on loopback, asked by the real boto3."""
