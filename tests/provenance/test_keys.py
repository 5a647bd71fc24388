"""Keys by URI: files, a hardware module, key services; whatever is wrong with one is one clear error."""

import contextlib
import itertools
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import tiny_chain
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa, x25519
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from securesystemslib.signer import SIGNER_FOR_URI_SCHEME, CryptoSigner, HSMSigner, Signature, Signer

from secpipeline.errors import AttestationError, InputError
from secpipeline.provenance import envelopes, keys
from secpipeline.provenance.keys import ROLES, KeyPlace, KeyRing, default_key_directory, public_pem
from secpipeline.workspace import Workspace

SOFTHSM = [
    Path(place)
    for place in (
        "/usr/lib/softhsm/libsofthsm2.so",
        "/usr/lib/x86_64-linux-gnu/softhsm/libsofthsm2.so",
        "/usr/lib64/pkcs11/libsofthsm2.so",
        "/opt/homebrew/lib/softhsm/libsofthsm2.so",
    )
    if Path(place).is_file()
]
PIN = "2468"
CLOUD = {
    "gcpkms": "gcpkms:projects/p/locations/l/keyRings/r/cryptoKeys/k/cryptoKeyVersions/1",
    "awskms": "awskms:alias/gate",
    "azurekms": "azurekms://vault.vault.azure.net/keys/gate/1",
    "hv": "hv:gate/1",
}


@pytest.fixture
def own(ring, tmp_path):
    """A ring that a test may break."""
    shutil.copytree(ring.directory, tmp_path / "ring")
    return KeyRing.open(tmp_path / "ring")


def pem_of(private_key):
    return private_key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def private_pem(private_key, password=b""):
    encryption = BestAvailableEncryption(password) if password else NoEncryption()
    return private_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption)


def private(ring, role, kind="pem"):
    return ring.directory / "private" / f"{role}.{kind}"


def refusal(action, *words):
    """The code of the one clear error that an action ends with."""
    with pytest.raises(AttestationError) as raised:
        action()
    assert "\n" not in str(raised.value)
    for word in words:
        assert word in raised.value.message
    return raised.value.code


def signs_for(ring, role):
    signature = ring.signer(role).sign(b"payload")
    ring.public(role).verify_signature(signature, b"payload")
    return True


def test_keys_are_private_and_made_once(tmp_path):
    ring = KeyRing.create(tmp_path / "keys")
    assert {path.stat().st_mode & 0o777 for path in (ring.directory / "private").iterdir()} == {0o600}
    assert (ring.directory / "private").stat().st_mode & 0o777 == 0o700
    assert KeyRing.create(tmp_path / "keys").public("trainer") == ring.public("trainer")
    (ring.directory / "private/trainer.pem").chmod(0o644)
    with pytest.raises(AttestationError, match=r"trainer\.pem"):
        KeyRing.open(ring.directory)


def test_a_missing_private_key_is_one_clear_error(tmp_path):
    ring = KeyRing.create(tmp_path / "keys")
    (ring.directory / "private/red-team.pem").unlink()
    with pytest.raises(AttestationError, match="red-team"):
        KeyRing.open(ring.directory).signer("red-team")
    (ring.directory / "public/monitor.pem").unlink()
    with pytest.raises(AttestationError, match="monitor"):
        KeyRing.open(ring.directory)


def as_made_by_0_2(ring):
    """The ring without the roles that 0.2 did not know."""
    for role in ("safety", "log", "channel"):
        private(ring, role).unlink()
        (ring.directory / f"public/{role}.pem").unlink()
    return {path.name: path.read_bytes() for path in ring.directory.glob("*/*.pem")}


def test_a_ring_made_by_an_earlier_version_gets_what_it_lacks_and_keeps_what_it_has(own):
    before = as_made_by_0_2(own)
    ring = KeyRing.create(own.directory)
    assert all(signs_for(ring, role) for role in ROLES)
    assert len({ring.public(role).keyid for role in ROLES}) == len(ROLES)
    assert before.items() <= {path.name: path.read_bytes() for path in ring.directory.glob("*/*.pem")}.items()
    assert {path.stat().st_mode & 0o777 for path in (ring.directory / "private").iterdir()} == {0o600}
    assert sorted(path.name for path in ring.directory.iterdir()) == ["private", "public"]


