"""Guest images made on this host of Debian's packages: a tree, its verity disk, its initramfs."""
