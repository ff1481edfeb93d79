"""The broker process: the pTPM for everybody but the Manager, each user a TPM of its own.

It holds no secret and no capability, parses what anybody on the host sends, and reaches the pTPM
through the Manager's gate alone, which trusts it in nothing.
"""