@pytest.mark.parametrize("done", range(14))
def test_bringing_up_an_older_ring_is_finished_after_a_crash(own, monkeypatch, done):
    as_made_by_0_2(own)
    moves = itertools.count()

    def until_the_crash(move):
        def moved(*arguments):
            if next(moves) == done:
                raise KeyboardInterrupt
            return move(*arguments)

        return moved

    with monkeypatch.context() as patched:
        patched.setattr(Path, "rename", until_the_crash(Path.rename))
        patched.setattr(Path, "replace", until_the_crash(Path.replace))
        with contextlib.suppress(KeyboardInterrupt):
            KeyRing.create(own.directory)
    assert all(signs_for(KeyRing.create(own.directory), role) for role in ROLES)


@pytest.mark.parametrize("role", ["safety", "log", "channel", "trainer"])
def test_a_lost_key_is_never_made_anew(own, role):
    lost = [private(own, role), own.directory / f"public/{role}.pem"]
    for path in lost:
        path.unlink()
    assert refusal(lambda: KeyRing.create(own.directory), role, "restore it") == "key-missing"
    assert not any(path.exists() for path in lost)


def test_every_role_has_a_p256_key_of_its_own_and_signs_with_it(ring):
    public = [ring.public(role) for role in ring.roles]
    assert {key.scheme for key in public} == {"ecdsa-sha2-nistp256"}
    assert len({key.keyid for key in public}) == len(ROLES)
    assert all(ring.uri(role) == f"file2:{ring.directory}/private/{role}.pem" for role in ROLES)
    assert all(signs_for(ring, role) for role in ROLES)


def test_two_who_make_the_keys_at_once_have_the_same(tmp_path):
    program = "import sys; from pathlib import Path; from secpipeline.provenance.keys import KeyRing;"
    program += "print(KeyRing.create(Path(sys.argv[1])).public('log').keyid)"
    started = [
        subprocess.Popen([sys.executable, "-c", program, str(tmp_path / "keys")], stdout=subprocess.PIPE)
        for _ in range(3)
    ]
    printed = {process.communicate(timeout=60)[0] for process in started}
    assert printed == {KeyRing.open(tmp_path / "keys").public("log").keyid.encode() + b"\n"}
    assert [path.name for path in tmp_path.iterdir()] == ["keys"]


@pytest.mark.parametrize("name", ["with space", "with#hash", "with?question", "with;semicolon", "with%20percent", "ä"])
def test_a_directory_may_have_any_name(tmp_path, name):
    assert signs_for(KeyRing.create(tmp_path / name / "keys"), "trainer")


def test_keys_cannot_be_made_below_a_file(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(InputError, match="cannot write keys here"):
        KeyRing.create(tmp_path / "file/keys")


@pytest.mark.parametrize("place", ["keys", "deep/er/keys", "home/keys"])
def test_keys_inside_the_project_or_its_home_are_refused(tmp_path, place):
    root, home = tmp_path / "project", tmp_path / "home"
    root.mkdir()
    inside = tmp_path / place if place.startswith("home") else root / place
    assert refusal(Workspace(root, home, inside).ring) == "keys-inside"
    assert not inside.exists()
    (tmp_path / "link").symlink_to(inside.parent)
    assert refusal(Workspace(root, home, tmp_path / "link/keys").ring) == "keys-inside"
    assert signs_for(Workspace(root, home, tmp_path / "keys").ring(), "trainer")


def test_the_directory_is_outside_the_project_unless_chosen(tmp_path, monkeypatch):
    monkeypatch.delenv("SECPIPELINE_KEYS", raising=False)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    one, other = default_key_directory(tmp_path / "one"), default_key_directory(tmp_path / "other")
    assert one.parent == other.parent == tmp_path / "data/secpipeline/keys"
    assert one != other
    monkeypatch.setenv("SECPIPELINE_KEYS", str(tmp_path / "mine"))
    assert default_key_directory(tmp_path / "one") == tmp_path / "mine"


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o602])
def test_a_key_file_that_others_may_touch_is_refused_also_while_the_ring_is_open(own, mode):
    private(own, "log").chmod(mode)
    assert refusal(lambda: KeyRing.open(own.directory), "log.pem", "chmod 600") == "key-exposed"
    assert refusal(lambda: own.signer("log")) == "key-exposed"
    assert signs_for(own, "trainer")
    private(own, "log").chmod(0o400)
    assert signs_for(KeyRing.open(own.directory), "log")


