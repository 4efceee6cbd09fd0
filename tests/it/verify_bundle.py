#!/usr/bin/env python3
"""Checks a bundle as src/manual/bundle.md describes it; shares no code with the crate.

usage: verify_bundle.py FILE LOG_VKEY
exit:  0 sound, 1 not, 2 could not check

Hashes need the standard library only. Signatures need the package `cryptography`; without it the
answer says that they were not checked.
"""
import base64
import hashlib
import json
import re
import sys
from datetime import datetime, timezone

try:
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
except ImportError:
    Ed25519PublicKey = None


class Bad(Exception):
    pass


def need(holds, what):
    if not holds:
        raise Bad(what)


def sha(data):
    return hashlib.sha256(data).digest()


def node(left, right):
    return sha(b"\x01" + left + right)


def pairs(items):
    """The object of these names, each of which stands once."""
    need(len({name for name, _ in items}) == len(items), "a name stands twice")
    return dict(items)


ESCAPES = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\r": "\\r", "\t": "\\t"}


def escape(match):
    return ESCAPES.get(match[0]) or "\\u%04x" % ord(match[0])


def spell(value):
    if isinstance(value, dict):
        items = (spell(name) + ":" + spell(value[name]) for name in sorted(value))
        return "{" + ",".join(items) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(spell, value)) + "]"
    if isinstance(value, str):
        return '"' + re.sub('[\x00-\x1f"\\\\\x7f\u2028\u2029]', escape, value) + '"'
    need(type(value) is int, "a value of another kind")
    return str(value)


def field(data):
    return b"\x00" if data is None else b"\x01" + len(data).to_bytes(4, "big") + data


