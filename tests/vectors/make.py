"""Writes the golden vectors of format 1 from docs/format.md, without any code of Cairn.

Needs: pip install blake3 cryptography argon2-cffi. Run in this folder: python3 make.py
"""
import hashlib
import json
import struct
from pathlib import Path

from argon2.low_level import Type, hash_secret_raw
from blake3 import blake3
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

REPOSITORY = bytes(range(0x20, 0x40))
OTHER = bytes(range(0x40, 0x60))
MASTER = bytes(range(32))
SALT = bytes([0x5A]) * 32
DATA, NODES, MANIFEST, NOTE, PLAN = 1, 2, 3, 4, 5
WINDOW = 2 << 20
CREATED = "2026-11-20T08:00:00Z"


def write(case, expect, data, **fields):
    lines = [f"expect: {expect}"] + [f"{key}: {value}" for key, value in fields.items()]
    path = Path(__file__).parent / (case + ".hex")
    path.parent.mkdir(exist_ok=True)
    digits = data.hex()
    rows = [digits[at : at + 96] for at in range(0, len(digits), 96)]
    path.write_text("\n".join(lines + [""] + rows) + "\n")


def keyed(key, data):
    return blake3(data, key=key).digest()


def subkey(use, master):
    return blake3(master, derive_key_context="cairn 1 " + use).digest()


def chunk_id(data, master):
    return keyed(subkey("chunk ids", master), data)


def node_id(data, master):
    return keyed(subkey("node ids", master), data)


def seal(kind, ordinal, data, salt=SALT, repository=REPOSITORY, master=MASTER):
    key = keyed(subkey("file keys", master), bytes([kind]) + salt)
    nonce = struct.pack("<QI", ordinal, 0)
    aad = repository + struct.pack("<BHQ", kind, 1, ordinal)
    return AESGCM(key).encrypt(nonce, data, aad)


def document(kind, data, **changes):
    head = b"CAIRNDOC" + struct.pack("<HB5x", 1, kind) + SALT
    return head + seal(kind, 0, data, **changes)


# Packs -------------------------------------------------------------------------------------------


def zstd_of_one_byte(byte, length):
    """One zstd frame (RFC 8878): single segment, content size of two bytes, one RLE block."""
    header = b"\x28\xb5\x2f\xfd\x60" + struct.pack("<H", length - 256)
    block = struct.pack("<I", length << 3 | 1 << 1 | 1)[:3]
    return header + block + bytes([byte])


class Pack:
    """A pack of two frames: two chunks compressed, then one chunk plain."""

    def __init__(self, sealed=False, kind=DATA):
        self.sealed, self.kind = sealed, kind
        self.magic, self.version, self.flags, self.zero = b"CAIRNPAK", 1, int(sealed), 0
        master = MASTER if sealed else b""
        make_id = chunk_id if kind == DATA else node_id
        chunks = [b"A" * 600, b"A" * 400, b"plain chunk"]
        if kind == NODES:
            chunks[2] = leaf([(0, 600, chunk_id(b"A" * 600, master))])
        self.entries = [(make_id(chunk, master), len(chunk)) for chunk in chunks]
        self.frames = [(zstd_of_one_byte(0x41, 1000), 1000, 2, 1), (chunks[2], len(chunks[2]), 1, 0)]
        self.counts = None
        self.order = [0, 1]
        self.gap = b""
        self.salt = SALT

    def header(self):
        head = self.magic + struct.pack("<HBBI", self.version, self.kind, self.flags, self.zero)
        return head + self.salt

    def seal(self, ordinal, data):
        return seal(self.kind, ordinal, data) if self.sealed else data

    def footer(self):
        tag = 16 if self.sealed else 0
        rows = struct.pack("<II", *(self.counts or (len(self.frames), len(self.entries))))
        for stored, plain_len, count, codec in self.frames:
            rows += struct.pack("<IIHB5x", len(stored) + tag, plain_len, count, codec)
        for entry, length in self.entries:
            rows += entry + struct.pack("<I", length)
        return self.seal(2**64 - 1, rows)

    def bytes(self):
        header, footer = self.header(), self.footer()
        stored = [self.seal(at, frame[0]) for at, frame in enumerate(self.frames)]
        length = struct.pack("<I", len(footer))
        hash = blake3(header + footer + length, derive_key_context="cairn 1 pack footer").digest()
        trailer = length + bytes(4) + hash + b"CAIRNEND"
        return header + b"".join(stored[at] for at in self.order) + self.gap + footer + trailer


