"""Unpacking of hostile and damaged attachments within bounds."""

import base64
import gzip
import struct
import time
import zipfile
import zlib
from contextlib import suppress

import pytest

from mtasts_daemon.errors import (
    ReceivedReportArchive,
    ReceivedReportError,
    ReceivedReportMissing,
    ReceivedReportTooLarge,
)
from mtasts_daemon.tlsrpt.receive.model import DEFAULT_LIMITS, Deviation
from mtasts_daemon.tlsrpt.receive.unpack import attachments, parse_mail, unpack
from tests.tlsrpt.receive.corpus import dumps, mail, packed, report, zipped

TEXT = dumps(report())


def test_gzip_zip_and_plain_text_give_the_same() -> None:
    assert unpack(gzip.compress(TEXT)) == (TEXT, frozenset())
    assert unpack(zipped(TEXT)) == (TEXT, frozenset({Deviation.ZIP_ARCHIVE}))
    assert unpack(TEXT) == (TEXT, frozenset())


def test_gzip_bomb_is_stopped_early() -> None:
    bomb = gzip.compress(b" " * (64 << 20))
    before = time.process_time()
    with pytest.raises(ReceivedReportTooLarge):
        unpack(bomb)
    assert time.process_time() - before < 5


def test_zip_bomb_is_stopped() -> None:
    with pytest.raises(ReceivedReportTooLarge):
        unpack(zipped(b"0" * (64 << 20)))


def test_zip_that_lies_about_its_size_is_stopped() -> None:
    data = bytearray(zipped(b"0" * (64 << 20)))
    for signature, offset in ((b"PK\x03\x04", 22), (b"PK\x01\x02", 24)):
        at = data.index(signature)
        data[at + offset : at + offset + 4] = struct.pack("<I", 100)
    with pytest.raises(ReceivedReportError):
        unpack(bytes(data))


def test_zip_with_many_entries_is_rejected() -> None:
    with pytest.raises(ReceivedReportArchive):
        unpack(zipped(TEXT, ("a.json", "b.json")))
    with pytest.raises(ReceivedReportArchive):
        unpack(zipped(b"", tuple(f"{number}.json" for number in range(5000))))


@pytest.mark.parametrize("inner", [gzip.compress(TEXT), zipped(TEXT)])
def test_archive_in_an_archive_is_rejected(inner: bytes) -> None:
    for outer in (gzip.compress(inner), zipped(inner)):
        with pytest.raises(ReceivedReportArchive):
            unpack(outer)


def test_encrypted_zip_is_rejected() -> None:
    data = bytearray(zipped(TEXT))
    for signature, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        data[data.index(signature) + offset] |= 1
    with pytest.raises(ReceivedReportArchive):
        unpack(bytes(data))


def test_zip_of_an_unusual_method_is_rejected() -> None:
    import io

    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("report.json", TEXT)
    with pytest.raises(ReceivedReportArchive):
        unpack(file.getvalue())


def test_data_after_gzip_is_noted() -> None:
    assert unpack(gzip.compress(TEXT) + b"junk") == (TEXT, frozenset({Deviation.GZIP_TRAILING_DATA}))


def test_second_gzip_member_is_not_read() -> None:
    assert unpack(gzip.compress(TEXT) + gzip.compress(b"more")) == (TEXT, frozenset({Deviation.GZIP_TRAILING_DATA}))


def test_gzip_without_its_end_is_noted() -> None:
    assert unpack(gzip.compress(TEXT)[:-8]) == (TEXT, frozenset({Deviation.GZIP_TRUNCATED}))


def test_damaged_gzip_is_rejected() -> None:
    data = bytearray(gzip.compress(TEXT))
    data[-6] ^= 1
    with pytest.raises(ReceivedReportArchive):
        unpack(bytes(data))


def test_every_prefix_of_an_archive_is_rejected_or_read() -> None:
    for data in (gzip.compress(TEXT), zipped(TEXT)):
        for length in range(len(data)):
            try:
                unpack(data[:length])
            except ReceivedReportError:
                continue


def test_compressed_data_beyond_5_mib_is_rejected() -> None:
    data = gzip.compress(b"", 0)[:-8] + bytes(DEFAULT_LIMITS.compressed)
    with pytest.raises(ReceivedReportError):
        unpack(data)


# -- mails -------------------------------------------------------------------------------------------------


def found(message: bytes) -> tuple[bytes, frozenset[Deviation]]:
    best = attachments(parse_mail(message))[0]
    text, deviations = unpack(best.data)
    return text, deviations | best.deviations


