"""The recipe of docs/pseudonyms.md: does the program in it compute the vectors in it? Needs no server.

A unit test of `privacy::pseudonym` checks the same vectors against the real thing.
"""

import re

import pytest
from harness import REPO

DOCUMENT = (REPO / "docs" / "pseudonyms.md").read_text()
SHARED, ROOT = bytes(range(32)), bytes(range(32, 64))
DESTROYED = "42"


@pytest.fixture(scope="module")
def recipe() -> dict:
    """The names that the document's program defines."""
    [program] = re.findall(r"```python\n(.*?)```", DOCUMENT, re.DOTALL)
    names: dict = {}
    exec(compile(program, "docs/pseudonyms.md", "exec"), names)
    return names


def vectors() -> list[list[str]]:
    rows = [[cell.strip().strip("`") for cell in line.strip("|").split("|")] for line in DOCUMENT.splitlines() if line.startswith("| `")]
    return [cells for cells in rows if len(cells) == 5]


def punctured(recipe: dict, tenant: str) -> list[tuple[int, int, bytes]]:
    """The tree without a tenant: the siblings along the way to its leaf, computed here and not by the document."""
    path = int.from_bytes(recipe["hashlib"].sha256(tenant.encode()).digest()[:8], "big")
    nodes, seed = [], ROOT
    for level in range(64):
        toward = path >> (63 - level) & 1
        sibling = (path >> (63 - level) ^ 1) << (63 - level)
        nodes.append((level + 1, sibling, recipe["mac"](seed, bytes([1 - toward]))))
        seed = recipe["mac"](seed, bytes([toward]))
    return nodes


def test_the_document_has_vectors_of_every_kind():
    assert len(vectors()) >= 8
    assert {purpose for purpose, *_ in vectors()} == {"warehouse", "amplitude"}
    assert {"none", DESTROYED} < {tenant for _, tenant, *_ in vectors()}


@pytest.mark.parametrize(("purpose", "tenant", "text", "before", "after"), vectors())
def test_the_program_computes_the_vectors(recipe, purpose, tenant, text, before, after):
    tenant = None if tenant == "none" else tenant
    assert recipe["pseudonym"](SHARED, [(0, 0, ROOT)], purpose, tenant, text) == before
    expected = {"the same": before, "none": None}[after]
    assert (expected is None) == (tenant == DESTROYED)
    assert recipe["pseudonym"](SHARED, punctured(recipe, DESTROYED), purpose, tenant, text) == expected