def packs():
    def case(name, expect, change=lambda pack: None, damage=lambda data: data, **fields):
        sealed = fields.pop("sealed", False)
        pack = Pack(sealed, fields.pop("kind", DATA))
        change(pack)
        data = damage(pack.bytes())
        id = blake3(data).hexdigest()
        repository = "encrypted" if fields.pop("read_sealed", sealed) else "plain"
        write("pack/" + name, expect, data, repository=repository, id=id, **fields)

    def set(**values):
        return lambda pack: pack.__dict__.update(values)

    def frame(at, **values):
        def change(pack):
            names = ["stored", "plain_len", "count", "codec"]
            row = dict(zip(names, pack.frames[at])) | values
            pack.frames[at] = tuple(row[name] for name in names)
        return change

    def entry(at, value):
        return lambda pack: pack.entries.__setitem__(at, value)

    def flip(at):
        return lambda data: data[:at] + bytes([data[at] ^ 1]) + data[at:][1:]

    case("plain", "ok")
    case("sealed", "ok", sealed=True)
    case("nodes", "ok", kind=NODES)
    case("nodes_sealed", "ok", kind=NODES, sealed=True)
    case("bad_magic", "BadMagic", set(magic=b"CAIRNPAC"))
    case("bad_end_magic", "BadMagic", damage=flip(-1))
    case("newer_version", "UnsupportedVersion", set(version=2))
    case("unknown_kind", "UnsupportedFeature", set(kind=9))
    case("unknown_flag", "UnsupportedFeature", set(flags=2))
    case("reserved_in_header", "Malformed", set(zero=1))
    case("unsealed_in_encrypted", "Malformed", read_sealed=True)
    case("sealed_in_plain", "Malformed", sealed=True, read_sealed=False)
    case("changed_salt", "ChecksumMismatch", damage=flip(20))
    case("changed_footer", "ChecksumMismatch", damage=flip(-60))
    case("changed_trailer_hash", "ChecksumMismatch", damage=flip(-20))
    case("swapped_frames", "AuthenticationFailed", set(order=[1, 0]), sealed=True)
    case("changed_frame_sealed", "AuthenticationFailed", damage=flip(50), sealed=True)
    case("changed_frame_plain", "ChecksumMismatch", damage=flip(62))
    case("salt_of_another_file", "AuthenticationFailed", set(salt=bytes(32)), sealed=True)
    case("wrong_chunk_id", "ChecksumMismatch", entry(2, (bytes(32), 11)))
    case("reserved_codec", "UnsupportedFeature", frame(0, codec=2))
    case("unknown_codec", "UnsupportedFeature", frame(0, codec=3))
    case("wrong_plain_length", "Malformed", frame(0, plain_len=1001))
    case("wrong_content_size", "Malformed", frame(0, stored=zstd_of_one_byte(0x41, 999)))
    case("expanding_frame", "Malformed", frame(1, codec=1))
    case("frame_without_chunks", "OutOfRange", frame(1, count=0))
    case("too_many_chunks_in_frame", "Malformed", frame(1, count=2))
    case("chunk_of_no_frame", "Malformed", lambda pack: pack.entries.append((bytes(32), 1)))
    case("empty_chunk", "OutOfRange", entry(0, (bytes(32), 0)))
    case("giant_chunk", "OutOfRange", entry(0, (bytes(32), (4 << 20) + 1)))
    case("gap_before_footer", "Malformed", set(gap=b"\0"))
    case("no_frames", "OutOfRange", set(frames=[], entries=[], order=[]))
    case("four_billion_entries", "OutOfRange", set(counts=(2**32 - 1, 2**32 - 1)))
    case("more_entries_than_bytes", "Truncated", set(counts=(2, 4)))
    case("fewer_entries_than_bytes", "Malformed", set(counts=(2, 2)))
    case("cut_short", "BadMagic", damage=lambda data: data[:-1])
    case("cut_to_header", "Truncated", damage=lambda data: data[:40])


# Recipes -----------------------------------------------------------------------------------------


