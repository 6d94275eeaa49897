"""Compiles HLSL compute shaders to DXIL with DXC, with the arguments wgpu passes. Called by scripts/check-shaders.sh:

    dxc.py LIBDXCOMPILER FILE.hlsl...

One line for each shader that fails; the exit code is 1 if any did.
"""

import ctypes
import re
import sys
import uuid
from ctypes import POINTER, byref, c_int32, c_size_t, c_uint32, c_void_p, c_wchar_p

COMPILER = uuid.UUID("73e22d93-e6ce-47f3-b5bf-f0664f39c1b0")
COMPILER3 = uuid.UUID("228b4687-5a6a-4730-900c-9702b2203f54")
RESULT = uuid.UUID("58346cda-dde7-4497-9461-6f87af5e0659")


class Buffer(ctypes.Structure):
    _fields_ = [("pointer", c_void_p), ("size", c_size_t), ("encoding", c_uint32)]


def call(this, slot, restype, argtypes, *args):
    """The method in a slot of a COM object's table; 0 to 2 are those of IUnknown."""
    table = ctypes.cast(this, POINTER(POINTER(c_void_p))).contents
    return ctypes.CFUNCTYPE(restype, c_void_p, *argtypes)(table[slot])(this, *args)


def text(blob):
    if not blob:
        return ""
    return ctypes.string_at(call(blob, 3, c_void_p, []), call(blob, 4, c_size_t, [])).decode(errors="replace").strip("\0\n ")


def compile_shader(compiler, source, entry):
    """What is wrong with an entry point, or None."""
    model = "cs_6_2" if re.search(r"\bhalf[234]?\b", source) else "cs_6_0"
    # -Vd: signing needs a library that exists on Windows only.
    words = ["-E", entry, "-T", model, "-HV", "2018", "-no-warnings", "-Vd"]
    words += ["-enable-16bit-types"] if model == "cs_6_2" else []
    data = source.encode()
    utf8 = 65001
    buffer = Buffer(ctypes.cast(ctypes.c_char_p(data), c_void_p), len(data), utf8)
    result = c_void_p()
    types = [POINTER(Buffer), POINTER(c_wchar_p), c_uint32, c_void_p, ctypes.c_char_p, POINTER(c_void_p)]
    code = call(compiler, 3, c_int32, types, byref(buffer), (c_wchar_p * len(words))(*words), len(words), None, RESULT.bytes_le, byref(result))
    if code != 0:
        return f"DXC gave up with {code & 0xFFFFFFFF:#x}"
    status, errors, output = c_int32(), c_void_p(), c_void_p()
    call(result, 3, c_int32, [POINTER(c_int32)], byref(status))
    call(result, 5, c_int32, [POINTER(c_void_p)], byref(errors))
    if status.value != 0:
        return text(errors) or f"status {status.value & 0xFFFFFFFF:#x}"
    call(result, 4, c_int32, [POINTER(c_void_p)], byref(output))
    if not output or ctypes.string_at(call(output, 3, c_void_p, []), 4) != b"DXBC":
        return "no DXIL container came out"
    return None


def main():
    library = ctypes.CDLL(sys.argv[1])
    compiler = c_void_p()
    code = library.DxcCreateInstance(COMPILER.bytes_le, COMPILER3.bytes_le, byref(compiler))
    if code != 0:
        sys.exit(f"DXC cannot be started: {code & 0xFFFFFFFF:#x}")
    # A compiler that accepts anything would prove nothing.
    if compile_shader(compiler, "[numthreads(1, 1, 1)] void main() { undeclared = 1; }", "main") is None:
        sys.exit("DXC accepted a broken shader")
    passed = failed = 0
    for path in sys.argv[2:]:
        with open(path, encoding="utf-8") as file:
            source = file.read()
        entries = re.findall(r"\[numthreads\([^)]*\)\]\s*void\s+(\w+)\s*\(", source)
        problems = [p for p in (compile_shader(compiler, source, entry) for entry in entries) if p]
        if problems or not entries:
            failed += 1
            print(f"{path}: {problems[0] if problems else 'no entry point'}")
        else:
            passed += 1
    print(f"DXC: {passed} passed, {failed} failed")
    sys.exit(1 if failed or not passed else 0)


main()
