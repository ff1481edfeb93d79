"""Stock tpm2-tools on a host whose pTPM is behind the broker: each tool a process of its own."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.integration.broker.running_broker import RunningBroker

PRIMARY = "tpm2_createprimary -Q -C o -G ecc -c primary.ctx"
SCRIPTS = {
    "keys made, loaded and used": f"""
{PRIMARY}
tpm2_create -Q -C primary.ctx -G rsa2048 -u key.pub -r key.priv
tpm2_load -Q -C primary.ctx -u key.pub -r key.priv -c key.ctx
echo message >message
tpm2_sign -Q -c key.ctx -g sha256 -o signature message
tpm2_verifysignature -Q -c key.ctx -g sha256 -m message -s signature
tpm2_readpublic -Q -c key.ctx -f pem -o key.pem
tpm2_loadexternal -Q -C n -G rsa -u key.pem -c public.ctx
tpm2_verifysignature -Q -c public.ctx -g sha256 -m message -s signature
""",
    "a quote by the client's key": f"""
{PRIMARY}
tpm2_create -Q -C primary.ctx -G ecc256:ecdsa-sha256:null -u ak.pub -r ak.priv \\
  -a 'fixedtpm|fixedparent|sensitivedataorigin|userwithauth|sign|restricted'
tpm2_load -Q -C primary.ctx -u ak.pub -r ak.priv -c ak.ctx
tpm2_readpublic -Q -c ak.ctx -f pem -o ak.pem
tpm2_quote -Q -c ak.ctx -l sha256:0,8,9 -q 1234 -m quote -s signature -o registers -g sha256
tpm2_checkquote -Q -u ak.pem -m quote -s signature -f registers -g sha256 -q 1234
""",
    "a secret sealed to registers": f"""
{PRIMARY}
tpm2_startauthsession -Q -S trial.ctx
tpm2_policypcr -Q -S trial.ctx -l sha256:8,9 -L policy
tpm2_flushcontext trial.ctx
echo -n secret | tpm2_create -Q -C primary.ctx -L policy -i- -u sealed.pub -r sealed.priv
tpm2_load -Q -C primary.ctx -u sealed.pub -r sealed.priv -c sealed.ctx
[ "$(tpm2_unseal -c sealed.ctx -p pcr:sha256:8,9)" = secret ]
tpm2_startauthsession -Q -S session.ctx --policy-session
tpm2_policypcr -Q -S session.ctx -l sha256:8,9
[ "$(tpm2_unseal -c sealed.ctx -p session:session.ctx)" = secret ]
tpm2_flushcontext session.ctx
! tpm2_unseal -c sealed.ctx
""",
    "an index of the client's own range": """
tpm2_nvdefine -Q -C o -s 32 -a 'ownerread|ownerwrite|authread|authwrite' 0x01500010
echo -n written | tpm2_nvwrite -Q -C o -i- 0x01500010
[ "$(tpm2_nvread -C o -s 7 0x01500010)" = written ]
tpm2_nvreadpublic 0x01500010 | grep 'size: 32' >grepped
tpm2_getcap handles-nv-index | grep -i 0x1500010 >grepped
tpm2_nvundefine -Q -C o 0x01500010
""",
    "a key made persistent in the client's own range": f"""
{PRIMARY}
tpm2_evictcontrol -Q -C o -c primary.ctx 0x81000100
tpm2_readpublic -Q -c 0x81000100
tpm2_getcap handles-persistent | grep -i 0x81000100 >grepped
tpm2_create -Q -C 0x81000100 -u key.pub -r key.priv
tpm2_evictcontrol -Q -C o -c 0x81000100
! tpm2_readpublic -Q -c 0x81000100
""",
    "hashes and HMACs, short and long": f"""
head -c 100000 /dev/urandom >long
[ "$(tpm2_hash -C n -g sha256 --hex long)" = "$(sha256sum <long | cut -d' ' -f1)" ]
echo -n short >short
[ "$(tpm2_hash -C n -g sha256 --hex short)" = "$(sha256sum <short | cut -d' ' -f1)" ]
{PRIMARY}
tpm2_create -Q -C primary.ctx -G hmac:sha256 -u hmac.pub -r hmac.priv -c hmac.ctx
tpm2_hmac -c hmac.ctx --hex long >one
tpm2_hmac -c hmac.ctx --hex long >two
cmp one two
""",
    "an HMAC session that encrypts, across processes": f"""
{PRIMARY}
tpm2_startauthsession -Q -S session.ctx --hmac-session -c primary.ctx
tpm2_sessionconfig -Q session.ctx --enable-encrypt --enable-decrypt
echo -n secret | tpm2_create -Q -C primary.ctx -P session:session.ctx -i- -u s.pub -r s.priv
tpm2_load -Q -C primary.ctx -u s.pub -r s.priv -c s.ctx
[ "$(tpm2_unseal -c s.ctx -p session:session.ctx)" = secret ]
tpm2_flushcontext session.ctx
""",
    "what the TPM is, and time": """
