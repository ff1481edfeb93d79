"""`tandem library predict`: what a UEFI guest's firmware will measure, before it is started.

Signing a library predicts each UEFI entry, too, so that a verifier needs none of its files.
"""

from __future__ import annotations

import argparse
import json
import mmap
import os
import sys
from pathlib import Path
from typing import Any, Final

from tandem.builder.inputs import InputStore, read_small
from tandem.builder.library import (
    KEYS,
    MANIFEST,
    MAX_KEY_FILE,
    guest_entry,
    open_library,
    read_trust,
)
from tandem.cli.output import add_json, show_done
from tandem.errors import Refused, UntrustedInput, UsageError
from tandem.evidence.entry_prediction import predict_entry
from tandem.evidence.envelope import parse_public_key
from tandem.evidence.guest_entry import GuestEntry, UefiBoot
from tandem.evidence.manifest import parse_manifest
from tandem.evidence.prediction import BANKS, REGISTERS, Prediction
from tandem.settings import HostPaths

EXAMPLES: Final = """\
examples:
  tandem library predict web               every register of firmware and boot loader
  tandem library predict web --events      and each event that leads to it
  tandem library predict web --bank sha384 --json | jq .registers

A register with more than one value depends on the width of addresses of the host's CPU.
"""


def declare(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the command."""
    parser = verbs.add_parser(
        "predict",
        help="show what the firmware of a UEFI guest will measure",
        description="Compute PCR 0 to 14 of a UEFI guest from the files of its library entry, and "
        "compare with what was signed. Nothing is started.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("entry", metavar="ENTRY", help="a UEFI entry of the library")
    parser.add_argument("--manifest", type=Path, metavar="FILE", help=f"a signed {MANIFEST}")
    parser.add_argument(
        "--library-key", type=Path, action="append", default=[], metavar="PUB",
        help="public key to trust beside the host's",
    )  # fmt: skip
    parser.add_argument("--bank", choices=tuple(BANKS), default="sha256", help="hash of the PCRs")
    parser.add_argument("--events", action="store_true", help="show each event, too")
    add_json(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Predict from the files as they are now, and compare with the signed prediction."""
    paths = HostPaths(Path(args.host))
    given = [parse_public_key(read_small(key.absolute(), MAX_KEY_FILE))
             for key in args.library_key]  # fmt: skip
    manifest = (args.manifest or paths.library / MANIFEST).absolute()
    library = open_library(manifest, read_trust(paths.library / KEYS).beside(given))
    entry = guest_entry(library, args.entry)
    if not isinstance(entry.boot, UefiBoot):
        raise UsageError(
            "TDM-PREDICT-NO-UEFI",
            f"entry {entry.name} boots without UEFI: its launch is measured in PCR 17 and 18 alone",
            hint='name an entry with boot = "uefi"',
        )
    prediction = predict_from_files(entry, entry.boot, library.directory)
    signed = entry.boot.prediction == prediction
    if entry.boot.prediction is not None and not signed:
        raise Refused(
            "TDM-PREDICT-DIFFERS",
            f"the prediction signed for {entry.name} is another than its files give now",
            hint="sign the library anew with this version of Tandem",
        )
    show_done(args, _record(entry.name, prediction, signed, args), _text(prediction, args))
    return 0


def with_predictions(document: dict[str, Any], source: Path) -> bytes:
    """Write a manifest's document with a prediction in each of its UEFI entries."""
    manifest = parse_manifest(_write(document), str(source))
    for name, entry in manifest.entries.items():
        if isinstance(entry, GuestEntry) and isinstance(entry.boot, UefiBoot):
            if sys.stderr.isatty():
                print(f"predicting what {name} will measure ...", file=sys.stderr, flush=True)
            try:
                prediction = predict_from_files(entry, entry.boot, source.parent)
            except UntrustedInput as error:
                raise UntrustedInput(
                    "TDM-PREDICT-UNREADABLE",
                    f"{source}: entries.{name}: {error.problem}",
                    hint=error.hint,
                    offset=error.offset,
                ) from error
            document["entries"][name]["boot"]["prediction"] = prediction.document()
            _say_what_is_not(name, prediction)
    return _write(document)


def _say_what_is_not(name: str, prediction: Prediction) -> None:
    """Tell a signer at once what will leave each verdict of the entry in doubt."""
    for why in dict.fromkeys(prediction.unpredicted.values()):
        registers = [str(each) for each, reason in prediction.unpredicted.items() if reason == why]
        print(f"{name}: PCR {', '.join(registers)} not predicted: {why}", file=sys.stderr)


def predict_from_files(entry: GuestEntry, boot: UefiBoot, directory: Path) -> Prediction:
    """Predict from the entry's files, each checked against its digests first."""
    inputs, maps = InputStore(max_kept=0), {}
    try:
        for file in entry.files:
            descriptor = inputs.open(directory, file).descriptor
            try:
                maps[file.path] = mmap.mmap(descriptor, 0, prot=mmap.PROT_READ)
            finally:
                os.close(descriptor)
        return predict_entry(entry, boot, maps)
    finally:
        inputs.close()
        for each in maps.values():
            each.close()


def _write(document: dict[str, Any]) -> bytes:
    return json.dumps(document, indent=1, sort_keys=True).encode("ascii")


def _record(
    name: str, prediction: Prediction, signed: bool, args: argparse.Namespace
) -> dict[str, object]:
    return {
        "entry": name,
        "bank": args.bank,
        "secure_boot": prediction.secure_boot,
        "signed": signed,
        "registers": {
            str(register): [each.hex() for each in prediction.values(register, args.bank)]
            for register in REGISTERS
            if register not in prediction.unpredicted
        },
        "unpredicted": {str(register): why for register, why in prediction.unpredicted.items()},
        "events": prediction.document()["events"] if args.events else None,
    }


def _text(prediction: Prediction, args: argparse.Namespace) -> str:
    lines = [f"Secure Boot is {'on' if prediction.secure_boot else 'off'}"]
    for register in REGISTERS:
        if register in prediction.unpredicted:
            lines.append(f"PCR {register:2}  not predicted: {prediction.unpredicted[register]}")
            continue
        first, *others = (each.hex() for each in prediction.values(register, args.bank))
        lines.append(f"PCR {register:2}  {first}")
        lines += [f"    or  {each}" for each in others]
        if args.events:
            lines += [f"        {event.part}: {event.what}" for event in prediction.of(register)]
    return "\n".join(lines)
