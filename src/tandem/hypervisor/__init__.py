"""Adapters of hypervisors: what the builder needs of each, behind one Protocol."""
