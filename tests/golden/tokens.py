"""Tokens signed by PyJWT with the algorithms that we accept and with some that we must refuse.

    pip install 'pyjwt[crypto]'
    python tests/golden/tokens.py

Writes tests/golden/tokens.json: the public keys as a JWKS, and tokens by what is wrong with them. All keys are thrown away,
so the tokens cannot be made again with the same bytes. Those that are valid expire in the year 2100.
"""

import base64
import hmac
import json
import pathlib

import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

END = 4102444800  # 2100-01-01
CLAIMS = {"iss": "https://issuer.example", "aud": "babelward", "sub": "team-a", "exp": END, "scope": "openid classify score"}


def jwk(algorithm, key, name):
    document = json.loads(algorithm.to_jwk(key.public_key()))
    document.pop("key_ops", None)
    return {**document, "kid": name, "use": "sig"}


def without_signature(header, claims):
    parts = [base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=").decode() for part in (header, claims)]
    return ".".join([*parts, ""])


def by_hmac(kid, secret):
    """By hand, because PyJWT refuses public keys as secrets."""
    unsigned = without_signature({"alg": "HS256", "typ": "JWT", "kid": kid}, CLAIMS).rstrip(".")
    digest = hmac.digest(secret, unsigned.encode(), "sha256")
    return unsigned + "." + base64.urlsafe_b64encode(digest).rstrip(b"=").decode()


def main():
    keys = {
        "RS256": rsa.generate_private_key(public_exponent=65537, key_size=2048),
        "ES256": ec.generate_private_key(ec.SECP256R1()),
        "EdDSA": ed25519.Ed25519PrivateKey.generate(),
    }
    algorithms = {
        "RS256": jwt.algorithms.RSAAlgorithm,
        "ES256": jwt.algorithms.ECAlgorithm,
        "EdDSA": jwt.algorithms.OKPAlgorithm,
    }
    jwks = [jwk(algorithms[name], key, name) for name, key in keys.items()]
    short = rsa.generate_private_key(public_exponent=65537, key_size=1024)
    jwks.append(jwk(jwt.algorithms.RSAAlgorithm, short, "short"))
    jwks.append({"kty": "oct", "kid": "shared", "k": base64.urlsafe_b64encode(b"0" * 32).rstrip(b"=").decode()})
    jwks.append({"kty": "new", "kid": "unknown"})

    def signed(name, claims=None, key=None, algorithm=None, kid=None, headers=None):
        header = {"kid": kid or name, **(headers or {})}
        return jwt.encode({**CLAIMS, **(claims or {})}, key or keys[name], algorithm=algorithm or name, headers=header)

    def lacking(claim):
        claims = {name: value for name, value in CLAIMS.items() if name != claim}
        return jwt.encode(claims, keys["ES256"], algorithm="ES256", headers={"kid": "ES256"})

    public = keys["RS256"].public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    stranger = ec.generate_private_key(ec.SECP256R1())
    valid = {name: signed(name) for name in keys}
    body, signature = valid["ES256"].rsplit(".", 1)
    forged = jwt.encode({**CLAIMS, "sub": "team-b"}, stranger, algorithm="ES256", headers={"kid": "ES256"}).rsplit(".", 1)[0]
    tokens = {
        "valid": {
            **valid,
            "no kid": jwt.encode(CLAIMS, keys["ES256"], algorithm="ES256"),
            "several audiences": signed("EdDSA", {"aud": ["other", "babelward"]}),
            "scopes as a list": signed("EdDSA", {"scope": ["classify", "score"]}),
            "end with a fraction": signed("EdDSA", {"exp": END + 0.5}),
        },
        "unknown": {
            "alg none": without_signature({"alg": "none", "typ": "JWT", "kid": "ES256"}, CLAIMS),
            "no signature": body + ".",
            "HMAC with the public RSA key": by_hmac("RS256", public),
            "HMAC with the shared key": by_hmac("shared", b"0" * 32),
            "another key": signed("ES256", key=stranger),
            "a key that is not there": signed("ES256", kid="gone"),
            "an algorithm for another key": signed("ES256", kid="EdDSA"),
            "RS512 with the key for RS256": signed("RS256", algorithm="RS512"),
            "PS256 with the key for RS256": signed("RS256", algorithm="PS256"),
            "a short RSA key": signed("RS256", key=short, kid="short"),
            "claims of another token": f"{forged}.{signature}",
            "critical header": signed("ES256", headers={"crit": ["x"], "x": True}),
        },
        "expired": {"long ago": signed("ES256", {"exp": 1000000000})},
        "not_yet_valid": {"next century": signed("ES256", {"nbf": END - 1})},
        "issuer": {"another": signed("ES256", {"iss": "https://issuer.example.evil"})},
        "audience": {"another": signed("ES256", {"aud": "babelward2"}), "none of several": signed("ES256", {"aud": ["a", "b"]})},
        "claims": {
            **{f"no {claim}": lacking(claim) for claim in ("exp", "iss", "aud", "sub", "scope")},
            "end as text": signed("ES256", {"exp": str(END)}),
            "beginning as text": signed("ES256", {"nbf": "0"}),
            "scopes as an object": signed("ES256", {"scope": {"classify": True}}),
            "scopes as numbers": signed("ES256", {"scope": [1]}),
        },
    }
    path = pathlib.Path(__file__).parent / "tokens.json"
    path.write_text(json.dumps({"pyjwt": jwt.__version__, "jwks": {"keys": jwks}, "tokens": tokens}, indent=1) + "\n")


if __name__ == "__main__":
    main()
