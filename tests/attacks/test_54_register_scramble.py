"""54: a client extends the host's registers, and every seal and quote over them is broken.

Attacker: another user of the host's TPM, with all that the broker lets it ask.
Control: two clients of one swtpm; the registers that all seal to and quote are others.
Shows: the host's registers are not a client's to extend: each one is refused, and stands.
"""

from __future__ import annotations

from peers.shared_swtpm import SharedTpm
from tandem.wire import tpm_commands
from tests.attacks.tpm import RC_SUCCESS, Tpm, done, run
from tests.integration.broker.running_broker import OTHER_UID, RunningBroker

REGISTERS = (0, 7, 8, 9, 10, 14)
DIGEST = {tpm_commands.SHA256: bytes(range(32))}
PCR_EVENT, PCR_RESET = 0x13C, 0x13D  # TPM_CC (Part 2, 6.5.2)


def registers(client: Tpm) -> bytes:
    """Read the registers that a host's state is in."""
    return done(client, tpm_commands.pcr_read(REGISTERS)).parameters[4:]  # past the update counter


def scramble(attacker: Tpm) -> set[int]:
    """Change the registers in each way that there is; gives the codes."""
    codes = set()
    for register in REGISTERS:
        event = tpm_commands.sized(b"nothing happened")
        codes |= {
            run(attacker, tpm_commands.pcr_extend(register, DIGEST)).code,
            run(attacker, tpm_commands.command(PCR_EVENT, (register,), event, [password()])).code,
        }
    return codes


def password() -> bytes:
    """Give the authorization of a register, which has none."""
    return tpm_commands.password()


def test_control_the_registers_are_others(shared: SharedTpm) -> None:
    # Given the registers of a shared TPM
    before = registers(shared)

    # When a client extends them
    codes = scramble(shared)

    # Then they are others
    assert codes == {RC_SUCCESS}
    assert registers(shared) != before


def test_the_hosts_registers_are_not_the_clients_to_extend(broker: RunningBroker) -> None:
    # Given the pTPM's registers
    before = registers(broker.ptpm)

    # When a client of the broker extends and resets them
    with broker.client(uid=OTHER_UID) as attacker:
        codes = scramble(attacker)
        for register in REGISTERS:
            reset = tpm_commands.command(PCR_RESET, (register,), b"", [password()])
            codes.add(run(attacker, reset).code)

    # Then each is refused, and the registers are what they were
    assert RC_SUCCESS not in codes
    assert registers(broker.ptpm) == before