def test_report_mail_of_rfc_8460_has_no_deviations() -> None:
    assert found(mail(packed(report()))) == (TEXT, frozenset())


@pytest.mark.parametrize(
    ("media_type", "name"),
    [
        ("application/gzip", "r.json.gz"),
        ("application/x-gzip", "report.gz"),
        ("application/octet-stream", "r.json.gz"),
        ("text/plain", "r.json.gz"),
        ("application/unheard-of", "r.json.gz"),
        ("application/octet-stream", ""),
    ],
)
def test_attachment_of_another_type_is_found_and_noted(media_type: str, name: str) -> None:
    assert found(mail(packed(report()), media_type=media_type, name=name)) == (
        TEXT,
        frozenset({Deviation.ATTACHMENT_TYPE}),
    )


def test_json_in_the_text_of_a_mail_is_found() -> None:
    message = b"From: a@b.example\r\nContent-Type: text/plain\r\n\r\n" + TEXT
    assert found(message) == (TEXT, frozenset({Deviation.ATTACHMENT_TYPE}))


def test_quoted_printable_json_is_found() -> None:
    import quopri

    head = b"Content-Type: application/tlsrpt+json\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\n"
    assert found(head + quopri.encodestring(TEXT)) == (TEXT, frozenset())


@pytest.mark.parametrize(
    "spoil",
    [
        lambda text: text.rstrip(b"="),
        lambda text: text[:10] + b"!*" + text[10:],
        lambda text: text + b"\r\n--\r\nfooter(",
        lambda text: b"\r\n".join(base64.b64encode(packed(report())[at : at + 50]) for at in range(0, 5000, 50)),
    ],
)
def test_broken_base64_is_read_and_noted(spoil: object) -> None:
    assert callable(spoil)
    text = base64.b64encode(packed(report()))
    head = b"Content-Type: application/tlsrpt+gzip\r\nContent-Transfer-Encoding: base64\r\n\r\n"
    data, deviations = found(head + spoil(text))
    assert data == TEXT
    assert deviations <= {Deviation.BASE64_INVALID, Deviation.GZIP_TRAILING_DATA}


def test_mail_without_report_is_rejected() -> None:
    with pytest.raises(ReceivedReportMissing):
        attachments(parse_mail(b"From: a@b.example\r\n\r\nhello"))


@pytest.mark.parametrize("encoding", [b"8bit", b"quoted-printable", b"x-uuencode", b"base64"])
@pytest.mark.parametrize("charset", [b"charset*=a'b'%ff", b"charset*0*=utf-9''%ff", b"charset=\xff", b"charset=idna"])
def test_attachment_of_a_hostile_charset_is_no_report(charset: bytes, encoding: bytes) -> None:
    head = b"Content-Type: application/json; %b\r\nContent-Transfer-Encoding: %b\r\n\r\n" % (charset, encoding)
    with suppress(ReceivedReportMissing):
        attachments(parse_mail(head + b"\xff\xfe begin \x80\r\n"))


def test_mail_beyond_10_mib_is_rejected() -> None:
    with pytest.raises(ReceivedReportTooLarge):
        parse_mail(b"x" * (DEFAULT_LIMITS.mail + 1))


def test_deeply_nested_mail_is_rejected_quickly() -> None:
    level = "Content-Type: multipart/mixed; boundary=b{0}\r\n\r\n--b{0}\r\n"
    message = "".join(level.format(number) for number in range(2000)) + "x\r\n" * 100_000
    before = time.process_time()
    with pytest.raises(ReceivedReportTooLarge):
        parse_mail(message.encode())
    assert time.process_time() - before < 5


def test_mail_of_many_parts_is_read_in_bounded_time() -> None:
    part = b"--b\r\nContent-Type: application/json\r\n\r\n{}\r\n"
    message = b"Content-Type: multipart/mixed; boundary=b\r\n\r\n" + part * 20_000 + b"--b--\r\n"
    before = time.process_time()
    assert len(attachments(parse_mail(message))) <= 64
    assert time.process_time() - before < 30


def test_ratio_bounds_reports_of_more_than_a_mebibyte() -> None:
    text = b'{"a": "' + b"x" * (3 << 20) + b'"}'
    assert len(gzip.compress(text)) * DEFAULT_LIMITS.ratio < len(text)
    with pytest.raises(ReceivedReportTooLarge):
        unpack(gzip.compress(text))


def test_raw_deflate_and_zlib_are_not_taken_for_json() -> None:
    text, _ = unpack(zlib.compress(TEXT))
    assert text != TEXT
