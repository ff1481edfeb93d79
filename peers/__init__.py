"""What Tandem is compared with: the same guests on plain swtpm and QEMU, set up as usual.

The demo, the attack tests (as their control) and the benchmarks (as the peer) all run these.
"""
