"""What servers, resolvers and certificates do wrong: a table of faults and the code that each must end with.

An answer is what `tests.support.server.Server` sends: bytes, or a function of the connection and the request's head.
"""

from __future__ import annotations

import datetime
import gzip
import ipaddress
import socket
import ssl
import struct
import threading
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.support.clock import HANG_S
from tests.support.server import Answer, response

OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"
GZIP = OK + b"Content-Encoding: gzip\r\n"
MANY = 1_000_000  # the cap on a picture's bytes while faults are tried


@dataclass(frozen=True)
class Fault:
    """A fault of a server.

    Attributes:
        code: What the row must end with.
        answer: What the server does.
        slow: Whether it takes the row's whole time.
    """

    code: str
    answer: Answer
    slow: bool = False


def then(*parts: bytes, cut: str = "") -> Callable[[socket.socket, str], None]:
    """Send some parts; then end the connection, half of it ("half") or with a reset ("reset"), or say no more ("")."""

    def answer(connection: socket.socket, _: str) -> None:
        for part in parts:
            connection.sendall(part)
        if cut == "reset":
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            connection.close()
        elif cut == "half":
            connection.shutdown(socket.SHUT_WR)
        elif cut == "close":
            connection.shutdown(socket.SHUT_RDWR)
        while not cut and connection.recv(1):
            pass

    return answer


def endless(start: bytes, part: bytes, pause_s: float = 0.0) -> Callable[[socket.socket, str], None]:
    """Send a start and then the same part for ever, with a pause between two."""

    def answer(connection: socket.socket, _: str) -> None:
        connection.sendall(start)
        never = threading.Event()
        while True:
            connection.sendall(part)
            if pause_s:
                never.wait(pause_s)

    return answer


def redirect(location: str | bytes, status: str = "302 Found") -> bytes:
    encoded = location if isinstance(location, bytes) else location.encode()
    return f"HTTP/1.1 {status}\r\nContent-Length: 0\r\nLocation: ".encode() + encoded + b"\r\n\r\n"


def chunks(*bodies: bytes) -> bytes:
    return b"".join(b"%x\r\n%s\r\n" % (len(body), body) for body in bodies)


def _bomb(count: int) -> bytes:
    """Return `count` times MANY zeros in gzip: one compressed piece again and again, because compressing all takes long."""
    squeeze, crc = zlib.compressobj(9, wbits=-zlib.MAX_WBITS), 0
    piece = squeeze.compress(bytes(MANY)) + squeeze.flush(zlib.Z_FULL_FLUSH)
    for _ in range(count):
        crc = zlib.crc32(bytes(MANY), crc)
    head = gzip.compress(b"")[:10]
    return head + piece * count + squeeze.flush() + struct.pack("<II", crc, count * MANY)


BOMB = _bomb(200)

