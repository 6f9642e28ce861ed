"""The address guard, watched at the socket: whatever an address is called, nothing is dialled that may not be.

Every connection that a socket is asked for is written down and none leaves this machine, even with a broken guard: one to
`PUBLIC` is led to the loopback server, every other one is refused.
"""

from __future__ import annotations

import errno
import ipaddress
import socket
import unicodedata
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import httpx
import pytest

from tests.support.server import Server, response
from text_image_similarity import Config, ErrorCode, Limits, RowError
from text_image_similarity.fetch import Fetcher, GuardedTransport, http_url, strip_invisible
from text_image_similarity.fetch.addresses import why_denied

pytestmark = pytest.mark.usefixtures("few_authorities")

PUBLIC = "93.184.215.14"
GUARDED = Config(timeout_s=5.0, retries=0)

# From IANA's special-purpose address registries, by hand: the code has a table of its own.
RANGES = [
    "0.0.0.0", "0.255.255.255", "10.0.0.0", "10.255.255.255", "100.64.0.0", "100.127.255.255", "127.0.0.1",
    "127.255.255.255", "169.254.169.254", "172.16.0.0", "172.31.255.255", "192.0.0.8", "192.0.0.170", "192.0.2.1",
    "192.88.99.1", "192.168.0.0", "192.168.255.255", "198.18.0.0", "198.19.255.255", "198.51.100.7", "203.0.113.7",
    "224.0.0.1", "239.255.255.255", "240.0.0.1", "255.255.255.254", "255.255.255.255",
    "[::]", "[::1]", "[0:0:0:0:0:0:0:1]", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "[::FFFF:10.0.0.1]",
    "[0:0:0:0:0:ffff:a9fe:a9fe]", "[::ffff:8.8.8.8]", "[::ffff:0:127.0.0.1]", "[::127.0.0.1]", "[::8.8.8.8]",
    "[64:ff9b::127.0.0.1]", "[64:ff9b::a9fe:a9fe]", "[64:ff9b:1::8.8.8.8]", "[64:ff9b:1:ffff::10.0.0.1]",
    "[2002:7f00:1::]", "[2002:808:808::1]", "[2001:0:7f00:1::1]", "[2001:0:808:808::f5ff:fffe]",
    "[2001:db8::1]", "[3fff:fff::1]", "[2001:2::1]", "[2001:10::1]", "[2001:1ff::1]", "[100::1]", "[100:0:0:1::1]",
    "[5f00::1]", "[fc00::1]", "[fd00:ec2::254]", "[fdff:ffff::1]", "[fe80::1]", "[febf::1]", "[fec0::1]", "[feff::1]",
    "[ff02::1]", "[ff0e::1]", "[4000::1]", "[200::1]", "[2606:4700::5efe:127.0.0.1]", "[2606:4700::200:5efe:10.0.0.1]",
    "localhost", "LOCALHOST.", "photos.localhost",
]  # fmt: skip
SPELLINGS = [
    "2130706433", "017700000001", "0x7f000001", "0X7F000001", "0177.0.0.1", "0177.0.0.01", "127.0.0.01", "0x7f.0.0.1",
    "0x7f.1", "127.1", "127.0.1", "127.0x1", "0", "0x", "00000127.0.0.1", "127.0.0.1.", "127.1.", "2130706433.",
    "127.0.0.256", "127.0.0.1.1", "4294967295", "99999999999999999999", "photos.example.1", "10.0.0.0x7",
    "１２７.０.０.１", "①②⑦.⓪.⓪.①", "127。0。0。1", "127．0．0．1", "127｡0｡0｡1", "１２７。１", "٠١٢٧", "𝟏𝟐𝟕.𝟎.𝟎.𝟏", "¹²⁷.⁰.⁰.¹",
    "０ｘ７ｆ.1", "127.0.0.1\u200b", "127.0.0\u00ad.1", "ⓛⓞcalhost", "%31%32%37.0.0.1", "127.0.0.1%00", "127.0.0.1%2f",
    "[::1%25lo]", "[fe80::1%25eth0]", "[fe80::1%eth0]", "[::127.1]", "[::ffff:0177.0.0.1]", "[::ffff:127.0.0.1.]",
    "[0::0::1]", "[::１]", "[127.0.0.1]", "[v1.127]", "[::1", "[]", "",
    "user@127.0.0.1", "user:word@127.0.0.1", "@127.0.0.1", "photos.example@127.0.0.1", "photos.example:80@127.0.0.1",
    "photos.example\\@127.0.0.1", "127.0.0.1\\", "127.0.0.1\\.photos.example", "\\127.0.0.1", "127.0.0\t.1", "127.0.0.1 .a",
    "photos.example 127.0.0.1", "photos\u3000.example", "127.0.0.1\x01", "127.0.0.1\x7f", "127.0.0.1\x85.a", ".127.0.0.1",
    "photos..example", "<127.0.0.1>", "127.0.0.1`", "a" * 64 + ".example", "::1",
]  # fmt: skip