def test_a_directory_in_which_others_may_swap_keys_is_refused(own):
    (own.directory / "private").chmod(0o777)
    assert refusal(lambda: KeyRing.open(own.directory), "chmod 700") == "key-exposed"


def test_a_private_key_that_is_another_roles_signs_nothing(own):
    shutil.copy2(private(own, "trainer"), private(own, "red-team"))
    assert refusal(lambda: own.signer("red-team"), "red-team", "keys rotate") == "key-mismatch"
    assert signs_for(own, "trainer")


def test_a_public_key_that_was_swapped_signs_nothing(own):
    shutil.copy2(own.directory / "public/trainer.pem", own.directory / "public/red-team.pem")
    assert refusal(lambda: own.signer("red-team")) == "key-mismatch"


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x00" * 64,
        b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n",
        private_pem(ec.generate_private_key(ec.SECP256R1()), b"secret"),
        private_pem(ec.generate_private_key(ec.SECP384R1())),
        private_pem(ed25519.Ed25519PrivateKey.generate()),
        private_pem(x25519.X25519PrivateKey.generate()),
    ],
    ids=["empty", "zeros", "no key", "encrypted", "P-384", "Ed25519", "X25519"],
)
def test_a_key_file_that_cannot_sign_is_one_clear_error(own, content):
    private(own, "trainer").write_bytes(content)
    assert refusal(lambda: own.signer("trainer"), "trainer.pem", "cannot sign for trainer") == "key-missing"


@pytest.mark.parametrize(
    "content", [b"", b"\xff\xfe", b"-----BEGIN PUBLIC KEY-----\n\n-----END PUBLIC KEY-----\n"], ids=["", "bytes", "pem"]
)
def test_a_public_key_that_is_none_is_one_clear_error(own, content):
    (own.directory / "public/trainer.pem").write_bytes(content)
    assert refusal(lambda: own.public("trainer"), "trainer.pem") == "key-missing"
    assert refusal(lambda: own.signer("trainer"), "trainer.pem") == "key-missing"


def test_a_key_of_a_kind_that_nothing_verifies_is_refused(own):
    for strange in (x25519.X25519PrivateKey.generate(), ec.generate_private_key(ec.SECP256K1())):
        (own.directory / "public/trainer.pem").write_bytes(pem_of(strange))
        assert refusal(lambda: own.public("trainer"), "trainer.pem") == "key-missing"


def test_a_key_file_elsewhere_is_held_to_the_same_rules(tmp_path, own):
    made = CryptoSigner.generate_ecdsa()
    file = tmp_path / "stick #1/trainer.pem"
    file.parent.mkdir()
    file.write_bytes(made.private_bytes)
    file.chmod(0o600)
    own.replace("trainer", KeyPlace(f"file2:{file}", public_pem(made.public_key)))
    assert own.uri("trainer") == f"file2:{file}"
    assert not private(own, "trainer").exists()
    assert signs_for(own, "trainer")
    file.chmod(0o644)
    assert refusal(lambda: own.signer("trainer"), str(file)) == "key-exposed"
    file.unlink()
    assert refusal(lambda: own.signer("trainer"), str(file), "trainer") == "key-missing"


def test_a_file_that_should_say_where_a_key_is_and_does_not_is_one_clear_error(own):
    private(own, "trainer", "uri").write_bytes(b"\xff\xfe")
    private(own, "trainer", "uri").chmod(0o600)
    assert refusal(lambda: own.signer("trainer"), "trainer.uri") == "key-missing"
    private(own, "trainer", "uri").write_bytes(b"nonsense:1\n")
    assert refusal(lambda: own.signer("trainer"), "nonsense:1", "trainer") == "key-missing"
    private(own, "trainer", "uri").chmod(0o644)
    assert refusal(lambda: KeyRing.open(own.directory), "trainer.uri") == "key-exposed"


GOOD = public_pem(CryptoSigner.generate_ecdsa().public_key)


