"""The fake of Google Cloud Storage is as strict as what it stands for: otherwise the tests on it prove nothing."""

import base64
import hashlib
import http.client
import json
import re
import threading

import pytest
from gcs_fake import PART_BYTES_MIN, GcsFake

TOKEN = {"Authorization": "Bearer ya29.test-token"}


@pytest.fixture
def gcs():
    with GcsFake(page=3) as fake:
        fake.make_bucket("b")
        yield fake


def ask(gcs, method, path, body=None, token=TOKEN, **headers):
    connection = http.client.HTTPConnection("127.0.0.1", gcs.server.server_port, timeout=20)
    try:
        named = {name.replace("_", "-"): str(value) for name, value in headers.items()}
        connection.request(method, path, body=body, headers={**token, **named})
        response = connection.getresponse()
        return response.status, dict(response.getheaders()), response.read()
    finally:
        connection.close()


def code(answer) -> str:
    return re.search(rb"<Code>(\w+)</Code>", answer[2]).group(1).decode()


def test_every_request_needs_a_token_that_holds(gcs):
    for token in ({}, {"Authorization": "Bearer no"}, {"Authorization": "Basic ya29.test-token"}):
        for method, path in (("GET", "/b/k"), ("PUT", "/b/k"), ("GET", "/b?list-type=2"), ("POST", "/b/k?uploads")):
            answer = ask(gcs, method, path, b"", token=token)
            assert (answer[0], code(answer)) == (401, "AuthenticationRequired")
    answer = ask(gcs, "GET", "/storage/v1/b/b/o", token={})
    assert answer[0] == 401 and json.loads(answer[2])["error"]["code"] == 401
    gcs.deny("^DELETE ")
    assert code(ask(gcs, "DELETE", "/b/k")) == "AccessDenied"


def test_what_is_not_there_is_told_apart(gcs):
    assert code(ask(gcs, "GET", "/b/k")) == "NoSuchKey"
    assert code(ask(gcs, "GET", "/other/k")) == "NoSuchBucket"
    assert code(ask(gcs, "DELETE", "/b/k")) == "NoSuchKey"
    gcs.requester_pays.add("b")
    assert code(ask(gcs, "GET", "/b/k")) == "UserProjectMissing"
    assert code(ask(gcs, "GET", "/b/k", x_goog_user_project="p")) == "NoSuchKey"


@pytest.mark.parametrize("path", ["/b/k", "/upload/storage/v1/b/b/o?uploadType=media&name=k&ifGenerationMatch=0"])
def test_of_sixteen_creates_at_once_one_wins(gcs, path):
    statuses = []
    method, headers = ("PUT", {"x_goog_if_generation_match": 0}) if path == "/b/k" else ("POST", {})
    creates = [threading.Thread(target=lambda n=n: statuses.append(ask(gcs, method, path, b"%d" % n, **headers)[0])) for n in range(16)]
    for create in creates:
        create.start()
    for create in creates:
        create.join()
    assert sorted(statuses) == [200] + [412] * 15


def test_a_generation_is_a_precondition_and_changes_with_each_write(gcs):
    first = ask(gcs, "PUT", "/b/k", b"1")[1]["x-goog-generation"]
    second = ask(gcs, "PUT", "/b/k", b"2", x_goog_if_generation_match=first)[1]["x-goog-generation"]
    assert int(second) > int(first)
    assert ask(gcs, "PUT", "/b/k", b"3", x_goog_if_generation_match=first)[0] == 412
    assert ask(gcs, "DELETE", "/b/k", x_goog_if_generation_match=first)[0] == 412
    assert ask(gcs, "DELETE", f"/storage/v1/b/b/o/k?ifGenerationMatch={first}")[0] == 412
    assert ask(gcs, "DELETE", "/b/k", x_goog_if_generation_match=second)[0] == 204
    assert ask(gcs, "PUT", "/b/k", b"4", x_goog_if_generation_match="x")[0] == 400


def test_reading_whole_in_part_and_only_if_changed(gcs):
    tag = ask(gcs, "PUT", "/b/a%2Fb%3D1", b"0123456789")[1]["ETag"]
    status, headers, body = ask(gcs, "GET", "/b/a/b%3D1")
    assert (status, body, headers["ETag"]) == (200, b"0123456789", tag) and "Last-Modified" in headers
    assert ask(gcs, "GET", "/b/a/b%3D1", Range="bytes=2-4")[::2] == (206, b"234")
    assert ask(gcs, "GET", "/b/a/b%3D1", Range="bytes=-3")[::2] == (206, b"789")
    assert ask(gcs, "GET", "/b/a/b%3D1", Range="bytes=10-")[0] == 416
    assert ask(gcs, "GET", "/b/a/b%3D1", If_None_Match=tag)[0] == 304
    assert ask(gcs, "GET", "/b/a/b%3D1", If_Match='"other"')[0] == 412
    status, headers, body = ask(gcs, "HEAD", "/b/a/b%3D1")
    assert (status, headers["Content-Length"], body) == (200, "10", b"")
    wrong = base64.b64encode(hashlib.md5(b"x").digest()).decode()
    assert code(ask(gcs, "PUT", "/b/k", b"y", Content_MD5=wrong)) == "BadDigest"


