"""Certificates for one test: an authority of its own, and servers that it vouches for."""

from datetime import datetime, timedelta, timezone
from ipaddress import ip_address

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from twisted.internet.ssl import Certificate, PrivateCertificate, optionsForClientTLS, trustRootFromCertificates

_PEM = serialization.Encoding.PEM
_DAY = timedelta(days=1)


class Authority:
    """
    A certificate authority.

    :ivar trust_root: trusts it, and nothing else.
    """

    def __init__(self):
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = _named("An authority for tests")
        self._certificate = self._sign(self._name, self._key, x509.BasicConstraints(ca=True, path_length=0))
        self.trust_root = trustRootFromCertificates([Certificate.loadPEM(self.pem)])

    @property
    def pem(self):
        """Its own certificate."""
        return self._certificate.public_bytes(_PEM)

    def issue(self, *hosts):
        """Key and certificate of a server with these names and addresses, as PEM."""
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = self._sign(_named("server"), key, x509.SubjectAlternativeName([_general(host) for host in hosts]))
        private = key.private_bytes(_PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        return private + certificate.public_bytes(_PEM)

    def trusted_server(self, folder):
        """
        Write a certificate for this machine, and what a TLS client needs to trust it.

        :return: the file of key and certificate; the authority's certificate is in the folder ``trusted`` beside it.
        """
        (folder / "trusted").mkdir()
        (folder / "trusted" / "authority.pem").write_bytes(self.pem)
        path = folder / "server.pem"
        path.write_bytes(self.issue("localhost", "127.0.0.1"))
        return path

    def server_options(self, *hosts):
        """A context factory for a server with these names and addresses."""
        return PrivateCertificate.loadPEM(self.issue(*hosts)).options()

    def client_for(self, host):
        """How a client speaks TLS with `host`, whose certificate has to be of this authority."""
        return optionsForClientTLS(host, trustRoot=self.trust_root)

    def _sign(self, name, key, extension):
        now = datetime.now(timezone.utc)
        builder = x509.CertificateBuilder(
            issuer_name=self._name,
            subject_name=name,
            public_key=key.public_key(),
            serial_number=x509.random_serial_number(),
            not_valid_before=now - _DAY,
            not_valid_after=now + _DAY,
        )
        return builder.add_extension(extension, critical=False).sign(self._key, hashes.SHA256())


def trusting(port, pem):
    """Return the endpoint string, escaped to stand inside another, of the TLS server with a `trusted_server` file."""
    return rf"tls\:127.0.0.1\:{port}\:trustRoots\={pem.parent}/trusted"


def _named(name):
    return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])


def _general(host):
    try:
        return x509.IPAddress(ip_address(host))
    except ValueError:
        return x509.DNSName(host)