@pytest.mark.parametrize(
    ("uri", "public", "words"),
    [
        ("", GOOD, "not where a key is"),
        ("hsm", GOOD, "not where a key is"),
        ("ssh:agent", GOOD, "not where a key is"),
        ("gnupg:ABCD", GOOD, "not where a key is"),
        ("hsm:2\nfile2:/tmp/x", GOOD, "not where a key is"),
        ("hsm:2\x00", GOOD, "not where a key is"),
        ("file2:relative.pem", GOOD, "whole path"),
        ("hsm:2", b"", "none"),
        ("hsm:2", b"\xff\xfe", "none"),
        ("hsm:2", pem_of(x25519.X25519PrivateKey.generate()), "none"),
        ("hsm:2", private_pem(ec.generate_private_key(ec.SECP256R1())), "none"),
    ],
)
def test_a_place_that_is_none_is_refused_before_anything_is_written(uri, public, words):
    with pytest.raises(InputError, match=words):
        KeyPlace(uri, public)


@pytest.mark.parametrize("key", [ed25519.Ed25519PrivateKey.generate(), rsa.generate_private_key(65537, 2048)])
def test_a_key_service_may_have_keys_of_other_kinds(tmp_path, key):
    ring = KeyRing.create(tmp_path / "ring", {"trainer": KeyPlace(CLOUD["hv"], pem_of(key))})
    assert ring.uri("trainer") == CLOUD["hv"]
    assert public_pem(ring.public("trainer")) == pem_of(key)


def test_one_key_for_two_roles_is_refused(tmp_path, own):
    place = KeyPlace("hsm:2", GOOD)
    with pytest.raises(InputError, match=r"red-team.*trainer|trainer.*red-team"):
        KeyRing.create(tmp_path / "new", {"trainer": place, "red-team": place})
    assert [path.name for path in tmp_path.iterdir()] == ["ring"]
    before = own.public("trainer")
    with pytest.raises(InputError, match="monitor"):
        own.replace("trainer", KeyPlace("hsm:2", public_pem(own.public("monitor"))))
    assert own.public("trainer") == before
    assert signs_for(own, "trainer")


def test_an_unknown_role_is_refused_and_makes_nothing(tmp_path, own):
    with pytest.raises(InputError, match="no such role"):
        KeyRing.create(tmp_path / "new", {"boss": KeyPlace("hsm:2", GOOD)})
    assert not (tmp_path / "new").exists()
    with pytest.raises(InputError, match="no such role"):
        own.replace("../../x")


def test_a_new_key_takes_the_place_of_the_old_one_whatever_kind_they_are(own):
    first = own.public("trainer")
    second = own.replace("trainer")
    assert second == own.public("trainer") != first
    assert signs_for(own, "trainer")
    own.replace("trainer", KeyPlace("hsm:2", GOOD))
    assert own.uri("trainer") == "hsm:2"
    assert not private(own, "trainer").exists()
    own.replace("trainer")
    assert signs_for(own, "trainer")
    assert not private(own, "trainer", "uri").exists()
    assert private(own, "trainer").stat().st_mode & 0o777 == 0o600
    assert not [path for path in own.prepared.directory.rglob("*") if path.is_file()]


def test_a_prepared_key_signs_nothing_until_it_is_adopted_and_is_kept(own):
    before = own.public("trainer")
    key = own.prepare("trainer")
    assert own.public("trainer") == before
    assert signs_for(own, "trainer")
    assert own.prepare("trainer") == key
    own.adopt("trainer")
    assert own.public("trainer") == key
    assert own.prepare("trainer") != key
    other = CryptoSigner.generate_ecdsa().public_key
    assert own.prepare("trainer", KeyPlace("hsm:7", public_pem(other))).keyid == other.keyid


class Killed(BaseException):
    """What no handler takes for an error of its own."""


def kill_at(monkeypatch, number):
    """Let the program die at the ``number``-th thing it does to a file; counted are writes, moves and removals."""
    count = iter(range(1, 1000))

    def deadly(function):
        def step(*arguments, **keywords):
            if next(count) == number:
                raise Killed
            return function(*arguments, **keywords)

        return step

    monkeypatch.setattr(keys, "write_atomic", deadly(keys.write_atomic))
    for name in ("replace", "unlink"):
        monkeypatch.setattr(keys.Path, name, deadly(getattr(Path, name)))