tpm2_getcap properties-fixed | grep TPM2_PT_MANUFACTURER >grepped
tpm2_getcap algorithms | grep sha256 >grepped
tpm2_getcap commands | grep TPM2_CC_GetRandom >grepped
tpm2_pcrread -Q sha256:0,8,9
tpm2_readclock -Q
tpm2_testparms ecc256
[ "$(tpm2_getrandom --hex 8 | wc -c)" = 16 ]
tpm2_startup -c
""",
    "an EK, an AK, and a credential that only this TPM opens": """
tpm2_createek -Q -c ek.ctx -G rsa -u ek.pub
tpm2_createak -Q -C ek.ctx -c ak.ctx -G ecc -g sha256 -s ecdsa -u ak.pub -n ak.name -f pem
echo -n 'twelve bytes' >secret
name=$(od -An -v -tx1 ak.name | tr -d ' \\n')
tpm2_makecredential -Q -T none -e ek.pub -s secret -n "$name" -o credential
tpm2_startauthsession -Q --policy-session -S session.ctx
tpm2_policysecret -Q -S session.ctx -c e
tpm2_activatecredential -Q -c ak.ctx -C ek.ctx -i credential -o opened -P session:session.ctx
tpm2_flushcontext session.ctx
cmp secret opened
""",
    "registers granted to the client": """
before=$(tpm2_pcrread sha256:16)
tpm2_pcrextend 16:sha256=$(printf '11%.0s' $(seq 32))
[ "$before" != "$(tpm2_pcrread sha256:16)" ]
""",
}


@pytest.mark.parametrize("what", SCRIPTS)
def test_stock_tools_work_through_the_broker(
    broker: RunningBroker, tmp_path: Path, what: str
) -> None:
    # Given a host whose pTPM is behind the broker
    # When tools are run as on any TPM, each a process of its own
    broker.tools(SCRIPTS[what], tmp_path)

    # Then each does what it is for, and no slot of the pTPM stays taken
    broker.wait_until_nothing_is_left()


REFUSED = {
    "tpm2_clear": "TPM2_Clear",
    "tpm2_changeeps": "TPM2_ChangeEPS",
    "tpm2_changepps": "TPM2_ChangePPS",
    "tpm2_hierarchycontrol -C o ehEnable clear": "TPM2_HierarchyControl",
    "tpm2_changeauth -c o new": "TPM2_HierarchyChangeAuth",
    "tpm2_dictionarylockout -s -n 1": "TPM2_DictionaryAttackParameters",
    "tpm2_dictionarylockout -c": "TPM2_DictionaryAttackLockReset",
    "tpm2_pcrextend 9:sha256=" + "11" * 32: "TPM2_PCR_Extend",
    "tpm2_pcrreset 23": "TPM2_PCR_Reset",
    "tpm2_nvread -C o 0x01800544": "TPM2_NV_Read",
    "tpm2_nvdefine -C o -s 8 0x01800600": "TPM2_NV_DefineSpace",
    "tpm2_nvundefine -C o 0x01800544": "TPM2_NV_UndefineSpace",
    "tpm2_readpublic -c 0x81015441": "TPM2_ReadPublic",
    "tpm2_shutdown": "TPM2_Shutdown",
    "tpm2_setclock 99999999": "TPM2_ClockSet",
}


@pytest.mark.parametrize("command", REFUSED)
def test_what_would_hurt_the_manager_is_refused(
    broker: RunningBroker, tmp_path: Path, command: str
) -> None:
    # Given a host whose pTPM is behind the broker
    # When a tool asks for what is the Manager's alone
    said = broker.tools(f"{command} && echo DONE || true", tmp_path)

    # Then it is told so, and the Manager works on
    assert "DONE" not in said
    assert "ERROR" in said
    broker.require_a_working_manager()