class Recorder:
    """Writes down which addresses sockets are asked to connect to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.dialled: list[object] = []
        real = socket.socket.connect_ex

        def connect_ex(self_: socket.socket, address: tuple[str, int]) -> int:
            self.dialled.append(address)
            return real(self_, ("127.0.0.1", address[1])) if address[0] == PUBLIC else errno.ECONNREFUSED

        def connect(self_: socket.socket, address: object) -> None:
            self.dialled.append(address)
            raise ConnectionRefusedError(errno.ECONNREFUSED, "refused by the test")

        def getaddrinfo(*arguments: object, **options: object) -> list[object]:
            self.dialled.append(arguments)
            raise socket.gaierror(socket.EAI_NONAME, "the test asks no resolver")

        monkeypatch.setattr(socket.socket, "connect_ex", connect_ex)
        monkeypatch.setattr(socket.socket, "connect", connect)
        monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> Recorder:
    return Recorder(monkeypatch)


@pytest.fixture
def names() -> dict[str, list[list[str]]]:
    """What the resolver says about a name, question by question; the last answer stays."""
    return {"public.test": [[PUBLIC]]}


@pytest.fixture
def fetcher(names: dict[str, list[list[str]]], recorder: Recorder) -> Iterator[Fetcher]:
    def resolve(host: str, port: int) -> list[str]:
        answers = names[host]
        return answers.pop(0) if len(answers) > 1 else answers[0]

    opened = Fetcher(GUARDED, resolve=resolve)
    yield opened
    opened.close()


def code_of(fetcher: Fetcher, url: str) -> ErrorCode:
    with pytest.raises(RowError) as caught:
        fetcher.fetch(url)
    return caught.value.code


@pytest.mark.parametrize("host", RANGES)
def test_a_denied_address_is_not_dialled(fetcher: Fetcher, recorder: Recorder, host: str) -> None:
    for scheme in ("http", "https"):
        assert code_of(fetcher, f"{scheme}://{host}/secret") == "blocked_address"
    assert recorder.dialled == []


@pytest.mark.parametrize("host", ["10.0.0.1", "[::1]", "localhost", "93.184.215.14:25"])
def test_what_is_known_to_be_denied_costs_no_request(
    fetcher: Fetcher, monkeypatch: pytest.MonkeyPatch, host: str
) -> None:
    monkeypatch.delattr(GuardedTransport, "get")
    assert code_of(fetcher, f"http://{host}/secret") == "blocked_address"


@pytest.mark.parametrize("host", SPELLINGS)
def test_an_odd_spelling_is_not_dialled(fetcher: Fetcher, recorder: Recorder, host: str) -> None:
    for end in ("/secret", "", ":80/", "?a", "#a"):
        url = f"http://{host}{end}"  # at its very end an invisible character is an accident, and the address is checked
        expected = "invalid_url" if strip_invisible(url) == url else "blocked_address"
        assert code_of(fetcher, url) == expected, end
    assert recorder.dialled == []


@pytest.mark.slow
@pytest.mark.parametrize("status", ["301 Moved", "302 Found", "303 See Other", "307 Temporary", "308 Permanent"])
def test_no_redirect_leads_to_a_denied_address(
    server: Server, fetcher: Fetcher, recorder: Recorder, status: str
) -> None:
    server.routes["/secret"] = response(b"secret")
    expected = dict.fromkeys(RANGES, "blocked_address") | dict.fromkeys(SPELLINGS, "redirect_error")
    assert len(expected) >= 60
    for host, code in expected.items():
        for scheme in ("http:", "https:", ""):
            server.routes["/door"] = response(b"", status, location=f"{scheme}//{host}:{server.port}/secret")
            assert code_of(fetcher, f"http://public.test:{server.port}/door") == code, (host, scheme)
    assert set(recorder.dialled) == {(PUBLIC, server.port)}
    assert set(server.hits) == {"/door"}


@pytest.mark.parametrize(
    "host", [*(host for host in RANGES if "local" not in host.lower()), *(host for host in SPELLINGS if host != "::1")]
)
def test_a_name_that_is_bound_anew_is_checked_anew(
    server: Server, fetcher: Fetcher, recorder: Recorder, names: dict[str, list[list[str]]], host: str
) -> None:
    """The name is public when it is checked and something else ever after; what was checked is what is dialled."""
    server.routes["/x"] = response(b"public", connection="close")
    address = host.strip("[]") if host in RANGES else host
    names["rebound.test"] = [[PUBLIC], [address], [PUBLIC, address]]
    assert fetcher.fetch(f"http://rebound.test:{server.port}/x") == b"public"
    assert recorder.dialled == [(PUBLIC, server.port)]
    for _ in range(2):
        expected = "blocked_address" if host in RANGES else "dns_error"
        assert code_of(fetcher, f"http://rebound.test:{server.port}/x") == expected
    assert recorder.dialled == [(PUBLIC, server.port)]
    assert server.hits["/x"] == 1


METADATA = ["169.254.169.254", "168.63.129.16", "100.100.100.200", "192.0.0.192", "[fd00:ec2::254]", "[fd20:ce::254]", "[fe80::1]",
            "[::ffff:169.254.169.254]", "[64:ff9b::168.63.129.16]", "[2002:a9fe:a9fe::]",
            "[fd00:ec2::23]", "[64:ff9b:1:a9fe:a9:fe00::]", "[64:ff9b:1:a9:fe:a9fe::]", "[64:ff9b:1:0:a9:fea9:fe00:0]"]  # fmt: skip


@pytest.mark.parametrize("host", METADATA)
def test_metadata_is_out_of_reach_whatever_is_allowed(recorder: Recorder, host: str) -> None:
    for limits in (
        Limits(),
        Limits(allow_private_addresses=True),
        Limits(allow_networks=("0.0.0.0/0", "::/0", "169.254.0.0/16")),
    ):
        fetcher = Fetcher(replace(GUARDED, limits=limits), resolve=lambda host, port: [PUBLIC, host.strip("[]")])
        assert code_of(fetcher, f"http://{host}/") == "blocked_address"
        named = Fetcher(replace(GUARDED, limits=limits), resolve=lambda *_: [PUBLIC, host.strip("[]")])
        assert code_of(named, "http://named.test/") == "blocked_address"
    assert recorder.dialled == []


def test_a_name_of_very_many_addresses_is_taken_for_its_first_ones(recorder: Recorder) -> None:
    many = [PUBLIC] * 100 + ["10.0.0.1"]
    assert code_of(Fetcher(GUARDED, resolve=lambda *_: many), "http://many.test/") == "connect_error"
    assert code_of(Fetcher(GUARDED, resolve=lambda *_: many[1:]), "http://many.test/") == "blocked_address"
    assert set(recorder.dialled) == {(PUBLIC, 80)}


def test_a_network_is_allowed_without_the_others(recorder: Recorder, names: dict[str, list[list[str]]]) -> None:
    names |= {"inside.test": [["10.1.2.3"]], "other.test": [["10.2.0.1"]]}
    limits = Limits(allow_networks=("10.1.0.0/16", "127.0.0.0/8"))
    fetcher = Fetcher(replace(GUARDED, limits=limits), resolve=lambda host, port: names[host][0])
    for host in ("10.1.0.1", "inside.test", "127.0.0.1"):
        assert code_of(fetcher, f"http://{host}/") == "connect_error"
    assert recorder.dialled == [("10.1.0.1", 80), ("10.1.2.3", 80), ("127.0.0.1", 80)]
    for host in ("10.2.0.1", "other.test", "192.168.0.1", "[::1]", "[::ffff:10.1.0.1]"):
        assert code_of(fetcher, f"http://{host}/") == "blocked_address"
    assert len(recorder.dialled) == 3


@pytest.mark.parametrize("limits", [Limits(), Limits(allow_private_addresses=True)])
def test_ports_that_are_no_web_server_s_are_not_dialled(recorder: Recorder, limits: Limits) -> None:
    for port in (1, 22, 25, 110, 993, 1023):
        fetcher = Fetcher(replace(GUARDED, limits=limits), resolve=lambda *_: [PUBLIC])
        for host in ("public.test", PUBLIC):
            assert code_of(fetcher, f"http://{host}:{port}/") == "blocked_address"
    assert recorder.dialled == []
    opened = Fetcher(replace(GUARDED, limits=replace(limits, allow_ports=(993,))), resolve=lambda *_: [PUBLIC])
    for port in (80, 443, 993, 1024, 65535):
        code_of(opened, f"http://{PUBLIC}:{port}/")
    assert recorder.dialled == [(PUBLIC, port) for port in (80, 443, 993, 1024, 65535)]


@pytest.mark.parametrize("again", ["\u0315\u0300", ".", "a", "xn--", "%61", "１", "["])
def test_long_hosts_are_refused_before_they_are_read(
    fetcher: Fetcher, recorder: Recorder, monkeypatch: pytest.MonkeyPatch, again: str
) -> None:
    """Normal forms of Unicode take time by the square of a run of combining marks, and hold all other threads meanwhile."""

    real = unicodedata.normalize

    def normalize(form: Any, text: str) -> str:
        assert len(text) <= 255, f"{len(text)} characters are brought into {form}"
        return real(form, text)

    monkeypatch.setattr(unicodedata, "normalize", normalize)
    host = "a" + again * (1_000_000 // len(again))
    assert code_of(fetcher, f"http://{host}/") == "invalid_url"
    assert code_of(fetcher, f"http://{host[:300]}/") == "invalid_url"
    assert code_of(fetcher, f"file://{host}/") == "invalid_url"
    for text in (f"//{host}/", f"//{host[:300]}/", f"/{host}", f"http://{host}/"):
        with pytest.raises(ValueError, match="characters, more than"):
            http_url(text, httpx.URL("http://public.test/"))
    assert recorder.dialled == []


def test_the_host_header_keeps_the_name(server: Server, fetcher: Fetcher, recorder: Recorder) -> None:
    server.routes["/x"] = response(b"public")
    assert fetcher.fetch(f"http://Public.Test:{server.port}/x") == b"public"
    assert f"\r\nHost: public.test:{server.port}\r\n" in server.heads[0]
    assert recorder.dialled == [(PUBLIC, server.port)]


@pytest.mark.parametrize("url", ["https://public.test:99999/", "http://public.test:0/", "http://public.test:８０/",
                                 "http://public.test:8_0/", "http://public.test:-1/", "http://public.test:+80/",
                                 "http:/public.test/", "http:public.test", "http:\\\\public.test/", "http://a/b\\c",
                                 "http://xn--/", "http://public.test/\x1fa", "http://user@public.test/",
                                 "http://public.test@public.test/"])  # fmt: skip
def test_urls_that_programs_read_differently(fetcher: Fetcher, recorder: Recorder, url: str) -> None:
    assert code_of(fetcher, url) == "invalid_url"
    assert recorder.dialled == []


@pytest.mark.parametrize("host", ["①②⑦.⓪.⓪.①", "𝟏𝟐𝟕.1", "０ｘ７ｆ", "127。0。0。1", "127.1", "1.2.3.4."])
def test_what_tidying_would_make_an_address_is_known_for_one(fetcher: Fetcher, host: str) -> None:
    with pytest.raises(RowError, match="an address in an unusual spelling"):
        fetcher.fetch(f"http://{host}/")


def test_what_is_no_trick_is_fetched(server: Server, fetcher: Fetcher, names: dict[str, list[list[str]]]) -> None:
    server.routes |= {path: response(b"public") for path in ("/a%20b", "/@a", "/%E4%B8%AD")}
    for name in ("xn--bcher-kva.test", "a_b.test", "7.test", "1.2.3.4.test", "public.test."):
        names[name] = [[PUBLIC]]
    for host in ("bücher.test", "a_b.test", "7.test", "1.2.3.4.test", "public.test.", PUBLIC):
        for path in ("/a b", "/@a", "/中"):
            assert fetcher.fetch(f"http://{host}:{server.port}{path}") == b"public", host + path


@pytest.mark.parametrize("address", ["8.8.8.8", "100.128.0.0", "172.32.0.0", "192.0.1.0", "198.20.0.0", "223.255.255.255",
                                     "2606:4700::1111", "2a00:1450::1", "64:ff9b::8.8.8.8", "2001:200::1",
                                     "2606:4700::5efe:8.8.8.8"])  # fmt: skip
def test_addresses_that_are_public(address: str) -> None:
    assert why_denied(ipaddress.ip_address(address)) is None


@pytest.mark.parametrize(
    ("host", "said"),
    [
        ("10.0.0.7", "10.0.0.7 is in a private network (10.0.0.0/8)"),
        ("100.64.0.1", "100.64.0.1 is in a carrier's shared network (CGNAT) (100.64.0.0/10)"),
        ("[::1]", "::1 is in the loopback range (::1/128)"),
        ("[::ffff:10.0.0.7]", "::ffff:a00:7 is a form of 10.0.0.7, in a private network (10.0.0.0/8)"),
        ("[2002:a9fe:a9fe::]", "a form of 169.254.169.254, in a link-local network (169.254.0.0/16)"),
        ("[2001:0:808:808::f5ff:fffe]", "a form of 10.0.0.1, in a private network (10.0.0.0/8)"),
        ("[2001:0:a00:7::f7f7:f7f7]", "a form of 10.0.0.7, in a private network (10.0.0.0/8)"),
        ("[::10.0.0.7]", "a form of 10.0.0.7"),
        ("[64:ff9b:1::10.0.0.7]", "a form of 10.0.0.7"),
        ("[::ffff:0:10.0.0.7]", "a form of 10.0.0.7"),
        ("[2002:808:808::1]", "in the deprecated 6to4 range (2002::/16)"),
    ],
)
def test_an_error_names_the_range(fetcher: Fetcher, host: str, said: str) -> None:
    with pytest.raises(RowError) as caught:
        fetcher.fetch(f"http://{host}/")
    assert said in caught.value.detail


def test_the_guard_can_be_opened(server: Server) -> None:
    server.routes["/x"] = response(b"private")
    fetcher = Fetcher(replace(GUARDED, limits=Limits(allow_private_addresses=True)))
    assert fetcher.fetch(server.url("/x")) == b"private"
    assert code_of(fetcher, f"http://2130706433:{server.port}/x") == "invalid_url"  # a spelling stays a spelling
    fetcher.close()
