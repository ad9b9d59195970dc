"""A certificate authority of the lab's own, and the one server certificate that it signs.

The key never leaves the lab's home, the authority is trusted by no one who was not told to, and
`labkit down` deletes it.
"""

from __future__ import annotations

import datetime as dt
import ipaddress
import os
import ssl
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

_LIFETIME = dt.timedelta(days=365)
_SYSTEM_BUNDLES = (
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/cert.pem",
)

_IN_CLUSTER_NAMES = (
    "localhost",
    "kubernetes",
    "kubernetes.default",
    "kubernetes.default.svc",
    "kubernetes.default.svc.cluster.local",
)
_IN_CLUSTER_ADDRESSES = ("127.0.0.1", "10.0.0.1")


@dataclass(frozen=True)
class Certificates:
    """Files of a lab's certificates, all readable by their owner only.

    Args:
        ca: the authority's certificate, PEM.
        server: the server's certificate and key, PEM.
        bundle: the system's authorities and ours, for clients that take one file (az, requests).
    """

    ca: Path
    server: Path
    bundle: Path

    def server_context(self) -> ssl.SSLContext:
        """What the daemon's listeners speak TLS with."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.load_cert_chain(self.server)
        context.set_alpn_protocols(["http/1.1"])
        return context


def ensure_certificates(home: Path, regions: Iterable[str]) -> Certificates:
    """Make the lab's certificates, or adopt those that are there.

    Args:
        home: the lab's home.
        regions: Azure regions; the server certificate covers the API names of each.
    """
    files = Certificates(home / "ca.pem", home / "server.pem", home / "ca-bundle.pem")
    if not (files.ca.exists() and files.server.exists() and files.bundle.exists()):
        _make(files, regions)
    return files


def _make(files: Certificates, regions: Iterable[str]) -> None:
    now = dt.datetime.now(dt.UTC) - dt.timedelta(minutes=5)
    ca_key = ec.generate_private_key(ec.SECP256R1())
    ca_name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "labkit local lab CA")])
    ca = (
        _builder(ca_name, ca_name, ca_key, now)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(
            x509.KeyUsage(
                key_cert_sign=True,
                crl_sign=True,
                digital_signature=True,
                content_commitment=False,
                key_encipherment=False,
                data_encipherment=False,
                key_agreement=False,
                encipher_only=False,
                decipher_only=False,
            ),
            critical=True,
        )
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(ca_key.public_key()), critical=False)
        .sign(ca_key, hashes.SHA256())
    )
    key = ec.generate_private_key(ec.SECP256R1())
    names = [x509.DNSName(n) for n in (*_IN_CLUSTER_NAMES, *(f"*.hcp.{r}.azmk8s.io" for r in regions))]
    addresses = [x509.IPAddress(ipaddress.ip_address(a)) for a in _IN_CLUSTER_ADDRESSES]
    server = (
        _builder(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "labkit local lab")]), ca_name, key, now)
        .add_extension(x509.SubjectAlternativeName([*names, *addresses]), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()), critical=False
        )
        .sign(ca_key, hashes.SHA256())
    )
    ca_pem = ca.public_bytes(serialization.Encoding.PEM)
    key_pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    write_private(files.server, server.public_bytes(serialization.Encoding.PEM) + key_pem)
    system = next((Path(p).read_bytes() for p in _SYSTEM_BUNDLES if Path(p).exists()), b"")
    write_private(files.bundle, system + b"\n" + ca_pem)
    write_private(files.ca, ca_pem)


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, now: dt.datetime
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now)
        .not_valid_after(now + _LIFETIME)
    )


def write_private(path: Path, content: bytes) -> None:
    """Write a file that only its owner reads, in one step: a reader sees the old file or the new one."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as stream:
        stream.write(content)
    temporary.replace(path)
