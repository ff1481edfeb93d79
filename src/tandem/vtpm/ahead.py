"""Libraries, imported ahead of Tandem's own modules, and for no other purpose.

Their objects are many, and few of them are touched again.  Mixed with ours, which a vTPM touches
all the time, they would be copied with them, page by page: this order saves 0.15 MB a vTPM.
"""

from __future__ import annotations

import argparse  # noqa: F401
import contextlib  # noqa: F401
import ctypes  # noqa: F401
import dataclasses  # noqa: F401
import enum  # noqa: F401
import hashlib  # noqa: F401
import json  # noqa: F401
import re  # noqa: F401
import socket  # noqa: F401
import traceback  # noqa: F401
import typing  # noqa: F401

import cbor2  # noqa: F401
import cryptography.hazmat.primitives.ciphers.aead
import cryptography.hazmat.primitives.hashes
import cryptography.hazmat.primitives.kdf.hkdf  # noqa: F401