FAULTS: dict[str, Fault] = {
    # Statuses
    "404": Fault("http_4xx", response(status="404 Not Found")),
    "410 with a page": Fault("http_4xx", response(b"<html>gone</html>", "410 Gone")),
    "403 with a body that never ends": Fault("http_4xx", endless(b"HTTP/1.1 403 No\r\n\r\n", b"x" * 65536)),
    "429": Fault("http_429", response(status="429 Too Many Requests")),
    "429, wait for an hour": Fault("http_429", response(status="429 Wait", retry_after="3600")),
    "429, wait for nonsense": Fault("http_429", response(status="429 Wait", retry_after="soon, -1")),
    "429, wait less than nothing": Fault("http_429", response(status="429 Wait", retry_after="-5")),
    "429, wait for 5000 digits": Fault("http_429", response(status="429 Wait", retry_after="9" * 5000)),
    "503, wait until 9999": Fault("http_5xx", response(status="503 Busy", retry_after="Fri, 31 Dec 9999 23:59:59 GMT")),
    "503, wait until no day": Fault(
        "http_5xx", response(status="503 Busy", retry_after="Fri, 99 Foo 0000 99:99:99 -9999")
    ),
    "500": Fault("http_5xx", response(status="500 Broken")),
    "500 without a reason": Fault("http_5xx", b"HTTP/1.1 500\r\nContent-Length: 0\r\n\r\n"),
    "status 101": Fault("bad_response", b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: h2c\r\n\r\n"),
    "status 600": Fault("bad_response", b"HTTP/1.1 600 What\r\nContent-Length: 0\r\n\r\n"),
    "status 20": Fault("bad_response", b"HTTP/1.1 20 OK\r\n\r\n"),
    "status abc": Fault("bad_response", b"HTTP/1.1 abc OK\r\n\r\n"),
    # Not HTTP, or none of it
    "HTTP/0.9": Fault("bad_response", then(b"<html>a picture</html>\r\n\r\n", cut="half")),
    "HTTP/2's preface": Fault("bad_response", then(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")),
    "HTTP/2's settings": Fault("bad_response", then(b"\0\0\x12\4\0\0\0\0\0\0\3\0\0\0d\r\n\r\n")),
    "SSH": Fault("bad_response", then(b"SSH-2.0-OpenSSH_9.9\r\n\r\n")),
    "a TLS alert": Fault("bad_response", then(b"\x15\x03\x01\0\x02\x02\x46", cut="half")),
    "nothing, closed": Fault("bad_response", then(cut="close")),
    "nothing, half closed": Fault("bad_response", then(cut="half")),
    "nothing, reset": Fault("bad_response", then(cut="reset")),
    "nothing for ever": Fault("timeout", then(), slow=True),
    # Heads
    "a head cut short": Fault("bad_response", then(OK + b"Content-Le", cut="half")),
    "a head reset": Fault("bad_response", then(OK + b"Content-Le", cut="reset")),
    "a head that stops": Fault("timeout", then(OK + b"Content-Le"), slow=True),
    "a head byte by byte": Fault("timeout", endless(OK + b"X-Slow: ", b"x", 0.02), slow=True),
    "a head without end": Fault("bad_response", endless(OK + b"X-Long: ", b"x" * 4096)),
    "a head of headers without end": Fault("bad_response", endless(OK, b"X-Many: 1\r\n" * 300)),
    "one header of 70 kB": Fault("bad_response", OK + b"X: " + b"x" * 70_000 + b"\r\nContent-Length: 1\r\n\r\nx"),
    "a status line of 70 kB": Fault(
        "bad_response", b"HTTP/1.1 200 " + b"x" * 70_000 + b"\r\nContent-Length: 1\r\n\r\nx"
    ),
    "10,000 headers": Fault("bad_response", OK + b"".join(b"X-%d: y\r\n" % i for i in range(10_000)) + b"\r\n"),
    "interim answers for ever": Fault("bad_response", endless(b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 50)),
    "early hints byte by byte": Fault("timeout", endless(b"", b"HTTP/1.1 103 Hints\r\n\r\n", 0.02), slow=True),
    "a header without a colon": Fault("bad_response", OK + b"nonsense\r\n\r\n"),
    "a header with a NUL": Fault("bad_response", OK + b"X: a\0b\r\nContent-Length: 1\r\n\r\nx"),
    "a header without a name": Fault("bad_response", OK + b": a\r\nContent-Length: 1\r\n\r\nx"),
    "a length below nothing": Fault("bad_response", OK + b"Content-Length: -5\r\n\r\n"),
    "a length of 5000 digits": Fault("bad_response", OK + b"Content-Length: " + b"9" * 5000 + b"\r\n\r\nx"),
    "a length in words": Fault("bad_response", OK + b"Content-Length: many\r\n\r\nx"),
    "two lengths": Fault("bad_response", OK + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\nxx"),
    "an unknown transfer encoding": Fault("bad_response", OK + b"Transfer-Encoding: gzip, chunked\r\n\r\n"),
    # Bodies
    "an empty body": Fault("empty_body", response()),
    "204": Fault("empty_body", b"HTTP/1.1 204 No Content\r\n\r\n"),
    "an empty chunked body": Fault("empty_body", CHUNKED + b"0\r\n\r\n"),
    "an empty compressed body": Fault("empty_body", response(gzip.compress(b""), content_encoding="gzip")),
    "an empty body, closed": Fault("empty_body", then(OK + b"\r\n", cut="half")),
    "a length above the cap": Fault("too_many_bytes", OK + b"Content-Length: %d\r\n\r\nx" % (MANY + 1)),
    "a length far above the cap": Fault("too_many_bytes", OK + b"Content-Length: 9999999999999\r\n\r\nx"),
    "a body for ever": Fault("too_many_bytes", endless(OK + b"\r\n", b"x" * 65536)),
    "a chunked body for ever": Fault("too_many_bytes", endless(CHUNKED, chunks(b"x" * 65536))),
    "a body cut short": Fault("bad_response", then(OK + b"Content-Length: 100\r\n\r\nshort", cut="half")),
    "a body reset": Fault("bad_response", then(OK + b"Content-Length: 100\r\n\r\nshort", cut="reset")),
    "a body that stops": Fault("timeout", then(OK + b"Content-Length: 100\r\n\r\nshort"), slow=True),
    "a body that never starts": Fault("timeout", then(OK + b"Content-Length: 100\r\n\r\n"), slow=True),
    "a body byte by byte": Fault("timeout", endless(OK + b"Content-Length: 9999\r\n\r\n", b"x", 0.02), slow=True),
    "chunks of one byte": Fault("timeout", endless(CHUNKED, chunks(b"x"), 0.02), slow=True),
    "a chunk's size in words": Fault("bad_response", CHUNKED + b"many\r\n"),
    "a chunk's size below nothing": Fault("bad_response", CHUNKED + b"-1\r\n"),
    "a chunk's size of 30 digits": Fault("bad_response", CHUNKED + b"f" * 30 + b"\r\n"),
    "a chunk of a terabyte": Fault("too_many_bytes", endless(CHUNKED + b"ffffffffff\r\n", b"x" * 65536)),
    "a chunk longer than it says": Fault("bad_response", CHUNKED + b"2\r\nabcdef\r\n0\r\n\r\n"),
    "chunks without the last": Fault("bad_response", then(CHUNKED + chunks(b"abc"), cut="half")),
    "a chunk cut short": Fault("bad_response", then(CHUNKED + b"a\r\nabc", cut="half")),
    "a chunk's extension for ever": Fault("bad_response", endless(CHUNKED + b"1;", b"x" * 4096)),
    "trailers for ever": Fault("bad_response", endless(CHUNKED + chunks(b"abc") + b"0\r\n", b"X: 1\r\n" * 500)),
    # Compression
    "a bomb": Fault("too_many_bytes", response(BOMB, content_encoding="gzip")),
    "a chunked bomb": Fault("too_many_bytes", CHUNKED.replace(OK, GZIP) + chunks(BOMB) + b"0\r\n\r\n"),
    "a bomb in a bomb": Fault("bad_response", response(gzip.compress(BOMB), content_encoding="gzip, gzip")),
    "gzip cut short": Fault("bad_response", response(gzip.compress(b"a picture" * 99)[:-20], content_encoding="gzip")),
    "gzip without its checksum": Fault(
        "bad_response", response(gzip.compress(b"picture")[:-8], content_encoding="gzip")
    ),
    "gzip with a wrong checksum": Fault(
        "bad_response", response(gzip.compress(b"picture")[:-8] + bytes(8), content_encoding="gzip")
    ),
    "gzip that is none": Fault("bad_response", response(b"a picture", content_encoding="gzip")),
    "gzip of nothing for ever": Fault(
        "too_many_bytes", endless(GZIP + b"\r\n" + gzip.compress(b"")[:10], b"\0\0\0\xff\xff" * 9999)
    ),
    "gzip and then anything for ever": Fault(
        "too_many_bytes", endless(GZIP + b"\r\n" + gzip.compress(b"picture"), b"x" * 65536)
    ),
    "brotli": Fault("bad_response", response(b"x", content_encoding="br")),
    "zstd in gzip": Fault("bad_response", response(b"x", content_encoding="zstd, gzip")),
    # Redirects
    "a redirect to itself": Fault("redirect_error", redirect("/x")),
    "a redirect to nowhere": Fault("redirect_error", b"HTTP/1.1 302 Found\r\nContent-Length: 0\r\n\r\n"),
    "a redirect to an empty address": Fault("redirect_error", redirect("http://")),
    "a redirect to a file": Fault("redirect_error", redirect("file:///etc/passwd")),
    "a redirect to data": Fault("redirect_error", redirect("data:image/png;base64,AAAA")),
    "a redirect to ftp": Fault("redirect_error", redirect("ftp://127.0.0.1/a.png")),
    "a redirect to gopher": Fault("redirect_error", redirect("gopher://127.0.0.1:6379/_FLUSHALL")),
    "a redirect to a script": Fault("redirect_error", redirect("javascript:alert(1)")),
    "a redirect without a host": Fault("redirect_error", redirect("http:/elsewhere")),
    "a redirect with a user": Fault("redirect_error", redirect("http://user:word@127.0.0.1/")),
    "a redirect with a backslash": Fault("redirect_error", redirect("/\\127.0.0.1/")),
    "a redirect with a control character": Fault("redirect_error", redirect("/a\x01b")),
    "a redirect to a bad port": Fault("redirect_error", redirect("http://127.0.0.1:99999/")),
    "a redirect to a bad host": Fault("redirect_error", redirect("http://[::bad/")),
    "a redirect in bytes": Fault("redirect_error", redirect(b"http://\xc3\x28\xff\x80/")),
    "two redirects at once": Fault("redirect_error", redirect("/a\r\nLocation: /b")),
    "a redirect of 60 kB": Fault("redirect_error", redirect("/" + "x" * 60_000 + "\x01")),
    "a redirect to a name without address": Fault("dns_error", redirect("http://none.test/")),
    "a redirect to a closed door": Fault("connect_error", redirect("http://photos.test:1111/")),
    "300 without a choice": Fault("redirect_error", b"HTTP/1.1 300 Choices\r\nContent-Length: 0\r\n\r\n"),
    "304": Fault("redirect_error", b"HTTP/1.1 304 Not Modified\r\n\r\n"),
}


def _say(*parts: bytes) -> Callable[[socket.socket], socket.socket]:
    """Answer a TLS greeting with bytes and the end of the connection."""

    def wrap(connection: socket.socket) -> socket.socket:
        connection.recv(65536)
        for part in parts:
            connection.sendall(part)
        connection.shutdown(socket.SHUT_WR)
        return connection

    return wrap


def _reset(connection: socket.socket) -> socket.socket:
    connection.recv(65536)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()
    return connection


def _silent(connection: socket.socket) -> socket.socket:
    while connection.recv(65536):
        pass
    return connection


def _drip(connection: socket.socket) -> socket.socket:
    never = threading.Event()
    connection.sendall(b"\x16\x03\x03\x3f\xff\x02\0\x3f\xfb")  # the start of a long ServerHello
    while True:
        connection.sendall(b"\x03")
        never.wait(0.02)


@dataclass(frozen=True)
class TlsFault:
    """A fault of a TLS server: what it does to a connection, or which certificate it shows."""

    code: str
    wrap: Callable[[socket.socket], socket.socket] | None = None
    certificate: str = ""
    said: str = ""
    slow: bool = False


TLS_FAULTS: dict[str, TlsFault] = {
    "a self-signed certificate": TlsFault("tls_error", certificate="self_signed", said="self-signed certificate"),
    "an unknown authority": TlsFault("tls_error", certificate="stranger", said="unable to get local issuer"),
    "another's name": TlsFault("tls_error", certificate="other", said="Hostname mismatch"),
    "an expired certificate": TlsFault("tls_error", certificate="expired", said="certificate has expired"),
    "a certificate of tomorrow": TlsFault("tls_error", certificate="early", said="not yet valid"),
    "a handshake cut": TlsFault("tls_error", _say()),
    "a handshake cut in its middle": TlsFault("tls_error", _say(b"\x16\x03\x03\0\x7a\x02\0")),
    "an alert": TlsFault("tls_error", _say(b"\x15\x03\x03\0\x02\x02\x28")),
    "plain HTTP": TlsFault("tls_error", _say(b"HTTP/1.1 400 Bad Request\r\n\r\n")),
    "a handshake reset": TlsFault("connect_error", _reset),
    "a handshake that never comes": TlsFault("timeout", _silent, slow=True),
    "a handshake byte by byte": TlsFault("timeout", _drip, slow=True),
}


@dataclass(frozen=True)
class DnsFault:
    """A fault of a resolver."""

    code: str
    resolve: Callable[[str, int], list[str]]
    said: str
    slow: bool = False


def _hang(host: str, port: int) -> list[str]:
    threading.Event().wait(HANG_S)
    return []


def _raise(exc: Exception) -> Callable[[str, int], list[str]]:
    def resolve(host: str, port: int) -> list[str]:
        raise exc

    return resolve


def _say_addresses(*addresses: str) -> Callable[[str, int], list[str]]:
    return lambda host, port: list(addresses)


DNS_FAULTS: dict[str, DnsFault] = {
    "no such name": DnsFault(
        "dns_error", _raise(socket.gaierror(socket.EAI_NONAME, "Name or service not known")), "not known"
    ),
    "try again": DnsFault(
        "dns_error",
        _raise(socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")),
        "Temporary failure",
    ),
    "a name too long": DnsFault("dns_error", _raise(UnicodeError("label empty or too long")), "too long"),
    "a resolver with a fault": DnsFault("dns_error", _raise(KeyError("photos.test")), "'photos.test'"),
    "no address": DnsFault("dns_error", _say_addresses(), "has no address"),
    "no answer": DnsFault("dns_error", _hang, "was not resolved in time", slow=True),
    "garbage": DnsFault("dns_error", _say_addresses("\x00\xff"), "which is not an address"),
    "a name for an address": DnsFault("dns_error", _say_addresses("localhost"), "which is not an address"),
    "garbage behind an address": DnsFault("dns_error", _say_addresses("8.8.8.8", "127.1"), "which is not an address"),
    "public and private": DnsFault(
        "blocked_address", _say_addresses("8.8.8.8", "2606:4700::1111", "10.0.0.1"), "a private network"
    ),
    "private in disguise": DnsFault(
        "blocked_address", _say_addresses("8.8.8.8", "64:ff9b::127.0.0.1"), "a form of 127.0.0.1"
    ),
}


class Certificates:
    """An authority for tests and contexts of servers that show its certificates and others."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self.authority = self._make("authority", self._key, issuer=None, days=(-9, 9))

    def server(self, kind: str) -> ssl.SSLContext:
        """Return a server's context: good, self_signed, stranger, other, expired or early."""
        key = ec.generate_private_key(ec.SECP256R1())
        days = {"expired": (-9, -1), "early": (1, 9)}.get(kind, (-1, 9))
        name = "other.test" if kind == "other" else "photos.test"
        issuer = {"self_signed": None, "stranger": ec.generate_private_key(ec.SECP256R1())}.get(kind, self._key)
        certificate = self._make(name, key, issuer, days)
        path = self._folder / f"{kind}.pem"
        path.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
            + certificate.encode()
        )
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(path)
        return context

    def _make(
        self,
        name: str,
        key: ec.EllipticCurvePrivateKey,
        issuer: ec.EllipticCurvePrivateKey | None,
        days: tuple[int, int],
    ) -> str:
        now, is_authority = datetime.datetime.now(datetime.UTC), key is self._key
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        signer = issuer or key
        by = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "authority")]) if issuer else subject
        usage = x509.KeyUsage(
            digital_signature=True, content_commitment=False, key_encipherment=False, data_encipherment=False,
            key_agreement=False, key_cert_sign=is_authority, crl_sign=is_authority, encipher_only=False, decipher_only=False,
        )  # fmt: skip
        names = [x509.DNSName(name), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(by)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now + datetime.timedelta(days[0]))
            .not_valid_after(now + datetime.timedelta(days[1]))
            .add_extension(x509.BasicConstraints(ca=is_authority, path_length=None), critical=True)
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False)
            .add_extension(usage, critical=True)
        )
        return builder.sign(signer, hashes.SHA256()).public_bytes(serialization.Encoding.PEM).decode()
