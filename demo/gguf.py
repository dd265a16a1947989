"""GGUF version 3, the little of it that the demo model needs: write one, read it back.

Weights are F16 and norms F32. A tensor's shape is stored with the fastest dimension first, the
reverse of numpy's.
"""

import struct

import numpy as np

MAGIC, VERSION, ALIGNMENT = b"GGUF", 3, 32
U32, F32, BOOL, STRING, ARRAY, I32 = 4, 6, 7, 8, 9, 5
TYPE_F32, TYPE_F16 = 0, 1


def pack_string(text):
    data = text.encode()
    return struct.pack("<Q", len(data)) + data


def pack_value(value):
    """A metadata value with its type; a list is an array of strings or of 32-bit integers."""
    if isinstance(value, bool):
        return struct.pack("<IB", BOOL, value)
    if isinstance(value, int):
        return struct.pack("<II", U32, value)
    if isinstance(value, float):
        return struct.pack("<If", F32, value)
    if isinstance(value, str):
        return struct.pack("<I", STRING) + pack_string(value)
    kind = STRING if isinstance(value[0], str) else I32
    head = struct.pack("<IIQ", ARRAY, kind, len(value))
    return head + b"".join(
        pack_string(item) if kind == STRING else struct.pack("<i", item) for item in value)


def write(path, metadata, tensors):
    """metadata: {key: value}; tensors: {name: float32 array}, two-dimensional ones become F16."""
    head = MAGIC + struct.pack("<IQQ", VERSION, len(tensors), len(metadata))
    for key, value in metadata.items():
        head += pack_string(key) + pack_value(value)
    body = b""
    for name, array in tensors.items():
        matrix = array.ndim == 2
        data = array.astype("<f2" if matrix else "<f4").tobytes()
        shape = array.shape[::-1]
        head += pack_string(name) + struct.pack(f"<I{len(shape)}Q", len(shape), *shape)
        head += struct.pack("<IQ", TYPE_F16 if matrix else TYPE_F32, len(body))
        body += data + bytes(-len(data) % ALIGNMENT)
    with open(path, "wb") as file:
        file.write(head + bytes(-len(head) % ALIGNMENT) + body)


class Reader:
    def __init__(self, data):
        self.data, self.at = data, 0

    def take(self, form):
        values = struct.unpack_from("<" + form, self.data, self.at)
        self.at += struct.calcsize("<" + form)
        return values[0] if len(values) == 1 else values

    def string(self):
        size = self.take("Q")
        self.at += size
        return self.data[self.at - size:self.at].decode()

    def value(self, kind):
        if kind == STRING:
            return self.string()
        if kind == ARRAY:
            of, count = self.take("I"), self.take("Q")
            return [self.value(of) for _ in range(count)]
        return self.take({U32: "I", I32: "i", F32: "f", BOOL: "?"}[kind])


def read(path):
    """Returns metadata and tensors, the tensors as float32 in numpy's order."""
    with open(path, "rb") as file:
        data = file.read()
    reader = Reader(data)
    reader.at = 4
    version, tensor_count, key_count = reader.take("IQQ")
    if data[:4] != MAGIC or version != VERSION:
        raise SystemExit(f"{path}: not a GGUF file of version {VERSION}")
    metadata = {}
    for _ in range(key_count):
        key = reader.string()
        metadata[key] = reader.value(reader.take("I"))
    infos = []
    for _ in range(tensor_count):
        name = reader.string()
        shape = [reader.take("Q") for _ in range(reader.take("I"))]
        infos.append((name, shape[::-1], reader.take("I"), reader.take("Q")))
    start = -(-reader.at // ALIGNMENT) * ALIGNMENT
    tensors = {}
    for name, shape, kind, offset in infos:
        count = int(np.prod(shape))
        flat = np.frombuffer(data, "<f2" if kind == TYPE_F16 else "<f4", count, start + offset)
        tensors[name] = flat.reshape(shape).astype(np.float32)
    return metadata, tensors