@pytest.mark.parametrize("number", range(1, 12))
@pytest.mark.parametrize("kinds", ["file to file", "file to hsm", "hsm to file"])
def test_killed_while_a_key_is_replaced_the_next_call_finishes(own, kinds, number):
    before, after = kinds.split(" to ")
    hsm = KeyPlace("hsm:2", GOOD)
    if before == "hsm":
        own.replace("trainer", hsm)
    old = own.public("trainer")
    with pytest.MonkeyPatch.context() as patch:
        kill_at(patch, number)
        try:
            own.replace("trainer", hsm if after == "hsm" else None)
            finished = True
        except Killed:
            finished = False
    ring = KeyRing.open(own.directory)
    if ring.public("trainer") == old and ring.uri("trainer").startswith("file2"):
        assert signs_for(ring, "trainer")
    if not finished:
        ring.replace("trainer", hsm if after == "hsm" else None)
    assert ring.public("trainer") != old
    assert ring.uri("trainer").partition(":")[0] == ("hsm" if after == "hsm" else "file2")
    assert after == "hsm" or signs_for(ring, "trainer")
    assert not [path for path in ring.prepared.directory.rglob("*") if path.is_file()]
    assert sum(private(ring, "trainer", kind).exists() for kind in ("pem", "uri")) == 1


