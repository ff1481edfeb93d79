"""PROCESS in the guest, with the right to use its TPM: collects evidence and hands it out.

It imports the standard library alone and runs on any Python from 3.9, as the package
`tandem_attester` of the guest or from a zip file.  Nothing believes what it says: the verifier
checks signatures, and a stock `tpm2_nvwrite` and `tpm2_nvread` get the same answer.
"""