def leaf(rows, zero=0, count=None):
    data = struct.pack("<I", zero << 8) + struct.pack("<I", len(rows) if count is None else count)
    data += b"".join(struct.pack("<I", offset) for offset, _, _ in rows)
    data += b"".join(struct.pack("<I", length) for _, length, _ in rows)
    return data + b"".join(id for _, _, id in rows)


def inner(level, rows, count=None):
    data = struct.pack("<II", level, len(rows) if count is None else count)
    data += bytes(slot for slot, _, _, _ in rows)
    data += b"".join(struct.pack("<Q", size) for _, size, _, _ in rows)
    data += b"".join(struct.pack("<Q", chunks) for _, _, chunks, _ in rows)
    return data + b"".join(id for _, _, _, id in rows)


def recipes():
    one, two = bytes([1]) * 32, bytes([2]) * 32

    def case(name, expect, data, window=WINDOW):
        ids = {"node_id": node_id(data, b"").hex()} if expect == "ok" else {}
        write("recipe/" + name, expect, data, window=window, **ids)

    case("empty_leaf", "ok", leaf([]))
    case("leaf", "ok", leaf([(0, 65536, one), (65536, 1, two), (WINDOW - 1, 4 << 20, one)]))
    case("leaf_in_wide_window", "ok", leaf([(WINDOW, 1, one)]), window=2 * WINDOW)
    case("inner", "ok", inner(1, [(0, 100, 3, one), (255, 1, 1, two)]))
    case("inner_full", "ok", inner(4, [(slot, 9, 2, one) for slot in range(256)]))
    case("reserved", "Malformed", leaf([], zero=1))
    case("trailing_byte", "Malformed", leaf([]) + b"\0")
    case("level_5", "OutOfRange", inner(5, [(0, 1, 1, one)]))
    case("leaf_count_huge", "OutOfRange", leaf([], count=2**32 - 1))
    case("leaf_count_short", "Truncated", leaf([(0, 1, one)], count=2))
    case("leaf_descending", "Malformed", leaf([(10, 1, one), (9, 1, two)]))
    case("leaf_overlap", "Malformed", leaf([(10, 5, one), (14, 1, two)]))
    case("leaf_empty_chunk", "OutOfRange", leaf([(0, 0, one)]))
    case("leaf_giant_chunk", "OutOfRange", leaf([(0, (4 << 20) + 1, one)]))
    case("leaf_past_window", "OutOfRange", leaf([(WINDOW, 1, one)]))
    case("inner_no_children", "OutOfRange", inner(1, []))
    case("inner_257_children", "OutOfRange", inner(1, [], count=257))
    case("inner_descending", "Malformed", inner(1, [(2, 1, 1, one), (1, 1, 1, two)]))
    case("inner_repeated", "Malformed", inner(1, [(1, 1, 1, one), (1, 1, 1, one)]))
    case("inner_child_without_data", "OutOfRange", inner(1, [(0, 0, 0, one)]))
    case("inner_more_chunks_than_bytes", "OutOfRange", inner(1, [(0, 1, 2, one)]))
    case("inner_too_much_data", "OutOfRange", inner(1, [(0, WINDOW + (4 << 20) + 1, 2, one)]))
    case("cut_short", "Truncated", leaf([(0, 1, one)])[:-1])


# Documents ---------------------------------------------------------------------------------------


def manifest(**changes):
    disk = {
        "target": "vda", "size": 1 << 30, "recipe": "03" * 32, "data_bytes": 4096, "chunks": 2,
        "mode": "incremental",
        "source": {"kind": "qcow2", "location": "/vm.qcow2", "bitmap": "daily"},
        "read_bytes": 65536, "dirty_bytes": 4096, "reused_bytes": 0, "new_chunks": 2,
        "new_bytes": 4096, "stored_bytes": 2**64 - 1,
    }
    disk.update(changes.pop("disk", {}))
    whole = {
        "version": 1, "vm": "web", "time": CREATED, "parent": "04" * 32, "host": "host-1",
        "program": "cairn 0.1.0", "tags": {"kind": "daily"}, "disks": [disk],
        "metadata": {"domain": "<domain/>"},
    }
    whole.update(changes)
    return json.dumps(whole).encode()