def test_lists_come_in_pages_with_prefixes(gcs):
    for name in ("d/1", "d/2", "d/3", "d/4", "d/sub/5", "e/6"):
        ask(gcs, "PUT", f"/b/{name}", b"x")
    names, token, pages = [], "", 0
    while True:
        more = f"&continuation-token={token}" if token else ""
        text = ask(gcs, "GET", f"/b?list-type=2&prefix=d/{more}")[2].decode()
        names += re.findall("<Key>(.*?)</Key>", text)
        pages += 1
        if "<IsTruncated>false" in text:
            break
        token = re.search("<NextContinuationToken>(.*?)<", text).group(1).replace("=", "%3D")
    assert (names, pages) == (["d/1", "d/2", "d/3", "d/4", "d/sub/5"], 2)
    text = ask(gcs, "GET", "/b?list-type=2&prefix=d/&delimiter=/&start-after=d/3")[2].decode()
    assert "<Key>d/4</Key>" in text and "<CommonPrefixes><Prefix>d/sub/</Prefix>" in text and "d/sub/5" not in text
    listed = json.loads(ask(gcs, "GET", "/storage/v1/b/b/o?prefix=d/&maxResults=2")[2])
    assert [item["name"] for item in listed["items"]] == ["d/1", "d/2"] and listed["nextPageToken"]
    assert ask(gcs, "GET", "/b?list-type=2&colour=red")[0] == 400


def test_an_upload_in_parts_is_checked_part_by_part(gcs):
    def begin():
        return re.search(b"<UploadId>(.*?)<", ask(gcs, "POST", "/b/k?uploads", b"")[2]).group(1).decode()

    def part(upload, number, data):
        return ask(gcs, "PUT", f"/b/k?uploadId={upload}&partNumber={number}", data)[1].get("ETag")

    def complete(upload, *parts):
        xml = "".join(f"<Part><PartNumber>{number}</PartNumber><ETag>{tag}</ETag></Part>" for number, tag in parts)
        return ask(gcs, "POST", f"/b/k?uploadId={upload}", f"<CompleteMultipartUpload>{xml}</CompleteMultipartUpload>".encode())

    assert ask(gcs, "POST", "/b/k?uploads", b"", x_goog_if_generation_match=0)[0] == 400
    upload, large = begin(), b"1" * PART_BYTES_MIN
    first, second = part(upload, 1, large), part(upload, 2, b"end")
    assert code(complete(upload, (2, second), (1, first))) == "InvalidPartOrder"
    assert code(complete(upload, (1, second), (2, second))) == "InvalidPart"
    assert code(complete(upload, (1, first), (3, second))) == "InvalidPart"
    assert ask(gcs, "GET", "/b/k")[0] == 404, "nothing shows before the end"
    assert complete(upload, (1, first), (2, second))[0] == 200
    assert len(ask(gcs, "GET", "/b/k")[2]) == PART_BYTES_MIN + 3
    assert code(complete(upload, (1, first))) == "NoSuchUpload"
    small = begin()
    parts = [(number, part(small, number, b"small")) for number in (1, 2)]
    assert code(complete(small, *parts)) == "EntityTooSmall"
    assert ask(gcs, "DELETE", f"/b/k?uploadId={small}")[0] == 204
    assert ask(gcs, "PUT", f"/b/k?uploadId={small}&partNumber=1", b"x")[0] == 404


def test_a_resumable_upload_keeps_its_state(gcs):
    chunk = b"x" * (256 << 10)
    begin = "/upload/storage/v1/b/b/o?uploadType=resumable&name=k&ifGenerationMatch=0"
    where = ask(gcs, "POST", begin, b"{}")[1]["Location"].removeprefix(gcs.url)
    total = 2 * len(chunk)
    assert ask(gcs, "PUT", where, b"", Content_Range=f"bytes */{total}")[0] == 308
    status, headers, _ = ask(gcs, "PUT", where, chunk, Content_Range=f"bytes 0-{len(chunk) - 1}/*")
    assert (status, headers["Range"]) == (308, f"bytes=0-{len(chunk) - 1}")
    # Asking where it stands does not end it.
    assert ask(gcs, "PUT", where, b"", Content_Range=f"bytes */{total}")[0] == 308
    assert ask(gcs, "PUT", where, b"x", Content_Range="bytes 0-0/*")[0] == 400, "a chunk of another size"
    assert ask(gcs, "GET", "/b/k")[0] == 404
    ask(gcs, "PUT", "/b/k", b"another was quicker")
    last = {"Content_Range": f"bytes {len(chunk)}-{total - 1}/{total}"}
    assert ask(gcs, "PUT", where, chunk, **last)[0] == 412
    ask(gcs, "DELETE", "/b/k")
    assert ask(gcs, "PUT", where, chunk, **last)[0] == 200
    assert len(ask(gcs, "GET", "/b/k")[2]) == total


def test_faults_come_before_the_work_or_after_it(gcs):
    gcs.fail("^PUT /b/k", status=503)
    assert ask(gcs, "PUT", "/b/k", b"1")[0] == 503 and ask(gcs, "GET", "/b/k")[0] == 404
    gcs.fail("^PUT /b/k", status=503, after=True)
    assert ask(gcs, "PUT", "/b/k", b"1")[0] == 503 and ask(gcs, "GET", "/b/k")[0] == 200
    gcs.fail("^GET /b/k", status=None)
    with pytest.raises((http.client.HTTPException, OSError)):
        ask(gcs, "GET", "/b/k")
    assert gcs.take_requests()[-1] == "GET /b/k" and gcs.requests == []