def micros(time):
    need(re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", time), "a time")
    moment = datetime.strptime(time, "%Y-%m-%dT%H:%M:%S.%fZ").replace(tzinfo=timezone.utc)
    since = moment - datetime(1970, 1, 1, tzinfo=timezone.utc)
    return (since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds


def text_of(entry, name):
    return entry[name].encode() if name in entry else None


def hex_of(entry, name):
    return bytes.fromhex(entry[name].replace("-", "")) if name in entry else None


def number(value, size):
    return value.to_bytes(size, "big", signed=True)


def leaf_of(tenant, e):
    row = b"".join(map(field, [
        b"portcullis/row/v1", tenant, number(e["chain"], 4), number(e["seq"], 8), number(e["key"], 4),
        text_of(e, "kind"), number(micros(e["occurred"]), 8), number(micros(e["recorded"]), 8),
        hex_of(e, "event"), text_of(e, "session"), text_of(e, "agent"), text_of(e, "user"),
        hex_of(e, "agent_key"), hex_of(e, "parent"), text_of(e, "model"), hex_of(e, "input_hash"),
        hex_of(e, "output_hash"), text_of(e, "decision"), text_of(e, "metadata"), hex_of(e, "sealed"),
        text_of(e, "ingest"), hex_of(e, "origin_journal"),
        number(e["origin_seq"], 8) if "origin_seq" in e else None, hex_of(e, "origin_mac")]))
    return sha(b"\x00" + row + hex_of(e, "mac"))


def digest_of(tenant, e):
    return sha(b"".join(map(field, [
        b"portcullis/agent-sig/v1", tenant, hex_of(e, "event"), text_of(e, "kind"),
        number(micros(e["occurred"]), 8), text_of(e, "session"), text_of(e, "agent"), text_of(e, "user"),
        hex_of(e, "agent_key"), hex_of(e, "parent"), text_of(e, "model"), hex_of(e, "input_hash"),
        hex_of(e, "output_hash"), text_of(e, "decision"), text_of(e, "metadata")])))


def signature_holds(key, signature, message, what):
    if Ed25519PublicKey is None:
        return
    try:
        Ed25519PublicKey.from_public_bytes(key).verify(signature, message)
    except InvalidSignature:
        raise Bad(what)


def open_note(note, vkey):
    """The text of a note that this key signed."""
    name, _, key = vkey.split("+", 2)
    key = base64.b64decode(key, validate=True)
    key_id = sha(name.encode() + b"\n" + key)[:4]
    text, lines = note.rsplit("\n\n", 1)
    text += "\n"
    found = False
    for line in lines.removesuffix("\n").split("\n"):
        need(line.startswith("\u2014 "), "a signature line")
        signer, blob = line[2:].split(" ")
        blob = base64.b64decode(blob, validate=True)
        if signer == name and blob[:4] == key_id:
            found = True
            signature_holds(key[1:], blob[4:], text.encode(), "a note's signature is wrong")
    need(found, "a note is not signed by " + name)
    return text


def tree_hash(hashes):
    if len(hashes) == 1:
        return hashes[0]
    k = 1
    while k * 2 < len(hashes):
        k *= 2
    return node(tree_hash(hashes[:k]), tree_hash(hashes[k:]))


def consistent(m, n, old, new, proof):
    if m == n:
        return not proof and old == new
    proof = list(proof) if m & (m - 1) else [old] + list(proof)
    fn, sn = m - 1, n - 1
    while fn & 1:
        fn, sn = fn >> 1, sn >> 1
    fr = sr = proof[0]
    for c in proof[1:]:
        if sn == 0:
            return False
        if fn & 1 or fn == sn:
            fr, sr = node(c, fr), node(c, sr)
            while not fn & 1 and fn:
                fn, sn = fn >> 1, sn >> 1
        else:
            sr = node(sr, c)
        fn, sn = fn >> 1, sn >> 1
    return sn == 0 and fr == old and sr == new


def path_of(level, number, width):
    groups = []
    while True:
        groups.insert(0, number % 1000)
        number //= 1000
        if not number:
            break
    path = "".join("x%03d/" % g for g in groups[:-1]) + "%03d" % groups[-1]
    return "tile/%d/%s%s" % (level, path, "" if width == 256 else ".p/%d" % width)


class Tree:
    """Tiles, each believed once it is under one that is."""

    def __init__(self, size, root):
        self.size, self.root, self.tiles = size, root, {}
        self.edge, count, level = [], size, 0
        while count:
            if count % 256:
                self.edge.append((level, count // 256, count % 256))
            count, level = count // 256, level + 1

    def begin(self, lines):
        peaks = []
        for (level, n, width), line in zip(self.edge, lines):
            need(line["path"] == path_of(level, n, width), "another tile at the edge")
            self.keep(level, n, line, width)
        for level, n, width in reversed(self.edge):  # the highest first: from left to right
            hashes, at = self.tiles[level][1], 0
            for bit in reversed(range(8)):
                if width >> bit & 1:
                    peaks.append(tree_hash(hashes[at:at + (1 << bit)]))
                    at += 1 << bit
        root = peaks.pop()
        while peaks:
            root = node(peaks.pop(), root)
        need(root == self.root, "the edge does not make the root")
        self.begun = {(level, n) for level, n, _ in self.edge}
        self.edges = {level: self.tiles.pop(level) for level, _, _ in self.edge}

    def keep(self, level, n, line, width):
        data = base64.b64decode(line["hashes"], validate=True)
        need(len(data) == 32 * width, "the width of a tile")
        self.tiles[level] = (n, [data[i:i + 32] for i in range(0, len(data), 32)])

    def at(self, level, index):
        for tiles in (self.edges, self.tiles):
            n, hashes = tiles.get(level, (None, []))
            if n == index // 256:
                return hashes[index % 256]
        raise Bad("a tile is missing")

    def missing(self, leaf):
        missing, n, level = [], leaf // 256, 0
        while (level, n) not in self.begun and self.tiles.get(level, (None,))[0] != n:
            missing.insert(0, (level, n))
            n, level = n // 256, level + 1
        return missing

    def take(self, leaf, line):
        level, n = self.missing(leaf)[0]
        need(line["path"] == path_of(level, n, 256), "not the tile of the next leaf")
        self.keep(level, n, line, 256)
        need(tree_hash(self.tiles[level][1]) == self.at(level + 1, n), "a tile is not in the tree")


def check(path, log):
    hasher, lines, sealed = hashlib.sha256(), [], None
    with open(path, "rb") as file:
        for raw in file:
            need(raw.endswith(b"\n") and sealed is None, "the end of the file")
            line = json.loads(raw, object_pairs_hook=pairs, parse_float=lambda _: need(False, "a float"))
            need(spell(line).encode() + b"\n" == raw and len(line) == 1, "another spelling")
            (kind, value), = line.items()
            lines.append((kind, value))
            if kind == "seal":
                sealed = value
            else:
                hasher.update(raw)
    need(sealed, "no seal")
    lines.pop()
    order = ["bundle", "checkpoint", "anchor", "key", "tile", "entry", "withheld", "former"]
    need({kind for kind, _ in lines} <= set(order), "an unknown line")
    (_, head) = lines[0]
    need(lines[0][0] == "bundle" and head["format"] == "portcullis/bundle/v1", "no bundle")
    need(head["log"] == log, "another log")
    size, root = head["size"], base64.b64decode(head["root"], validate=True)
    tenant, last, keys, tree, edge = head["tenant"].encode(), 0, {}, None, []
    leaf = entries = withheld = signed = 0
    for kind, value in lines[1:]:
        if kind == "checkpoint":
            origin, n, at = open_note(value["note"], log).split("\n")[:3]
            need(origin == log.split("+")[0] and last < int(n) <= size, "a checkpoint")
            proof = [base64.b64decode(h, validate=True) for h in value["consistency"]]
            need(consistent(int(n), size, base64.b64decode(at), root, proof), "not consistent")
            last = int(n)
        elif kind == "anchor":
            need(value["size"] == last, "an anchor of another tree")
        elif kind == "key":
            keys[value["agent"], value["id"]] = value
        elif kind == "tile" and tree is None or kind == "tile" and len(edge) < len(tree.edge):
            tree = tree or Tree(size, root)
            edge.append(value)
            if len(edge) == len(tree.edge):
                tree.begin(edge)
        elif kind == "tile":
            tree.take(leaf, value)
        elif kind == "withheld":
            need(value["from"] == leaf and value["count"] > 0, "a leaf is missing")
            leaf, withheld = leaf + value["count"], withheld + value["count"]
        elif kind == "entry":
            need(value["leaf"] == leaf and not tree.missing(leaf), "a leaf or a tile is missing")
            need(leaf_of(tenant, value) == tree.at(0, leaf), "leaf %d is not in the tree" % leaf)
            need(("agent_key" in value) == ("signature" in value), "half a signature")
            if "signature" in value:
                key = keys[value["agent"], value["agent_key"]]
                need("not_after" not in key or value["recorded"] <= key["not_after"], "a revoked key")
                signature_holds(hex_of(key, "public"), hex_of(value, "signature"),
                                digest_of(tenant, value), "an agent's signature is wrong")
                signed += 1
            leaf, entries = leaf + 1, entries + 1
    need(last == size == leaf, "not every leaf, or no checkpoint of the tree")
    for (agent, _), key in keys.items():
        said = [v for k, v in lines if k == "entry" and v["leaf"] == key["registered"]]
        need(said and said[0]["kind"] == "identity.key_registered" and said[0]["agent"] == agent
             and json.loads(said[0]["metadata"])["public_key"] == key["public"], "a key is not on record")
    text = "portcullis/bundle/v1\nsha256 %s\nsize %d\nroot %s\nentries %d\nwithheld %d\n" % (
        hasher.hexdigest(), size, base64.b64encode(root).decode(), entries, withheld)
    need(open_note(sealed["note"], head["signer"]) == text, "the seal is of another file")
    return entries, withheld, signed


def main():
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    try:
        entries, withheld, signed = check(sys.argv[1], sys.argv[2])
    except OSError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
    except (Bad, KeyError, ValueError, TypeError, IndexError) as error:
        print("not sound: %r" % error)
        sys.exit(1)
    checked = "checked" if Ed25519PublicKey else "NOT checked: no package cryptography"
    print("sound: entries %d, withheld %d, signed %d; signatures %s" % (entries, withheld, signed, checked))


if __name__ == "__main__":
    main()