def manifests():
    def case(name, expect, data, **fields):
        write("manifest/" + name, expect, data, **fields)

    disk = json.loads(manifest())["disks"][0]
    case("one_disk", "ok", manifest(), vm="web", targets="vda")
    case("first_of_its_line", "ok", manifest(parent=None, disks=[]), vm="web", targets="")
    case("with_ordinal", "ok", manifest(ordinal=2**53), vm="web", targets="vda")
    case("giant_ordinal", "OutOfRange", manifest(ordinal=2**53 + 1))
    case("unknown_members", "ok", manifest(site="north", disk={"serial": 7}), vm="web", targets="vda")
    case("torn_disk", "ok", manifest(disk={"torn": "/vm.qcow2 was written to"}), vm="web", targets="vda")
    case("newer_version", "UnsupportedVersion", b'{"version":2,"vm":7}')
    case("no_version", "BadDocument", b"{}")
    case("cut_short", "BadDocument", manifest()[:-1])
    case("trailing_text", "BadDocument", manifest() + b"x")
    case("repeated_member", "BadDocument", manifest()[:-1] + b',"vm":"other"}')
    case("repeated_target", "Malformed", manifest(disks=[disk, disk]))
    case("empty_name", "Malformed", manifest(vm=""))
    case("name_with_slash", "Malformed", manifest(disk={"target": "../etc"}))
    case("giant_disk", "OutOfRange", manifest(disk={"size": 2**50 + 1}))
    case("more_data_than_disk", "OutOfRange", manifest(disk={"size": 4095}))
    case("negative_size", "BadDocument", manifest(disk={"size": -1}))
    case("short_recipe", "BadDocument", manifest(disk={"recipe": "03" * 31}))
    case("upper_case_recipe", "BadDocument", manifest(disk={"recipe": "AB" * 32}))
    case("unknown_mode", "BadDocument", manifest(disk={"mode": "mirror"}))
    file = {"name": "nvram", "size": 540672, "recipe": "05" * 32, "data_bytes": 16384, "chunks": 1}
    domain = {
        "uuid": "4dea22b3-1d52-d8f3-2516-782e98ab3fa0", "hypervisor": "qemu+ssh://host-1/system",
        "checkpoint": "cairn-1", "checkpoint_time": 1795000000, "method": "pull",
        "consistency": "agent", "machine": "pc-q35-9.2", "cpu": "host-model",
        "left_out": [{"target": "sda", "reason": "a CD-ROM"}], "not_saved": ["the state of its TPM"],
    }
    identity = {
        "path": "/vm.qcow2", "format": "qcow2", "device": 2**64 - 1, "inode": 7, "bitmap": "cairn-1",
    }
    known = {"disk": {"identity": identity, "doubt": "no checkpoint"}, "files": [file]}
    case("domain", "ok", manifest(domain=domain, **known), vm="web", targets="vda", files="nvram")
    least = {"uuid": "u", "hypervisor": "test:///default", "method": "offline", "consistency": "crash"}
    disk = {"identity": {"path": "", "format": ""}}
    case("least_domain", "ok", manifest(domain=least, disk=disk), vm="web", targets="vda", files="")
    left_out = [{"target": "sda", "reason": "a CD-ROM", "kind": "cdrom"}]
    data = manifest(
        domain=domain | {"title": "Web", "left_out": left_out}, files=[file | {"mode": 384}],
        disk={"identity": identity | {"birth": 9}},
    )
    case("domain_unknown_members", "ok", data, vm="web", targets="vda", files="nvram")
    case("newer_method", "UnsupportedFeature", manifest(domain=domain | {"method": "mirror"}))
    case("newer_consistency", "UnsupportedFeature", manifest(domain=domain | {"consistency": "app"}))
    case("domain_without_uuid", "BadDocument", manifest(domain={"method": "pull"}))
    user = {"hypervisor": "qemu+ssh://root@host-1/system"}
    case("hypervisor_with_user", "Malformed", manifest(domain=domain | user))
    case("repeated_file", "Malformed", manifest(files=[file, file]))
    case("file_name_with_slash", "Malformed", manifest(files=[file | {"name": "a/b"}]))
    case("more_data_than_file", "OutOfRange", manifest(files=[file | {"size": 16383}]))