@pytest.mark.parametrize("scheme", CLOUD)
def test_a_key_service_without_credentials_is_one_clear_error(tmp_path, monkeypatch, scheme):
    for name in [name for name in os.environ if name.startswith(("AWS_", "AZURE_", "GOOGLE_", "VAULT_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    ring = KeyRing.create(tmp_path / "ring", {"red-team": KeyPlace(CLOUD[scheme], GOOD)})
    code = refusal(lambda: ring.signer("red-team").sign(b"x"), CLOUD[scheme], "red-team")
    assert code == "key-missing"


class Service(Signer):
    """A key service as its library might behave."""

    trouble: Exception | None = None
    at_first = False
    key = CryptoSigner.generate_ecdsa()
    answer: str | None = None

    def __init__(self, public_key):
        self._public_key = public_key

    @classmethod
    def from_priv_key_uri(cls, priv_key_uri, public_key, secrets_handler=None):
        if cls.trouble and cls.at_first:
            raise cls.trouble
        return cls(public_key)

    @property
    def public_key(self):
        return self._public_key

    def sign(self, payload):
        if self.trouble:
            raise self.trouble
        signature = self.key.sign(payload).signature if self.answer is None else self.answer
        return Signature(self.public_key.keyid, signature)


@pytest.fixture
def service(monkeypatch):
    kind = type("Fresh", (Service,), {})
    monkeypatch.setitem(SIGNER_FOR_URI_SCHEME, "awskms", kind)
    return kind


@pytest.fixture
def served(own, service):
    own.replace("red-team", KeyPlace(CLOUD["awskms"], public_pem(service.key.public_key)))
    return own


class Odd(Exception):
    def __str__(self):
        return "denied:\n  arn:aws:kms\n  (request 7)"


@pytest.mark.parametrize("at_first", [True, False], ids=["made", "used"])
@pytest.mark.parametrize(
    "trouble",
    [Odd(), ImportError("no boto3"), RuntimeError(), KeyError("x"), EOFError(), TimeoutError("60 s")],
    ids=repr,
)
def test_whatever_a_service_raises_names_the_uri_and_the_role(served, service, trouble, at_first):
    assert signs_for(served, "red-team")
    service.trouble, service.at_first = trouble, at_first
    words = (CLOUD["awskms"], "red-team", type(trouble).__name__)
    assert refusal(lambda: served.signer("red-team").sign(b"x"), *words) == "key-missing"


@pytest.mark.parametrize("answer", ["other key", "", "00", "zz", "30" * 40])
def test_a_service_whose_signature_does_not_verify_produces_no_evidence(served, service, answer):
    if answer == "other key":
        service.key = CryptoSigner.generate_ecdsa()
    else:
        service.answer = answer
    signer = served.signer("red-team")
    assert refusal(lambda: signer.sign(b"x"), CLOUD["awskms"], "red-team") == "key-mismatch"
    assert refusal(lambda: envelopes.sign(b"{}", envelopes.PAYLOAD_TYPE, [signer])) == "key-mismatch"


def test_a_chain_whose_gate_signs_with_a_service_verifies(tmp_path, served):
    chain = tiny_chain.build(tmp_path / "chain", served)
    assert chain.verify().ok


@pytest.fixture(scope="module")
def module_():
    """A software module with two keys, 2 and 3; its library reads its settings once a process."""
    pkcs11 = pytest.importorskip("pkcs11")
    from pkcs11.util.ec import encode_named_curve_parameters

    if not SOFTHSM or shutil.which("softhsm2-util") is None:
        pytest.skip("SoftHSM is not installed")
    import tempfile

    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        (Path(folder) / "tokens").mkdir()
        (Path(folder) / "conf").write_text(f"directories.tokendir = {folder}/tokens\nlog.level = ERROR\n")
        patch.setenv("SOFTHSM2_CONF", f"{folder}/conf")
        patch.setenv("PYKCS11LIB", str(SOFTHSM[0]))
        make = ["softhsm2-util", "--init-token", "--free", "--label", "gate", "--pin", PIN, "--so-pin", "1357"]
        subprocess.run(make, check=True, capture_output=True)
        library = pkcs11.lib(str(SOFTHSM[0]))
        with library.get_token(token_label="gate").open(rw=True, user_pin=PIN) as session:
            curve = {pkcs11.Attribute.EC_PARAMS: encode_named_curve_parameters("secp256r1")}
            parameters = session.create_domain_parameters(pkcs11.KeyType.EC, curve, local=True)
            for number in (2, 3):
                parameters.generate_keypair(store=True, id=bytes([number]), label=f"key {number}")
        yield {number: HSMSigner.import_(number, "gate", lambda _: PIN) for number in (2, 3)}


@pytest.fixture
def hsm(module_, monkeypatch):
    monkeypatch.setenv("SECPIPELINE_PIN", PIN)
    return {number: KeyPlace(uri, public_pem(key)) for number, (uri, key) in module_.items()}


def test_a_chain_whose_gate_and_owner_sign_in_a_hardware_module_verifies(tmp_path, hsm):
    ring = KeyRing.create(tmp_path / "ring", {"red-team": hsm[2], "owner-1": hsm[3]})
    assert ring.uri("red-team") == "hsm:2?label=gate"
    assert not private(ring, "red-team").exists()
    chain = tiny_chain.build(tmp_path / "chain", ring)
    report = chain.verify()
    assert report.ok, report.text()


def test_the_wrong_key_of_a_module_is_noticed_when_it_signs(tmp_path, hsm):
    ring = KeyRing.create(tmp_path / "ring", {"red-team": KeyPlace(hsm[2].uri, hsm[3].public)})
    signer = ring.signer("red-team")
    assert refusal(lambda: signer.sign(b"x"), hsm[2].uri, "red-team") == "key-mismatch"


@pytest.mark.parametrize(
    "uri", ["hsm:9?label=gate", "hsm:2?label=other", "hsm:?label=other", "hsm:two?label=gate", "hsm:-1?label=gate"]
)
def test_a_key_that_the_module_lacks_is_one_clear_error(tmp_path, hsm, uri):
    ring = KeyRing.create(tmp_path / "ring", {"red-team": KeyPlace(uri, hsm[2].public)})
    assert refusal(lambda: ring.signer("red-team").sign(b"x"), uri, "red-team") == "key-missing"


def test_a_wrong_pin_a_missing_pin_and_a_missing_library_are_clear_errors(tmp_path, hsm, monkeypatch):
    ring = KeyRing.create(tmp_path / "ring", {"red-team": hsm[2]})
    signer = ring.signer("red-team")
    signer.sign(b"x")
    monkeypatch.setenv("SECPIPELINE_PIN", "0000")
    assert refusal(lambda: signer.sign(b"x"), hsm[2].uri, "red-team") == "key-missing"
    monkeypatch.delenv("SECPIPELINE_PIN")
    monkeypatch.setattr(sys, "stdin", None)
    monkeypatch.setattr(sys, "stderr", open(os.devnull, "w"))  # noqa: PTH123, SIM115 - closed with the process
    assert refusal(lambda: signer.sign(b"x"), "$SECPIPELINE_PIN", "red-team") == "key-missing"
    monkeypatch.setenv("SECPIPELINE_PIN", PIN)
    signer.sign(b"x")
    monkeypatch.delenv("PYKCS11LIB")
    assert refusal(lambda: signer.sign(b"x"), "PYKCS11LIB", "red-team") == "key-missing"


def test_a_pin_is_asked_for_by_role_where_somebody_can_answer(tmp_path, hsm, monkeypatch):
    asked = []
    monkeypatch.delenv("SECPIPELINE_PIN")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(keys.getpass, "getpass", lambda text: asked.append(text) or PIN)
    ring = KeyRing.create(tmp_path / "ring", {"red-team": hsm[2]})
    assert signs_for(ring, "red-team")
    assert asked == ["pin to sign for red-team (hsm:2?label=gate): "]
