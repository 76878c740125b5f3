"""Where a client connects to, and who may get its key."""

from typing import Any

import grpc
import pytest
import trustme

import babelward
from babelward import Plaintext, Tls
from babelward.connection import Options, endpoint
from fake import FakeServer, safe


@pytest.mark.parametrize(
    ("address", "private"),
    [
        ("127.0.0.1:1", True),
        ("http://127.9.9.9:1", True),
        ("[::1]:1", True),
        ("localhost:1", True),
        ("unix:/run/babelward", True),
        ("https://guard.example:1", True),
        ("https://192.0.2.1", True),
        ("guard.example:1", False),
        ("localhost.example:1", False),
        ("192.0.2.1:1", False),
        ("0.0.0.0:1", False),
        ("[::]:1", False),
        ("http://[2001:db8::1]:1", False),
        ("[::ffff:192.0.2.1]:1", False),
        ("dns:///127.0.0.1:1", False),
    ],
)
def test_a_key_leaves_this_machine_with_tls_only(address: str, private: bool) -> None:
    if private:
        endpoint(Options(address, api_key="bw_x"))
        return
    with pytest.raises(babelward.PlaintextKeyError, match="https://") as caught:
        endpoint(Options(address, api_key="bw_x"))
    assert "bw_x" not in str(caught.value)
    endpoint(Options(address))
    endpoint(Options(address, api_key="bw_x", tls=Plaintext.ENCRYPTED_ELSEWHERE))
    assert (
        endpoint(Options(address.removeprefix("http://"), api_key="bw_x", tls=Tls())).credentials is not None
    )


@pytest.mark.parametrize("address", ["", "http://", "ftp://x:1", "https://"])
def test_what_is_no_address_is_refused(address: str) -> None:
    with pytest.raises(ValueError, match="is not an address"):
        endpoint(Options(address))


def test_an_address_without_tls_and_tls_is_refused() -> None:
    with pytest.raises(ValueError, match="http:// is without TLS"):
        endpoint(Options("http://127.0.0.1:1", tls=Tls()))


def test_a_certificate_needs_its_key() -> None:
    with pytest.raises(ValueError, match="given together"):
        endpoint(Options("127.0.0.1:1", tls=Tls(certificate=b"x")))


def test_secrets_are_not_shown() -> None:
    shown = repr(Options("127.0.0.1:1", api_key="bw_secret", tls=Tls(key=b"bw_secret")))
    assert "bw_secret" not in shown


def test_client_and_server_know_each_other_by_certificates(connect: Any) -> None:
    authority, stranger = trustme.CA(), trustme.CA()
    own = authority.issue_cert("127.0.0.1", "localhost")
    trusted = authority.cert_pem.bytes()
    credentials = grpc.ssl_server_credentials(
        [(own.private_key_pem.bytes(), own.cert_chain_pems[0].bytes())], trusted, require_client_auth=True
    )
    server = FakeServer(credentials)
    server.handlers["Classify"] = lambda _request, _context: safe()
    shown = authority.issue_cert("client@example.com")
    tls = Tls(trusted, shown.cert_chain_pems[0].bytes(), shown.private_key_pem.bytes())
    address = "https://" + server.address
    once = babelward.NO_RETRIES
    assert connect(address, tls=tls, api_key="bw_x", retry=once).classify("x").verdict.unsafe_score == 0.25
    for wrong in (Tls(trusted), Tls(stranger.cert_pem.bytes(), tls.certificate, tls.key)):
        with pytest.raises(babelward.UnavailableError):
            connect(address, tls=wrong, retry=once).classify("x")
    server.stop()