def notes():
    def case(name, expect, kind, **changes):
        whole = {"version": 1, "snapshot": "04" * 32, "time": CREATED, "kind": kind} | changes
        fields = {"kind": kind, "what": changes.get("what", "")} if expect == "ok" else {}
        write("note/" + name, expect, json.dumps(whole).encode(), **fields)

    case("forgotten", "ok", "forgotten")
    case("pinned", "ok", "pinned", what="instant 7 host-1")
    case("verified", "ok", "verified", what="data", seconds=7)
    case("proved", "ok", "proved", what="booted")
    case("disproved", "ok", "disproved", what="boot: silent", site="north")
    case("mistrusted", "ok", "mistrusted", what="vda")
    case("mistrusted_without_what", "Malformed", "mistrusted")
    case("unknown_kind", "ok", "archived", what="tape", shelf=7)
    case("newer_version", "UnsupportedVersion", "proved", version=2)
    case("proved_without_what", "Malformed", "proved")
    case("disproved_without_what", "Malformed", "disproved")
    case("forgotten_with_what", "Malformed", "forgotten", what="x")
    case("what_is_no_text", "BadDocument", "disproved", what=7)
    case("short_snapshot", "BadDocument", "forgotten", snapshot="04" * 31)
    case("no_time", "BadDocument", "forgotten", time=None)


def config(master, mac_master=None, **changes):
    encryption = {
        "cipher": "aes-256-gcm", "kdf": "argon2id", "memory_kib": 64, "passes": 1, "lanes": 1,
        "salt": SALT.hex(),
    }
    whole = {
        "format": 1, "repository_id": REPOSITORY.hex(), "created": CREATED,
        "chunker": {"algorithm": "fastcdc-v2020", "normalization": 2, "average": 16384},
        "frame_len": 131072, "pack_len": 67108864, "compression": {"codec": "zstd", "level": 1},
        "encryption": encryption if master else None, "incompatible": [], "compatible": [],
        "mac": "0" * 64,
    }
    whole.update(changes)
    zeroed = json.dumps(whole, indent=1)
    mac = keyed(subkey("config mac", master if mac_master is None else mac_master), zeroed.encode())
    return zeroed.replace("0" * 64, mac.hex()).encode()


def configs():
    def case(name, expect, data, master=b""):
        write("config/" + name, expect, data, master=master.hex())

    case("plain", "ok", config(b""))
    case("encrypted", "ok", config(MASTER), MASTER)
    case("not_compressed", "ok", config(b"", compression={"codec": "none"}))
    case("unknown_member", "ok", config(b"", site={"name": "north"}, compatible=["hints"]))
    case("parity", "ok", config(b"", parity_percent=5))
    case("too_much_parity", "OutOfRange", config(b"", parity_percent=101))
    case("other_master", "AuthenticationFailed", config(MASTER), OTHER)
    case("changed_member", "AuthenticationFailed", config(b"").replace(b"131072", b"131073"))
    case("added_space", "AuthenticationFailed", config(b"") + b" ")
    case("without_mac", "BadDocument", config(b"").replace(b'"mac"', b'"max"'))
    case("encryption_taken_off", "AuthenticationFailed", config(b"", mac_master=OTHER))
    case("newer_format", "UnsupportedVersion", b'{"format":2,"incompatible":7}'.replace(b"7", b"[]"))
    case("incompatible", "UnsupportedFeature", config(b"", incompatible=["bases"]))
    chunker = {"algorithm": "seqcdc", "normalization": 2, "average": 16384}
    case("unknown_chunker", "UnsupportedFeature", config(b"", chunker=chunker))
    chunker = {"algorithm": "fastcdc-v2020", "normalization": 2, "average": 20000}
    case("odd_average", "Malformed", config(b"", chunker=chunker))
    case("giant_frame", "OutOfRange", config(b"", frame_len=1 << 30))
    case("unknown_codec", "UnsupportedFeature", config(b"", compression={"codec": "lz4"}))


# Keys --------------------------------------------------------------------------------------------


def slot(passphrase, repository=REPOSITORY, **changes):
    passphrase_key = hash_secret_raw(passphrase, SALT, 1, 64, 1, 32, Type.ID, version=0x13)
    salt = bytes([0x77]) * 32
    wrapped = AESGCM(keyed(passphrase_key, salt)).encrypt(
        bytes(12), MASTER, repository + b"key slot"
    )
    whole = {
        "version": 1, "kind": "passphrase", "label": "ops", "created": CREATED,
        "salt": salt.hex(), "wrapped": wrapped.hex(),
    }
    whole.update(changes)
    return json.dumps(whole).encode()


