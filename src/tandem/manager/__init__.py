"""The TPM Manager process: sole owner of the pTPM, keeper of every vTPM's record and key.

It starts as root to open the pTPM and its sockets, and serves as a user of its own without any
capability.
"""