def keys():
    def case(name, expect, data, passphrase="correct horse"):
        fields = {"memory_kib": 64, "passes": 1, "lanes": 1, "salt": SALT.hex()}
        write("keys/" + name, expect, data, passphrase=passphrase, master=MASTER.hex(), **fields)

    case("slot", "ok", slot(b"correct horse"))
    case("slot_not_ascii", "ok", slot("pässwort".encode()), "pässwort")
    case("wrong_passphrase", "WrongPassword", slot(b"correct horse"), "battery staple")
    case("other_repository", "WrongPassword", slot(b"correct horse", repository=OTHER))
    case("unknown_kind", "WrongPassword", slot(b"correct horse", kind="smart card"))
    case("newer_version", "UnsupportedVersion", slot(b"correct horse", version=2))
    case("short_wrap", "BadDocument", slot(b"correct horse", wrapped="00" * 47))


def derived():
    data = b"some bytes"
    for name, master in [("plain", b""), ("encrypted", MASTER)]:
        gear = blake3(b"", key=subkey("gear", master)).digest(2048)
        if not master:
            table = [hashlib.md5(bytes([value]) * 64).digest()[:8] for value in range(256)]
            gear = b"".join(word[::-1] for word in table)
        write(
            "derived/" + name, "ok", data, master=master.hex(),
            chunk_id=chunk_id(data, master).hex(), node_id=node_id(data, master).hex(),
            config_mac=keyed(subkey("config mac", master), data).hex(), gear=gear.hex(),
        )


def sealed():
    def case(name, expect, data, kind=MANIFEST):
        write("sealed/" + name, expect, data, kind=kind, plain=b'{"version":1}'.hex())

    plain = b'{"version":1}'
    good = document(MANIFEST, plain)
    case("manifest", "ok", good)
    case("note", "ok", document(NOTE, plain), NOTE)
    case("gc_plan", "ok", document(PLAN, plain), PLAN)
    case("bare_document", "BadMagic", plain + bytes(60))
    case("newer_version", "UnsupportedVersion", good[:8] + b"\2" + good[9:])
    case("kind_of_another_place", "Malformed", good, NOTE)
    case("relabelled_kind", "AuthenticationFailed", good[:10] + bytes([NOTE]) + good[11:], NOTE)
    case("reserved", "Malformed", good[:12] + b"\1" + good[13:])
    case("changed_salt", "AuthenticationFailed", good[:16] + b"\0" + good[17:])
    case("changed_ciphertext", "AuthenticationFailed", good[:48] + b"\0" + good[49:])
    case("changed_tag", "AuthenticationFailed", good[:-1] + bytes([good[-1] ^ 1]))
    case("other_repository", "AuthenticationFailed", document(MANIFEST, plain, repository=OTHER))
    case("other_master", "AuthenticationFailed", document(MANIFEST, plain, master=OTHER))
    case("other_ordinal", "AuthenticationFailed", good[:48] + seal(MANIFEST, 1, plain))
    case("without_tag", "AuthenticationFailed", good[:60])
    case("cut_in_salt", "Truncated", good[:47])


# Parity ------------------------------------------------------------------------------------------

BETA = [int(word, 16) for word in (
    "0001 acca 3c0e 163e c582 ed2e 914c 4012 6c98 10d8 6a72 b900 fdb8 fb34 ff38 991e").split()]


def field():
    """Returns logarithms and powers of the elements, by their numbers."""
    polynomial = [0] * 65536
    for number in range(65536):
        for bit, beta in enumerate(BETA):
            if number >> bit & 1:
                polynomial[number] ^= beta
    number_of = {value: number for number, value in enumerate(polynomial)}
    logs, powers, power = [0] * 65536, [], 1
    for exponent in range(65535):
        logs[number_of[power]] = exponent
        powers.append(number_of[power])
        power <<= 1
        if power >> 16:
            power ^= 0x1002D
    return logs, powers


def elements(block):
    for at in range(0, len(block), 64):
        for low, high in zip(block[at : at + 32], block[at + 32 : at + 64]):
            yield low | high << 8


def block_of(values):
    out = b""
    for at in range(0, len(values), 32):
        out += bytes(value & 255 for value in values[at : at + 32])
        out += bytes(value >> 8 for value in values[at : at + 32])
    return out


def spare_blocks(members, count, logs, powers):
    """Evaluates, at the first elements, the polynomials through each run of members."""
    run = 1
    while run < count:
        run *= 2
    spares = [[0] * 2048 for _ in range(count)]
    for index, member in enumerate(members):
        own = index + run
        others = [point for point in range(own // run * run, (own // run + 1) * run)]
        others.remove(own)
        below = sum(logs[own ^ point] for point in others)
        values = list(elements(member))
        for at, spare in enumerate(spares):
            factor = sum(logs[at ^ point] for point in others) - below
            for place, value in enumerate(values):
                if value:
                    spare[place] ^= powers[(logs[value] + factor) % 65535]
    return [block_of(spare) for spare in spares]


def parity_of(pack, percent, logs, powers):
    """Returns the directory as it stands at the beginning, and the whole file."""
    name = blake3(pack).digest()

    def check(number, block):
        first = int.from_bytes(blake3(block, key=name).digest()[:8], "little")
        return struct.pack("<Q", (first + number) % 2**64)

    blocks = [pack[at : at + 4096].ljust(4096, b"\0") for at in range(0, len(pack), 4096)]
    groups = -(-len(blocks) // 1024)
    members = -(-len(blocks) // groups)
    spares = -(-members * percent // 100)
    head = b"CAIRNPAR" + struct.pack("<HHIQ", 1, 0, 4096, len(pack)) + name
    head += struct.pack("<II", groups, spares)
    table = b"".join(check(number, block) for number, block in enumerate(blocks))
    records, number = b"", len(blocks)
    for group in range(groups):
        own = [blocks[at] for at in range(group, len(blocks), groups)]
        for spare in spare_blocks(own, spares, logs, powers):
            records += check(number, spare) + spare
            number += 1
    digest = parity_hash(head + table)
    return head + table + digest, head + table + digest + records + digest + table + head


def parity_hash(data):
    return blake3(data, derive_key_context="cairn 1 parity").digest()


def parities():
    logs, powers = field()
    for name, length, percent in [
        ("one_block", 1000, 1), ("five_blocks", 20000, 40), ("eleven_blocks", 45000, 25),
        ("as_much", 20480, 100), ("two_groups", (4 << 20) + 1, 1),
    ]:
        pack = blake3(b"pack").digest(length)
        directory, whole = parity_of(pack, percent, logs, powers)
        write(
            "parity/" + name, "ok", directory, pack=blake3(pack).hexdigest(),
            length=length, percent=percent, file=blake3(whole).hexdigest(),
        )
    pack = blake3(b"pack").digest(20000)
    good, _ = parity_of(pack, 40, logs, powers)

    def case(name, expect, changed, rehash=True):
        data = changed + parity_hash(changed) if rehash else changed
        write("parity/" + name, expect, data, pack=blake3(pack).hexdigest())

    body = good[:-32]

    def with_field(at, form, value):
        data = struct.pack(form, value)
        return body[:at] + data + body[at + len(data) :]

    case("bad_magic", "BadMagic", b"CAIRNPAK" + body[8:])
    case("newer_version", "UnsupportedVersion", with_field(8, "<H", 2))
    case("reserved", "Malformed", with_field(10, "<H", 1))
    case("other_block_length", "Malformed", with_field(12, "<I", 8192))
    case("empty_pack", "OutOfRange", with_field(16, "<Q", 0))
    case("giant_pack", "OutOfRange", with_field(16, "<Q", (1 << 30) + 1))
    case("other_pack", "Malformed", with_field(24, "<32s", bytes(32)))
    case("no_groups", "Malformed", with_field(56, "<I", 0))
    case("too_many_groups", "Malformed", with_field(56, "<I", 2))
    case("no_parity_blocks", "OutOfRange", with_field(60, "<I", 0))
    case("more_parity_than_pack", "OutOfRange", with_field(60, "<I", 6))
    case("short_table", "Truncated", body[:-8])
    case("long_table", "Malformed", body + bytes(8))
    case("changed_check", "ChecksumMismatch", good[:70] + b"\0" + good[71:], False)
    case("cut_in_head", "Truncated", good[:60], False)


for group in (packs, recipes, manifests, notes, configs, keys, derived, sealed, parities):
    group()
